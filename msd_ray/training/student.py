"""The trainer of one student: a generator, its fake score and discriminator, and the stages they go through."""

import copy
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn, optim

from msd_ray.data import Samples
from msd_ray.diffusion import EDMDenoiser, Noise
from msd_ray.errors import TrainingError
from msd_ray.networks import DenoiserSpec
from msd_ray.objectives import Batch, Loss, Nets, Objective, Pairs, objective_class
from msd_ray.random import derived_seed, stream
from msd_ray.teachers import Teacher
from msd_ray.training.config import StageConfig, TrainingConfig
from msd_ray.training.ema import update
from msd_ray.training.metrics import Averages, Metric
from msd_ray.training.state import State, Tensors, load_optimizer, tensors_of, tensors_of_optimizer

_HEAD = "head."


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
        objective: Objective = objective_class(config.objective)(noise=self.noise, **config.options)
        return objective


@dataclass(frozen=True)
class Extras:
    """What only some objectives need. fake: weights that the fake score starts from, if other than the generator's.
    encoder: the frozen teacher. pairs: noise and what the teacher's ODE makes of it."""

    fake: Tensors | None = None
    encoder: EDMDenoiser | None = None
    pairs: Pairs | None = None


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
        extras: Extras | None = None,
    ) -> None:
        """initial: the weights that generator and fake score start from (fresh ones if None). real: real samples of
        the student's classes, where an objective needs them."""
        self.spec, self.teacher, self.device = spec, teacher, torch.device(device)
        self.extras = extras or Extras()
        self.nimg = 0
        self.metrics: list[Metric] = []
        torch.manual_seed(derived_seed(spec.seed, spec.index, "initial weights"))
        generator = spec.denoiser.build(spec.training.precision).to(self.device).eval()
        if initial is not None:
            generator.load_state_dict(initial)
        self.ema = copy.deepcopy(generator).requires_grad_(False)
        fake = copy.deepcopy(generator)
        if self.extras.fake is not None:
            fake.load_state_dict(self.extras.fake)
        self.nets = Nets(generator, fake, ema=self.ema, encoder=self.extras.encoder)
        self._heads: dict[str, nn.Module] = {}
        self._conditions = torch.tensor(spec.conditions, device=self.device)
        self._real = real and Samples(real.x.to(self.device), real.condition.to(self.device))
        self._averages = Averages()
        self._stage = ""
        self._skipped = 0

    @property
    def done(self) -> bool:
        return self.nimg >= self.spec.images

    @property
    def stage(self) -> str:
        """Name of the stage that trained the last image; empty before the first."""
        return self._stage

    @property
    def makes_samples(self) -> bool:
        """Whether the present stage makes a one-step generator, rather than a denoiser."""
        return self._stage != "" and self._objective.needs.makes == "generator"

    def advance(self, images: int) -> list[Metric]:
        """Trains on at least `images` more images, or to the end; returns what it logged meanwhile.

        An update whose gradient is not finite is left out, counted and logged as `skipped`; raises TrainingError after
        too many in a row.
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
            if self._fake_optimizer:
                parts["fake_optimizer"] = tensors_of_optimizer(self._fake_optimizer)
        if self.nets.memory:
            parts["memory"] = dict(self.nets.memory)
        parts |= {f"{_HEAD}{objective}": tensors_of(head) for objective, head in self._heads.items()}
        rows = [[m.stage, m.nimg, m.name, m.value] for m in self.metrics]
        meta = {"nimg": self.nimg, "stage": self._stage, "skipped": self._skipped, "metrics": rows}
        return State(parts, meta)

    def load_state_dict(self, state: State) -> None:
        self.nimg, self._skipped = state.meta["nimg"], state.meta["skipped"]
        self.metrics = [Metric(*row) for row in state.meta["metrics"]]
        self._stage, self._heads = "", {}
        for part, tensors in state.parts.items():
            if part.startswith(_HEAD) and (head := self._head(part.removeprefix(_HEAD))):
                head.load_state_dict(tensors)
        if state.meta["stage"]:
            self._enter(state.meta["stage"])
            load_optimizer(self._generator_optimizer, state.parts["generator_optimizer"])
            if self._fake_optimizer:
                load_optimizer(self._fake_optimizer, state.parts["fake_optimizer"])
            self.nets.memory.update({k: v.clone().to(self.device) for k, v in state.parts.get("memory", {}).items()})
        for name, module in [("generator", self.nets.generator), ("ema", self.ema), ("fake", self.nets.fake)]:
            module.load_state_dict(state.parts[name])

    def _enter(self, stage: str) -> None:
        """Begins a stage: its objective, a discriminator if it needs one, fresh optimizers."""
        self._stage, self._config = stage, self.spec.stages[stage]
        self._objective = self.spec.objective(stage)
        needs = self._objective.needs
        memory = {name: torch.ones(shape, device=self.device) for name, shape in needs.memory.items()}
        self.nets = replace(self.nets, head=self._head(self._config.objective), memory=memory)
        frozen = re.compile("|".join(needs.frozen) or "(?!)")
        for name, p in self.nets.generator.named_parameters():
            p.requires_grad_(not frozen.search(name))
        self._generator_parameters = [p for p in self.nets.generator.parameters() if p.requires_grad]
        self._fake_parameters = list(self.nets.fake.parameters()) if needs.fake else []
        if self.nets.head is not None:
            self._fake_parameters += self.nets.head.parameters()
        self._generator_optimizer = self._optimizer(self._generator_parameters, self._config.generator_lr)
        self._fake_optimizer = (
            self._optimizer(self._fake_parameters, self._config.fake_lr) if self._fake_parameters else None
        )

    def _head(self, objective: str) -> nn.Module | None:
        """The discriminator of an objective; kept through stages that do not use it."""
        if objective not in self._heads:
            stage = next(name for name, config in self.spec.stages.items() if config.objective == objective)
            make = self.spec.objective(stage).needs.head
            if make is None:
                return None
            torch.manual_seed(derived_seed(self.spec.seed, self.spec.index, "head"))
            self._heads[objective] = make(self.nets).to(self.device)
        return self._heads[objective]

    def _optimizer(self, parameters: list[nn.Parameter], lr: float) -> optim.Optimizer:
        c = self._config
        return optim.AdamW(parameters, lr=lr, betas=c.betas, weight_decay=c.weight_decay, fused=True)

    def _step(self) -> None:
        """One generator update and the fake score's updates that go with it."""
        stage, begin = self.spec.stage_at(self.nimg)
        if stage != self._stage:
            self._leave()
            self._enter(stage)
        seen = self.nimg - begin
        self._warm = min(1.0, (seen + self._config.batch) / max(self._config.warmup, 1))
        rests = seen < self._config.fake_first
        self._count(self._train_fake(seen) if rests else self._train_both(seen))
        self.nimg += self._config.batch
        if not rests:
            update(self.ema, self.nets.generator, self.spec.training.ema.decay(self.nimg, self._config.batch))

    def _train_both(self, seen: int) -> bool:
        """The teacher is asked before the fake score trains and read after: G does not change in between."""
        objective, rng = self._objective, self._stream("generator")
        batch = self._batch(rng, seen)
        draft = objective.draft(self.nets, batch, rng)
        asks = objective.needs.teacher != "none"
        answer = self.teacher.submit(draft.x_t, draft.sigma, draft.condition) if asks else None
        finite = self._train_fake(seen)
        teacher_x0 = answer.result() if answer else None
        loss = self._frozen_fake(lambda: objective.generator_loss(self.nets, draft, batch, teacher_x0, rng))
        lr = self._config.generator_lr
        return self._update(self._generator_optimizer, self._generator_parameters, loss, lr) and finite

    def _train_fake(self, seen: int) -> bool:
        """The steps of fake score and discriminator, where there are any; whether all gradients were finite."""
        finite = True
        for i in range(self._config.fake_steps if self._fake_optimizer else 0):
            rng = self._stream(f"fake {i}")
            loss = self._objective.fake_loss(self.nets, self._batch(rng, seen), rng)
            finite &= self._update(self._fake_optimizer, self._fake_parameters, loss, self._config.fake_lr)
        return finite

    def _leave(self) -> None:
        """Ends a stage, if there was one; after one that makes a denoiser the fake score starts from that."""
        self.metrics += self._averages.take(self._stage, self.nimg)
        if self._stage and self._objective.needs.makes == "denoiser":
            self.nets.fake.load_state_dict(self.nets.generator.state_dict())

    def _frozen_fake(self, compute: Callable[[], Loss]) -> Loss:
        """The generator's loss, without gradients for the weights of fake score and discriminator."""
        for p in self._fake_parameters:
            p.requires_grad_(False)
        loss = compute()
        for p in self._fake_parameters:
            p.requires_grad_(True)
        return loss

    def _update(self, optimizer: optim.Optimizer | None, parameters: list[nn.Parameter], loss: Loss, lr: float) -> bool:
        """One step down the loss, at rate `lr` once warm; none, and False, where the gradient is not finite."""
        assert optimizer
        optimizer.zero_grad(set_to_none=True)
        loss.total.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(parameters, self._config.clip)
        if not torch.isfinite(norm):
            return False
        for group in optimizer.param_groups:
            group["lr"] = lr * self._warm
        optimizer.step()
        self._averages.add(loss.parts)
        return True

    def _count(self, finite: bool) -> None:
        """Keeps count of updates in a row that were left out; raises TrainingError where there are too many."""
        if finite:
            self._skipped = 0
            return
        self._skipped += 1
        self.metrics.append(Metric(self._stage, self.nimg, "skipped", 1.0))
        if self._skipped > self.spec.training.max_skipped:
            raise TrainingError(
                f"student {self.spec.index}: the gradient was not finite {self._skipped} times in a row, "
                f"at {self.nimg} images in stage {self._stage}; lower the learning rates of this stage"
            )

    def _stream(self, purpose: str) -> torch.Generator:
        return stream(self.spec.seed, self.spec.index, self.nimg, purpose, device=self.device)

    def _batch(self, rng: torch.Generator, seen: int) -> Batch:
        n, needs, step = self._config.batch, self._objective.needs, seen // self._config.batch
        z = torch.randn(n, *self.spec.denoiser.sample_shape, generator=rng, device=self.device)
        batch = Batch(z, self._conditions[self._indices(len(self._conditions), rng)], step=step)
        if needs.real_data:
            assert self._real is not None
            chosen = self._indices(len(self._real), rng)
            batch = replace(batch, real=self._real.x[chosen], real_condition=self._real.condition[chosen])
        if needs.pairs:
            assert self.extras.pairs is not None
            batch = replace(batch, pairs=self.extras.pairs.at(self._indices(len(self.extras.pairs), rng)))
        return batch

    def _indices(self, n: int, rng: torch.Generator) -> Tensor:
        return torch.randint(n, (self._config.batch,), generator=rng, device=self.device)
