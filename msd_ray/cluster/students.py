"""The task of training one student, and the student in the process of a slot."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch

from msd_ray.cluster.pool.client import TeacherPool
from msd_ray.cluster.progress import Progress
from msd_ray.cluster.segment_costs import SegmentCosts
from msd_ray.cluster.student_evaluation import StudentEvaluation
from msd_ray.cluster.work import SingleProcess
from msd_ray.codecs import NO_CODEC, Codec, CodecConfig, load_codec
from msd_ray.conditions import ConditionsConfig, Owned, make_conditions
from msd_ray.data import DataConfig, DataSet, Split, load_data
from msd_ray.diffusion import unguided
from msd_ray.errors import TrainingError
from msd_ray.evaluation import EvaluationConfig, Judge, load_features
from msd_ray.networks.weights import StoredWeights
from msd_ray.recipes import PoolConfig
from msd_ray.runs.adapter_base import base_of
from msd_ray.runs.init_weights import starting_weights, student_of_init
from msd_ray.runs.pairs import load_pairs, refuse_without_own
from msd_ray.runs.plan import StudentPlan
from msd_ray.runs.run_directory import folder, kept_partition
from msd_ray.runs.teacher_cache import load_teacher
from msd_ray.storage import Store
from msd_ray.teachers import LocalTeacher, Teacher, TeacherSource
from msd_ray.training.checkpoints import Checkpoints
from msd_ray.training.device import prepare_device
from msd_ray.training.metrics import BROKEN_IMAGE, Metric, newest_loss
from msd_ray.training.process_group import ALONE, ProcessGroup
from msd_ray.training.saving import Saver
from msd_ray.training.state import State
from msd_ray.training.student_spec import Extras, StudentSpec
from msd_ray.training.student_trainer import StudentTrainer
from msd_ray.training.trace import NAME, traced

CURVE_REAL = 5_000
"""Real samples, evenly spread, that the FID curve of a student is measured against at most."""


@dataclass(frozen=True)
class RunInputs:
    """What all students of a run share. conditions: what they can be asked for. pool: how the teacher actors are asked,
    None for a teacher in each student. cache: where the feature network lies. pairs: the folder of the teacher's pairs
    and which chunks of it to use, where an objective needs them. init: the ensemble to start from, if any. codec:
    what samples look like."""

    data: DataConfig
    conditions: ConditionsConfig
    evaluation: EvaluationConfig
    cache: Store
    teacher: TeacherSource
    pool: PoolConfig | None
    gpus: float
    pairs: tuple[Store, list[int]] | None = None
    init: str = ""
    codec: CodecConfig = NO_CODEC


@dataclass(frozen=True)
class StudentTask:
    """One student. home: the directory that it shares with the others of its ensemble. parts: of the conditions, that
    it is trained on. checkpoints: where they are kept. until: images after which it has done what is asked for now, its
    whole training if None. trunk: the checkpoints of what it branches off from."""

    spec: StudentSpec
    home: Store
    parts: range
    checkpoints: Store
    inputs: RunInputs
    until: int | None = None
    trunk: Store | None = None

    def open(self, known: int = 0, group: ProcessGroup = ALONE) -> "StudentTraining":
        """group: the processes that train the student together."""
        inputs, spec = self.inputs, self.spec
        device = prepare_device(inputs.gpus, spec.training.threads)
        checkpoints = Checkpoints(self.checkpoints, spec.training.keep)
        state = checkpoints.latest(spec.of_its_own(known))
        data = load_data(inputs.data)
        conditions, codec = make_conditions(inputs.conditions, data.labels), load_codec(inputs.codec)
        owned = kept_partition(self.home).owned_by_parts(self.parts, conditions)
        real = data.train.only(owned.ids)
        trainer, pool = self._trainer(owned, real, device, group, resumed=state is not None)
        make_judge = partial(self._judge, data, real, codec)
        measuring = StudentEvaluation(self.checkpoints, inputs.evaluation, make_judge, codec)
        if state:
            trainer.load_state_dict(state)
            measuring.resume(trainer.nimg)
        elif self.trunk and spec.adapter:
            trainer.branch_off()
        elif self.trunk:
            trainer.load_state_dict(_branched(Checkpoints(self.trunk, 1).latest(spec.begins)))
        elif spec.goes_on_from_another_run and (origin := student_of_init(inputs.init, owned)):
            trainer.go_on_from(origin.stage, origin.checkpoint.read())
        return StudentTraining(trainer, Saver(checkpoints), measuring, pool, self.until, real)

    def _trainer(
        self, owned: Owned, real: Split, device: torch.device, group: ProcessGroup, resumed: bool
    ) -> tuple[StudentTrainer, TeacherPool | None]:
        """resumed: whether it is about to take its weights from a checkpoint."""
        inputs, spec = self.inputs, self.spec
        needs = [spec.objective(stage).needs for stage in spec.stages]
        original = pairs = initial = fake = None
        if not inputs.pool or any(n.encoder for n in needs):
            original = load_teacher(inputs.teacher, device, spec.training)
        if spec.adapter:
            base = base_of(spec, self.trunk, inputs.teacher)
            initial = base.read() if isinstance(base, StoredWeights) else base
        elif (
            not resumed
            or spec.adapter_of_fake
            or any("fake_score" in spec.begins_afresh(stage) for stage in spec.stages)
        ):
            initial, fake = starting_weights(spec, owned, inputs.teacher, inputs.init, original)
        if inputs.pairs and any(n.pairs for n in needs):
            pairs = load_pairs(*inputs.pairs, spec.denoiser.sample_shape).to(device)
            if any(n.own_pairs for n in needs):
                refuse_without_own(pairs, owned)
        pool = TeacherPool(inputs.pool, first=spec.index) if inputs.pool else None
        teacher: Teacher | None = pool or (LocalTeacher(original) if original else None)
        assert teacher
        extras = Extras(fake, unguided(original), pairs)
        return StudentTrainer(spec, owned, teacher, initial, real, device, extras, group, blank=resumed), pool

    def _judge(self, data: DataSet, real: Split, codec: Codec) -> Judge:
        evaluation = self.inputs.evaluation
        net = load_features(evaluation.features, data, self.inputs.cache, codec, evaluation.files)
        return Judge(net, real.thinned(CURVE_REAL), evaluation)


def student_task(run: Store, student: StudentPlan, inputs: RunInputs, until: int | None = None) -> StudentTask:
    """The task of a student of the run in that directory."""
    home, mine = folder(run, student.home), folder(run, student.directory)
    trunk = folder(run, student.trunk.directory) if student.trunk else None
    return StudentTask(student.spec, home, student.parts, mine, inputs, until, trunk)


def _branched(state: State | None) -> State:
    """Where a student begins that branches off at the end of a trunk: the trunk's log is not its own."""
    if state is None:
        raise TrainingError("the trunk's checkpoint cannot be read; the same command trains the trunk again")
    return replace(state, meta={**state.meta, "metrics": []})


@dataclass
class StudentTraining(SingleProcess):
    """A student in the process of a slot: it trains, writes a checkpoint and is measured. Where processes train it
    together, the first of them does what is not training."""

    trainer: StudentTrainer
    saver: Saver
    measuring: StudentEvaluation
    pool: TeacherPool | None
    until: int | None = None
    real: Split | None = None
    told: set[int] = field(default_factory=set)
    """Broken images that were logged."""
    began: tuple[int, float] | None = None
    """The image and the time at which the segment under way began."""
    loss: float = float("nan")
    """Of the segment before."""
    traced: bool = False

    @cached_property
    def costs(self) -> SegmentCosts:
        return SegmentCosts(self.trainer, self.pool)

    @property
    def nimg(self) -> int:
        return self.trainer.nimg

    @property
    def bytes(self) -> int:
        return self.trainer.bytes()

    @property
    def device(self) -> torch.device:
        return self.trainer.device

    @property
    def done(self) -> bool:
        """Whether it has come as far as is asked for now."""
        return self.nimg >= self._end

    @property
    def _end(self) -> int:
        return self.until or self.trainer.spec.images

    def current_progress(self) -> Progress:
        trainer = self.trainer
        beats = self.saver.checkpoints.pieces
        return Progress.within(trainer.nimg, trainer.stage, self.done, self._loss(), self.began, beats)

    def advance(self, images: int, replicas: list[Any], hurried: Callable[[], bool]) -> Progress:
        trainer, pool = self.trainer, self.pool
        if pool:
            pool.use(replicas)
        fid = None
        if self.measuring.interrupted and trainer.group.rank == 0 and not hurried():
            fid = self._measure_again()
        begin = trainer.nimg
        self.began, end = (begin, time.perf_counter()), min(begin + images, self._end)
        self.costs.begin()
        self._trace_some(end, hurried)
        trainer.around_update = self.costs.update
        trainer.advance(end - trainer.nimg, hurried)
        rate, waited, used = self.costs.end()
        self._log_broken()
        self.loss, metrics = self._loss(), trainer.take_metrics()
        gathers = trainer.nimg > begin and (trainer.is_divided or trainer.group.rank == 0)
        state = trainer.state_dict() if gathers else None
        if trainer.group.rank == 0:
            in_a_hurry = trainer.nimg < end or hurried()
            if state:
                fid = self._conclude(begin, state, metrics, in_a_hurry)
            if in_a_hurry or self.done or trainer.nimg == begin:
                self.saver.finish()
        return Progress(
            trainer.nimg,
            trainer.stage,
            rate,
            self.done,
            loss=self.loss,
            fid=fid,
            fid_samples=self.measuring.evaluation.curve_samples,
            begin=begin,
            waited=waited,
            writing=self.saver.writing,
            used=used,
        )

    def rest(self) -> None:
        self.trainer.rest()
        self.saver.finish()

    def _trace_some(self, end: int, hurried: Callable[[], bool]) -> None:
        """Records the first updates of this process, if the recipe wants that."""
        trainer, spec = self.trainer, self.trainer.spec
        if self.traced or not spec.training.trace or self.done:
            return
        stage, _ = spec.stage_at(trainer.nimg)
        images = min(spec.training.trace * spec.stages[stage].batch, end - trainer.nimg)
        self.traced, act = True, partial(trainer.advance, images, hurried)
        if trainer.group.rank == 0:
            self.saver.checkpoints.store.write(NAME, traced(act))
        else:
            act()

    def _measure_again(self) -> float | None:
        """What a process died measuring."""
        trainer = self.trainer
        if trainer.is_divided:
            known = self.saver.checkpoints.latest()
            assert known, "it was loaded from there"
            trainer = trainer.to_measure(known)
        return self.measuring.measure_again(trainer)

    def _conclude(self, begin: int, state: State, metrics: list[Metric], hurried: bool) -> float | None:
        """Saves what was trained since `begin`, then measures it; the FID, if there is one. In a hurry only saves."""
        trainer, measuring = self.trainer, self.measuring
        due = not hurried and measuring.due(trainer, begin)
        measuring.keep(trainer.nimg, metrics, measuring=due)
        self.saver.begin(state)
        return measuring.measure(trainer.to_measure(state), begin) if due else None

    def _loss(self) -> float:
        loss = newest_loss(self.trainer.metrics)
        return self.loss if math.isnan(loss) else loss

    def _log_broken(self) -> None:
        """The indices of real images that were skipped since the segment before."""
        trainer, found = self.trainer, set(self.real.broken) if self.real else set()
        for index in sorted(found - self.told):
            trainer.metrics.append(Metric(trainer.stage, trainer.nimg, BROKEN_IMAGE, float(index)))
        self.told |= found
