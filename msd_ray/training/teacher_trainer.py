"""Training a teacher from scratch, for data small enough that none has to be brought along."""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from torch import Tensor

from msd_ray.conditions import Conditions, conditioned
from msd_ray.data import Samples, Split
from msd_ray.diffusion import Churn, Masked, Noise, edm_loss, masked_loss
from msd_ray.errors import TrainingError
from msd_ray.networks import DenoiserSpec
from msd_ray.networks.embedding import told
from msd_ray.ranges import BelowOne, Count, Images, ImagesOrNone, LogSigma, Rate, Seed, Spread, Threads, within
from msd_ray.rng import derived_seed, stream
from msd_ray.teachers import TRAINED
from msd_ray.training.adam import Adam
from msd_ray.training.ema import EMAConfig, update
from msd_ray.training.gpu_memory import FOR_TEACHERS, enough_memory
from msd_ray.training.metrics import Averages, Metric
from msd_ray.training.reading import Ahead, Reader
from msd_ray.training.state import State, bytes_of, tensors_of


@dataclass(frozen=True)
class TeacherConfig:
    """EDM training (arXiv 2206.00364, table 1): images, batch, lr and warmup (in images) of Adam, P_mean and P_std of
    the noise. steps, churn: of the Heun sampler that the teacher is judged with. guidance: of a teacher of prompts that
    is brought, away from the empty prompt (arXiv 2207.12598); 1 for none. dropped: share of the images whose class a
    teacher of classes that is trained here is not told, so that it can do without one. threads: torch threads on a CPU.
    source: "trained" here, one of `msd_ray.teachers.sources.SOURCES` or module:Class; options: of the source, where
    there is one. Recipes may say `from`, the path of a file or directory, instead of the source."""

    seed: Seed = 0
    images: Images = 200_000
    batch: Count = 128
    lr: Rate = 1e-3
    warmup: ImagesOrNone = 10_000
    p_mean: LogSigma = -1.2
    p_std: Spread = 1.2
    ema: EMAConfig = field(default_factory=lambda: EMAConfig(halflife=20_000))
    steps: Annotated[int, within(ge=1, le=10_000)] = 18
    churn: Churn = field(default_factory=Churn)
    guidance: Annotated[float, within(ge=0, le=1000)] = 1.0
    dropped: BelowOne = 0.0
    threads: Threads = 1
    source: str = TRAINED
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def origin(self) -> str:
        """Where it comes from, for messages."""
        return str(self.options.get("path", self.source))

    def __post_init__(self) -> None:
        if self.options and self.source == TRAINED:
            raise ValueError("options are those of a source; a teacher that is trained here has none")
        if self.guidance != 1 and self.source == TRAINED:
            raise ValueError("guidance: a teacher that is trained here never sees an empty prompt; write guidance=1")
        if self.dropped and self.source != TRAINED:
            raise ValueError("dropped: a teacher that is brought is not trained here; leave it out")


_UNCHECKED = 64
"""Losses on a GPU that are looked at together, since that waits for all that it has to do."""


class TeacherTrainer:
    """Trains a teacher; the learning rate decays to zero as a cosine. The result is `ema`."""

    def __init__(
        self,
        config: TeacherConfig,
        spec: DenoiserSpec,
        noise: Noise,
        data: Split,
        conditions: Conditions,
        device: torch.device | str = "cpu",
    ) -> None:
        self.config, self.noise, self.device = config, noise, torch.device(device)
        self._encode = conditions.encode
        self._data, self._ahead = Reader(data, self.device), Ahead(self._drawn)
        torch.manual_seed(derived_seed(config.seed, "teacher weights"))
        self.denoiser = conditioned(spec.build(), conditions).to(self.device)
        self.ema = copy.deepcopy(self.denoiser).eval().requires_grad_(False)
        self.optimizer = Adam(self.denoiser.parameters(), config.lr)
        self.nimg = 0
        self._unchecked: list[tuple[int, Tensor]] = []
        self._check_every = 1 if self.device.type == "cpu" else _UNCHECKED
        self.wall_seconds = self.cpu_seconds = 0.0

    @property
    def done(self) -> bool:
        return self.nimg >= self.config.images

    def advance(self, images: int, hurried: Callable[[], bool] = lambda: False) -> list[Metric]:
        """Trains on at least `images` more images, or to the end, or until `hurried()`; returns the mean loss.

        Raises TrainingError where the loss is no longer finite, or the GPU's memory not enough.
        """
        averages, end = Averages(), self.nimg + images
        wall, cpu = time.perf_counter(), time.process_time()
        while not self.done and self.nimg < end and not hurried():
            with enough_memory("the teacher", FOR_TEACHERS):
                averages.add({"cross_entropy" if self._of_tokens else "edm": self._step()})
            if len(self._unchecked) >= self._check_every:
                self._check_losses()
        self._check_losses()
        self.wall_seconds += time.perf_counter() - wall
        self.cpu_seconds += time.process_time() - cpu
        return averages.take("teacher", self.nimg)

    def bytes(self) -> int:
        """The memory that it holds on its device between two updates."""
        weights = [*self.denoiser.parameters(), *self.denoiser.buffers(), *self.ema.parameters(), *self.ema.buffers()]
        return bytes_of([*weights, *self.optimizer.tensors().values(), *self._data.tensors])

    def rest(self) -> None:
        """Keeps nothing that was read ahead."""
        self._ahead.rest()

    def state_dict(self) -> State:
        tensors = {
            "denoiser": tensors_of(self.denoiser),
            "ema": tensors_of(self.ema),
            "optimizer": self.optimizer.tensors(),
        }
        return State(tensors, {"nimg": self.nimg, "wall_seconds": self.wall_seconds, "cpu_seconds": self.cpu_seconds})

    def load_state_dict(self, state: State) -> None:
        self.nimg = state.meta["nimg"]
        self.wall_seconds, self.cpu_seconds = state.meta["wall_seconds"], state.meta["cpu_seconds"]
        self.denoiser.load_state_dict(state.tensors["denoiser"])
        self.ema.load_state_dict(state.tensors["ema"])
        self.optimizer.load(state.tensors["optimizer"])

    def _step(self) -> Tensor:
        c = self.config
        real, rng = self._draw()
        torch.manual_seed(derived_seed(c.seed, "dropout", self.nimg))
        loss = self._loss(real, rng)
        loss.backward()  # type: ignore[no-untyped-call]
        self._unchecked.append((self.nimg, loss.detach()))
        self.optimizer.lr = c.lr * self._schedule()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.nimg += c.batch
        update(self.ema, self.denoiser, c.ema.decay(self.nimg, c.batch))
        return loss.detach()

    @property
    def _of_tokens(self) -> bool:
        return isinstance(self.denoiser.preconditioning, Masked)

    def _loss(self, real: Samples, rng: torch.Generator) -> Tensor:
        """Of tokens the cross-entropy, of other samples EDM's."""
        c, condition = self.config, self._condition(real, rng)
        if self._of_tokens:
            return masked_loss(self.denoiser, real.x, condition, rng)
        noise = {"sigma_data": self.noise.sigma_data, "p_mean": c.p_mean, "p_std": c.p_std}
        return edm_loss(self.denoiser, real.x, condition, rng, **noise)

    def _condition(self, real: Samples, rng: torch.Generator) -> Tensor:
        """What the denoiser is told of the samples."""
        condition, dropped = self._encode(real.condition), self.config.dropped
        if not dropped:
            return condition
        known = torch.rand(len(condition), generator=rng, device=rng.device) >= dropped
        return told(condition, known.to(real.x.dtype), self.denoiser.classes)

    def _check_losses(self) -> None:
        """Raises TrainingError where one of those since the last check is not finite: so are all that follow it."""
        if not self._unchecked:
            return
        finite = torch.stack([loss for _, loss in self._unchecked]).isfinite().tolist()
        images, self._unchecked = [nimg for nimg, _ in self._unchecked], []
        if not all(finite):
            nimg = images[finite.index(False)]
            raise TrainingError(f"the teacher's loss is not finite at {nimg} images; lower teacher.lr")

    def _draw(self) -> tuple[Samples, torch.Generator]:
        """A batch of real samples, and the stream that it came from."""
        if self._data.is_held:
            return self._drawn(self.nimg)
        return self._ahead.get("teacher", self.nimg, self.nimg + self.config.batch)

    def _drawn(self, nimg: int) -> tuple[Samples, torch.Generator]:
        rng = stream(self.config.seed, "teacher", nimg, device=self.device)
        chosen = torch.randint(len(self._data), (self.config.batch,), generator=rng, device=self.device)
        return self._data.take(chosen, rng), rng

    def _schedule(self) -> float:
        """Linear warm-up, then a cosine to zero at the last image."""
        warm = min(1.0, (self.nimg + self.config.batch) / max(self.config.warmup, 1))
        return warm * 0.5 * float(1 + torch.cos(torch.tensor(torch.pi * self.nimg / self.config.images)))
