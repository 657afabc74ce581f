"""The trainer of one student: a generator, its fake score and discriminator, and the stages they go through."""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn, optim

from msd_ray.data import Samples
from msd_ray.diffusion import Noise
from msd_ray.errors import TrainingError
from msd_ray.networks import DenoiserSpec, discriminator_head
from msd_ray.objectives import OBJECTIVES, Batch, Loss, Nets, Objective
from msd_ray.random import derived_seed, stream
from msd_ray.teachers import Teacher
from msd_ray.training.config import StageConfig, TrainingConfig
from msd_ray.training.ema import update
from msd_ray.training.metrics import Averages, Metric
from msd_ray.training.state import State, Tensors, load_optimizer, tensors_of, tensors_of_optimizer


@dataclass(frozen=True)
class StudentSpec:
    """Everything that a student's future depends on, beside the teacher and the data.

    index: the student's number, which its random streams derive from. conditions: the classes it owns.
    """

    index: int
    seed: int
    conditions: tuple[int, ...]
    denoiser: DenoiserSpec
    stages: dict[str, StageConfig]
    training: TrainingConfig = TrainingConfig()
    noise: Noise = Noise()

    @property
    def images(self) -> int:
        """Length of the whole training in generator images."""
        return sum(stage.images for stage in self.stages.values())

    def stage_at(self, nimg: int) -> tuple[str, int]:
        """The stage that trains the image after the first `nimg`, and where that stage began."""
        begin = 0
        for name, stage in self.stages.items():
            if nimg < begin + stage.images:
                return name, begin
            begin += stage.images
        raise ValueError(f"training ends at {begin} images")

    def objective(self, stage: str) -> Objective:
        config = self.stages[stage]
        objective: Objective = OBJECTIVES[config.objective](noise=self.noise, **config.options)
        return objective


class StudentTrainer:
    """Trains one student. Its clock is `nimg`, the images its generator was updated on.

    Every random number comes from a stream named by (seed, student, nimg, purpose), so a trainer restored from a
    checkpoint goes on exactly as the one that wrote it.
    """

    def __init__(
        self,
        spec: StudentSpec,
        teacher: Teacher,
        initial: Tensors | None = None,
        real: Samples | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        """initial: the weights that generator and fake score start from (fresh ones if None). real: real samples of
        the student's classes, where an objective needs them."""
        self.spec, self.teacher, self.device = spec, teacher, torch.device(device)
        self.nimg = 0
        self.metrics: list[Metric] = []
        torch.manual_seed(derived_seed(spec.seed, spec.index, "initial weights"))
        generator = spec.denoiser.build(spec.training.precision).to(self.device).eval()
        if initial is not None:
            generator.load_state_dict(initial)
        self.ema = copy.deepcopy(generator).requires_grad_(False)
        self.nets = Nets(generator, copy.deepcopy(generator))
        self._conditions = torch.tensor(spec.conditions, device=self.device)
        self._real = real and Samples(real.x.to(self.device), real.condition.to(self.device))
        self._averages = Averages()
        self._stage = ""

    @property
    def done(self) -> bool:
        return self.nimg >= self.spec.images

    @property
    def stage(self) -> str:
        """Name of the stage that trained the last image; empty before the first."""
        return self._stage

    def advance(self, images: int) -> list[Metric]:
        """Trains on at least `images` more images, or to the end; returns what it logged meanwhile.

        Raises TrainingError where a gradient is no longer finite.
        """
        begin, logged = self.nimg, len(self.metrics)
        wall, cpu = time.perf_counter(), time.process_time()
        while not self.done and self.nimg < begin + images:
            self._step()
            if self.nimg % self.spec.training.log_every < self._config.batch or self.done:
                self.metrics += self._averages.take(self._stage, self.nimg)
        for name, seconds in [("wall_seconds", time.perf_counter() - wall), ("cpu_seconds", time.process_time() - cpu)]:
            self.metrics.append(Metric(self._stage, self.nimg, name, seconds))
        return self.metrics[logged:]

    def state_dict(self) -> State:
        parts = {
            "generator": tensors_of(self.nets.generator),
            "ema": tensors_of(self.ema),
            "fake": tensors_of(self.nets.fake),
        }
        if self._stage:
            parts["generator_optimizer"] = tensors_of_optimizer(self._generator_optimizer)
            parts["fake_optimizer"] = tensors_of_optimizer(self._fake_optimizer)
        if self.nets.head is not None:
            parts["head"] = tensors_of(self.nets.head)
        rows = [[m.stage, m.nimg, m.name, m.value] for m in self.metrics]
        return State(parts, {"nimg": self.nimg, "stage": self._stage, "metrics": rows})

    def load_state_dict(self, state: State) -> None:
        self.nimg = state.meta["nimg"]
        self.metrics = [Metric(*row) for row in state.meta["metrics"]]
        head = self._new_head() if "head" in state.parts else None  # kept through stages that do not use it
        self.nets, self._stage = Nets(self.nets.generator, self.nets.fake, head), ""
        if state.meta["stage"]:
            self._enter(state.meta["stage"])
            load_optimizer(self._generator_optimizer, state.parts["generator_optimizer"])
            load_optimizer(self._fake_optimizer, state.parts["fake_optimizer"])
        modules: dict[str, nn.Module | None] = {
            "generator": self.nets.generator,
            "ema": self.ema,
            "fake": self.nets.fake,
            "head": self.nets.head,
        }
        for name, module in modules.items():
            if module is not None:
                module.load_state_dict(state.parts[name])

    def _enter(self, stage: str) -> None:
        """Begins a stage: its objective, a discriminator if it needs one, fresh optimizers."""
        self._stage, self._config = stage, self.spec.stages[stage]
        self._objective = self.spec.objective(stage)
        head = self.nets.head
        if self._objective.needs.head and head is None:
            head = self._new_head()
        self.nets = Nets(self.nets.generator, self.nets.fake, head)
        self._generator_optimizer = self._optimizer(list(self.nets.generator.parameters()), self._config.generator_lr)
        self._fake_optimizer = self._optimizer(self._fake_parameters(), self._config.fake_lr)

    def _new_head(self) -> nn.Module:
        torch.manual_seed(derived_seed(self.spec.seed, self.spec.index, "head"))
        return discriminator_head(self.nets.fake.network.bottleneck_shape).to(self.device)

    def _optimizer(self, parameters: list[nn.Parameter], lr: float) -> optim.Optimizer:
        c = self._config
        return optim.AdamW(parameters, lr=lr, betas=c.betas, weight_decay=c.weight_decay, fused=True)

    def _fake_parameters(self) -> list[nn.Parameter]:
        head = self.nets.head
        return [*self.nets.fake.parameters(), *(head.parameters() if head is not None else [])]

    def _step(self) -> None:
        """One generator update and the fake score's updates that go with it.

        The teacher is asked before the fake score trains and read after: G does not change in between.
        """
        stage, begin = self.spec.stage_at(self.nimg)
        if stage != self._stage:
            self.metrics += self._averages.take(self._stage, self.nimg)
            self._enter(stage)
        c, objective = self._config, self._objective
        warm = min(1.0, (self.nimg - begin + c.batch) / max(c.warmup, 1))
        rng = self._stream("generator")
        batch = self._batch(rng)
        draft = objective.draft(self.nets, batch, rng)
        asks = objective.needs.teacher != "none"
        answer = self.teacher.submit(draft.x_t, draft.sigma, draft.condition) if asks else None
        for i in range(c.fake_steps):
            fake_rng = self._stream(f"fake {i}")
            loss = objective.fake_loss(self.nets, self._batch(fake_rng), fake_rng)
            self._update(self._fake_optimizer, self._fake_parameters(), loss, c.fake_lr * warm)
        teacher_x0 = answer.result() if answer else None
        loss = self._frozen_fake(lambda: objective.generator_loss(self.nets, draft, batch, teacher_x0, rng))
        self._update(self._generator_optimizer, list(self.nets.generator.parameters()), loss, c.generator_lr * warm)
        self.nimg += c.batch
        update(self.ema, self.nets.generator, self.spec.training.ema.decay(self.nimg, c.batch))

    def _frozen_fake(self, compute: Callable[[], Loss]) -> Loss:
        """The generator's loss, without gradients for the weights of fake score and discriminator."""
        parameters = self._fake_parameters()
        for p in parameters:
            p.requires_grad_(False)
        loss = compute()
        for p in parameters:
            p.requires_grad_(True)
        return loss

    def _update(self, optimizer: optim.Optimizer, parameters: list[nn.Parameter], loss: Loss, lr: float) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss.total.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(parameters, self._config.clip)
        if not torch.isfinite(norm):
            raise TrainingError(
                f"student {self.spec.index}: the gradient is not finite at {self.nimg} images in stage {self._stage}; "
                "lower the learning rates of this stage"
            )
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        self._averages.add(loss.parts)

    def _stream(self, purpose: str) -> torch.Generator:
        return stream(self.spec.seed, self.spec.index, self.nimg, purpose, device=self.device)

    def _batch(self, rng: torch.Generator) -> Batch:
        n = self._config.batch
        z = torch.randn(n, *self.spec.denoiser.sample_shape, generator=rng, device=self.device)
        condition = self._conditions[self._indices(len(self._conditions), rng)]
        if not self._objective.needs.real_data:
            return Batch(z, condition)
        assert self._real is not None
        chosen = self._indices(len(self._real), rng)
        return Batch(z, condition, self._real.x[chosen], self._real.condition[chosen])

    def _indices(self, n: int, rng: torch.Generator) -> Tensor:
        return torch.randint(n, (self._config.batch,), generator=rng, device=self.device)
