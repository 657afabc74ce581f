"""The trainer of one student: its updates, and what they ask the teacher."""

import copy
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from msd_ray.conditions import Owned, conditioned
from msd_ray.data import Split
from msd_ray.diffusion import EDMDenoiser
from msd_ray.errors import UserError
from msd_ray.networks import adapters
from msd_ray.networks.shapes import shapes_only
from msd_ray.objectives import Batch, Draft, Loss, Nets, Objective, TrainsFake, generated, joined
from msd_ray.rng import derived_seed
from msd_ray.teachers import Answer, LocalTeacher, Teacher
from msd_ray.training import precision
from msd_ray.training.batches import Batches, Draw
from msd_ray.training.config import StageConfig
from msd_ray.training.gpu_memory import FOR_STUDENTS, enough_memory
from msd_ray.training.metrics import Averages, Metric
from msd_ray.training.optimizer import OptimizerStep
from msd_ray.training.process_group import ALONE, ProcessGroup
from msd_ray.training.sharding import divides
from msd_ray.training.skipped import Skipped
from msd_ray.training.state import State, Tensors, bytes_of
from msd_ray.training.student_networks import StudentNetworks
from msd_ray.training.student_spec import Extras, StudentSpec

_Fake = tuple[Tensor, Batch, torch.Generator]
"""One shard of a step of the fake score: what the generator made of the batch's noise, the batch, and its stream."""


@dataclass(frozen=True)
class _Begun:
    """One shard of a generator update, between the question to the teacher and the loss. before: the stream's state
    when the draft was begun."""

    batch: Batch
    draft: Draft
    answer: Answer | None
    rng: torch.Generator
    before: Tensor


class StudentTrainer:
    """Trains one student. Its clock is `nimg`, the images its generator was updated on. around_update: makes the
    context of each update.

    Every random number comes from a stream named by (seed, student, nimg, purpose, shard), so a trainer restored from
    a checkpoint goes on exactly as the one that wrote it. Several processes can train the student together: each is
    made alike but for its `group`, computes some of the shards of every batch, and holds the same state as the others.
    """

    def __init__(
        self,
        spec: StudentSpec,
        owned: Owned,
        teacher: Teacher,
        initial: Tensors | None = None,
        real: Split | None = None,
        device: torch.device | str = "cpu",
        extras: Extras | None = None,
        group: ProcessGroup = ALONE,
        blank: bool = False,
    ) -> None:
        """owned: the conditions that the student is trained on. initial: the weights that generator and fake score
        start from (fresh ones if None), or the frozen ones under its adapters. real: real samples of its conditions,
        where an objective needs them. blank: the networks take no memory, and have no weights but those of the state
        that is loaded next; without effect where adapters are trained, since their state lacks what lies under them.
        Raises UserError where some process of the group would have no shard."""
        if group.world > spec.shards:
            raise UserError(
                f"student {spec.index}: {group.world} workers cannot share batches of {spec.shards} shards; "
                f"take at most {spec.shards} workers"
            )
        self.spec, self.owned, self.teacher, self.group = spec, owned, teacher, group
        self.device = torch.device(device)
        extras, blank = extras or Extras(), blank and not (spec.adapter or spec.adapter_of_fake or self.is_divided)
        self.nimg, self._before = 0, 0
        self.metrics: list[Metric] = []
        torch.manual_seed(derived_seed(spec.seed, spec.index, "initial weights"))
        with shapes_only() if blank else nullcontext():
            generator = spec.denoiser.build()
        generator = precision.apply(conditioned(generator, owned.conditions), spec.training)
        if not self.is_divided:
            generator.to("meta" if blank else self.device)
        generator.eval()
        if initial is not None and not blank:
            generator.load_state_dict(initial)
        fake = None if spec.adapter_of_fake == spec.adapter else _plain_fake(generator, spec, extras)
        if spec.adapter:
            adapters.draw(adapters.attach(generator, spec.adapter))
        if fake and spec.adapter_of_fake:
            adapters.draw(adapters.attach(fake, spec.adapter_of_fake))
        extras = replace(extras, fake=None) if fake else extras
        self._networks = StudentNetworks(generator, fake, spec, extras, self.device, group)
        self._batches, self._shards = Batches(spec, owned, real, extras.pairs, self.device), group.mine(spec.shards)
        self._averages = Averages()
        self.around_update: Callable[[], AbstractContextManager[object]] = nullcontext
        self._skipped = Skipped(spec.index, spec.training.max_skipped)

    @property
    def done(self) -> bool:
        return self.nimg >= self.spec.images

    @property
    def nets(self) -> Nets:
        return self._networks.nets

    @property
    def ema(self) -> EDMDenoiser:
        """The average of the generator's weights."""
        return self._networks.ema

    @property
    def stage(self) -> str:
        """Name of the stage that trained the last image; empty before the first."""
        return self._networks.stage

    @property
    def is_divided(self) -> bool:
        """Whether each process of the group keeps only pieces of the weights, so that all must call `state_dict`."""
        return divides(self.spec.training, self.group)

    def to_measure(self, state: State) -> "StudentTrainer":
        """Itself, or where it is divided one for this process alone, to sample and denoise with as in that state."""
        if not self.is_divided:
            return self
        one = copy.copy(self)
        one._networks = self._networks.whole(state.tensors)
        return one

    @property
    def makes_samples(self) -> bool:
        """Whether the present stage makes a generator of whole samples, not a denoiser or some of their steps."""
        return self.stage != "" and self._objective.needs.makes == "generator" and self.spec.phases == 1

    def advance(self, images: int, hurried: Callable[[], bool] = lambda: False) -> list[Metric]:
        """Trains on at least `images` more images, or to the end, or until `hurried()`; returns what it logged.

        An update whose gradient is not finite is left out, counted and logged as `skipped`; raises TrainingError after
        too many in a row, or where the GPU's memory is not enough. All processes of a group call this with the same
        images; once one of them is hurried, all stop. What they log is the same, means over all shards and CPU seconds
        of all processes, but for each one's own wall seconds.
        """
        begin, logged = self.nimg, len(self.metrics)
        wall, cpu = time.perf_counter(), time.process_time()
        while not self.done and self.nimg < begin + images and not self.group.total(hurried(), self.device):
            with enough_memory(f"student {self.spec.index}", FOR_STUDENTS), self.around_update():
                self._step()
            if self.nimg % self.spec.training.log_every < self._config.batch or self.done:
                self._log()
        self._skipped.read(self.metrics)
        cpu_seconds = self.group.total(time.process_time() - cpu, self.device)
        for name, seconds in [("wall_seconds", time.perf_counter() - wall), ("cpu_seconds", cpu_seconds)]:
            self.metrics.append(Metric(self.stage, self.nimg, name, seconds))
        return self.metrics[logged:]

    def take_metrics(self) -> list[Metric]:
        """What was logged since the last call; the trainer forgets it."""
        taken, self.metrics = self.metrics, []
        return taken

    def bytes(self) -> int:
        """The memory that it holds on its device between two updates: weights, optimizers, and the data that it draws
        from."""
        return bytes_of([*self._networks.held(), *self._batches.tensors])

    def averages(self) -> list[Tensor]:
        """Those of its optimizers, on its device."""
        return self._networks.averages()

    def rest(self) -> None:
        """Keeps nothing that was read ahead."""
        self._batches.rest()

    def state_dict(self) -> State:
        """The same in each process of a group, but for the wall seconds among the metrics; if the student is divided,
        only the first has the tensors."""
        rows = [[m.stage, m.nimg, m.name, m.value] for m in self.metrics]
        meta = {"nimg": self.nimg, "stage": self.stage, "skipped": self._skipped.in_a_row, "metrics": rows}
        meta |= {"before": self._before} if self._before else {}
        return State(self._networks.state(), meta, copied=self.is_divided)

    def load_state_dict(self, state: State) -> None:
        self.nimg, self._skipped.in_a_row = state.meta["nimg"], state.meta["skipped"]
        self._before = state.meta.get("before", 0)
        self.metrics = [Metric(*row) for row in state.meta["metrics"]]
        self._networks.load(state.meta["stage"], state.tensors)

    def branch_off(self) -> None:
        """Begins at the end of the trunk whose weights lie under its adapters."""
        self.nimg = self.spec.begins

    def go_on_from(self, stage: StageConfig, state: State) -> None:
        """Begins with what a student of another run had when it ended `stage`, without what the first stage begins
        afresh. Images are counted anew, but in the average's half-life if the average goes on."""
        self._networks.go_on_from(stage, state.tensors)
        if "average" not in self.spec.begins_afresh(self.stage):
            self._before = state.meta["nimg"] + state.meta.get("before", 0)

    @property
    def _objective(self) -> Objective:
        return self._networks.objective

    @property
    def _config(self) -> StageConfig:
        return self._networks.config

    def _step(self) -> None:
        """One generator update and the fake score's updates that go with it."""
        stage, begin = self.spec.stage_at(self.nimg)
        if stage != self.stage:
            self._log()
            self._networks.leave()
            self._networks.enter(stage)
        seen = self.nimg - begin
        self._warm = min(1.0, (seen + self._config.batch) / max(self._config.warmup, 1))
        rests = seen < self._networks.optimization.fake_first
        finite = self._train_fake(seen) if rests else self._train_both(seen)
        self._skipped.note(self.stage, self.nimg, finite)
        if self._skipped.due:
            self._skipped.read(self.metrics)
        self.nimg += self._config.batch
        if not rests:
            self._networks.average(self._before + self.nimg)

    def _log(self) -> None:
        """Takes the means since the last call into the metrics."""
        self._skipped.read(self.metrics)
        self.metrics += self._averages.take(self.stage, self.nimg, self.group)

    def _train_both(self, seen: int) -> bool | Tensor:
        """A teacher elsewhere is asked before the fake score trains and read after: G does not change in between. One
        that answers at once is asked shard by shard when their losses are due: so there is one graph at a time."""
        begun: Iterable[_Begun] = self._in_time(self._begin(shard, seen) for shard in self._shards)
        finite = self._train_fake(seen)
        if follow_up := self._objective.needs.follow_up:
            begun = self._in_time(self._ask_again(b, follow_up) for b in begun)
        fake = self._networks.fake_descent
        with fake.frozen() if fake else nullcontext():
            return self._descend(self._networks.generator_descent, map(self._generator_loss, begun)) & finite

    def _in_time(self, begun: Iterable[_Begun]) -> Iterable[_Begun]:
        """Begins them now, or one by one when they are taken."""
        return begun if isinstance(self.teacher, LocalTeacher) else list(begun)

    def _begin(self, shard: int, seen: int) -> _Begun:
        batch, rng = self._draw("generator", shard, seen)
        before = rng.get_state()
        with torch.no_grad() if self._drafts_twice else nullcontext():
            draft = self._objective.draft(self.nets, batch, rng)
        asks = self._objective.needs.teacher != "none"
        return _Begun(batch, draft, self._ask(draft) if asks else None, rng, before)

    @property
    def _drafts_twice(self) -> bool:
        """Whether a shard's draft gets its graph only when its loss is due. Not where the teacher's answer belongs to
        the first draft's graph."""
        needs, elsewhere = self._objective.needs, not isinstance(self.teacher, LocalTeacher)
        return self.spec.training.recompute and elsewhere and needs.teacher != "gradient" and not needs.follow_up

    def _ask(self, draft: Draft) -> Answer:
        return self.teacher.submit(draft.x_t, draft.sigma, draft.condition)

    def _ask_again(self, begun: _Begun, follow_up: Callable[[Draft, Tensor], Draft]) -> _Begun:
        assert begun.answer
        draft = follow_up(begun.draft, begun.answer.result())
        return replace(begun, draft=draft, answer=self._ask(draft))

    def _generator_loss(self, begun: _Begun) -> Loss:
        teacher_x0, draft = begun.answer.result() if begun.answer else None, begun.draft
        if self._drafts_twice:
            draft = self._objective.draft(self.nets, begun.batch, begun.rng.set_state(begun.before))
        return self._objective.generator_loss(self.nets, draft, begun.batch, teacher_x0, begun.rng)

    def _train_fake(self, seen: int) -> bool | Tensor:
        """The steps of fake score and discriminator, where there are any; whether all gradients were finite."""
        finite: bool | Tensor = True
        descent = self._networks.fake_descent
        if descent is None or not self._networks.optimization.fake_steps:
            return True
        for fakes in zip(*(self._fakes(shard, seen) for shard in self._shards), strict=True):
            losses = (cast(TrainsFake, self._objective).fake_loss(self.nets, *fake) for fake in fakes)
            finite = self._descend(descent, losses) & finite
        return finite

    def _fakes(self, shard: int, seen: int) -> list[_Fake]:
        """One shard of each step's batch. The generator rests meanwhile, so one pass makes the samples of all steps: in
        small batches most of a pass is overhead."""
        drawn = [self._draw(f"fake {i}", shard, seen) for i in range(self._networks.optimization.fake_steps)]
        batches = [batch for batch, _ in drawn]
        passes = [[b] for b in batches] if precision.takes_one_size(self.spec.training) else [batches]
        with torch.no_grad(), self._networks.generator_descent.frozen():
            made = [generated(self.nets.generator, joined(p), self._objective.noise, len(p)) for p in passes]
        return [(x, *pair) for x, pair in zip(torch.cat(made).chunk(len(drawn)), drawn, strict=True)]

    def _descend(self, descent: OptimizerStep, losses: Iterable[Loss]) -> bool | Tensor:
        """One step, unless its gradient is not finite; whether it was."""
        parts, finite = descent.step(losses, self._warm)
        for part in parts:
            self._averages.add(part, finite)
        return finite

    def _draw(self, purpose: str, shard: int, seen: int) -> tuple[Batch, torch.Generator]:
        """One shard of a batch, and the stream that it came from."""
        n = self._config.batch
        share, needs = n // self.spec.shards, self._objective.needs
        return self._batches.draw(Draw(purpose, shard, self.nimg, share, needs, seen // n, seen), n)


def _plain_fake(generator: EDMDenoiser, spec: StudentSpec, extras: Extras) -> EDMDenoiser:
    """A fake score of another form than the generator's, before either has adapters. Where both get some, they share
    what lies under them."""
    if spec.adapter and spec.adapter_of_fake:
        return adapters.beside(generator)
    fake = adapters.copied(generator)
    if extras.fake is not None:
        fake.load_state_dict(extras.fake)
    return fake
