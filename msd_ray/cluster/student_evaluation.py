"""Measures a student after a segment, and draws its samples. Training depends on none of this."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch

from msd_ray.codecs import IDENTITY, Codec, pictures
from msd_ray.diffusion import few_steps
from msd_ray.errors import named
from msd_ray.evaluation import EvaluationConfig, Judge
from msd_ray.evaluation.tiles import sheet
from msd_ray.rng import stream
from msd_ray.storage import Store
from msd_ray.training.metrics import Metric
from msd_ray.training.preview import PREVIEWS, can_preview, preview
from msd_ray.training.records import LoggedSegment, Records
from msd_ray.training.student_trainer import StudentTrainer

LOG = logging.getLogger(__name__)
MOST_DEATHS = 2
"""Processes that may die while they measure the same checkpoint of a student; then it is no longer measured."""


@dataclass
class StudentEvaluation:
    """Writes a student's log, and measures the student after its checkpoint has been taken.

    An error in a measurement gives only a warning. A measurement that hangs ends in the death of the process. So each
    is noted before it begins, tried once more after a death, and skipped after the second.
    """

    student: Store
    evaluation: EvaluationConfig
    make_judge: Callable[[], Judge]
    codec: Codec = IDENTITY
    at: int | None = None
    """Images of the newest checkpoint in the log."""
    after: int | None = None
    """Of the one before."""
    metrics: list[Metric] = field(default_factory=list)
    """What was logged between the two."""
    deaths: int = 0
    interrupted: bool = False
    """Whether a process died while it measured `at`, and another try is allowed."""

    @cached_property
    def judge(self) -> Judge:
        return self.make_judge()

    @cached_property
    def records(self) -> Records:
        return Records(self.student)

    def resume(self, nimg: int) -> None:
        """The student goes on from its checkpoint of `nimg` images."""
        record = self.records.read(nimg)
        if record is None:
            return
        self.at, self.after, self.metrics = nimg, record.after, list(record.metrics)
        self.deaths = record.deaths + record.measuring
        self.interrupted = record.measuring and self.deaths < MOST_DEATHS
        if record.measuring and not self.interrupted:
            LOG.warning("%s: %d processes died while they measured it; it is measured no more", self._name, self.deaths)

    def due(self, trainer: StudentTrainer, begin: int) -> bool:
        """Whether there is anything to measure of the segment from `begin` on."""
        return self.deaths < MOST_DEATHS and (trainer.makes_samples or self._draws(trainer, begin))

    def keep(self, nimg: int, metrics: list[Metric], measuring: bool) -> None:
        """Writes the log up to the checkpoint of `nimg` images, and notes whether a measurement of it begins now."""
        if nimg != self.at:
            self.at, self.after = nimg, self.at
        self.metrics = metrics
        self.records.write(nimg, LoggedSegment(metrics, self.after, measuring, self.deaths))

    def measure(self, trainer: StudentTrainer, begin: int) -> float | None:
        """Measures the FID, if one is due, and returns it; draws a picture if the segment from `begin` on passed an
        image at which one is due."""
        fid = self._attempt(trainer, "FID", lambda: self._fid(trainer)) if trainer.makes_samples else None
        if self._draws(trainer, begin):
            self._attempt(trainer, "preview", lambda: self._draw(trainer))
        if fid is not None:
            self._log(trainer, f"fid@{self.evaluation.curve_samples}", fid)
        self.deaths = 0
        self.keep(trainer.nimg, self.metrics, measuring=False)
        return fid

    def measure_again(self, trainer: StudentTrainer) -> float | None:
        """As `measure`, for the checkpoint that a process died measuring."""
        self.interrupted = False
        self.keep(trainer.nimg, self.metrics, measuring=True)
        return self.measure(trainer, self.after or 0)

    @property
    def _name(self) -> str:
        return self.student.uri

    def _attempt(self, trainer: StudentTrainer, what: str, do: Callable[[], float | None]) -> float | None:
        try:
            return do()
        except Exception as error:
            reason = named(error)
            LOG.warning("%s: no %s at %d images (%s); training goes on", self._name, what, trainer.nimg, reason)
            self._log(trainer, "unmeasured", 1.0)
            return None

    def _log(self, trainer: StudentTrainer, name: str, value: float) -> None:
        self.metrics.append(Metric(trainer.stage, trainer.nimg, name, value))

    def _draws(self, trainer: StudentTrainer, begin: int) -> bool:
        every = self.evaluation.preview_every
        return can_preview(trainer.spec, self.codec) and begin // every < trainer.nimg // every

    def _draw(self, trainer: StudentTrainer) -> None:
        """Writes a picture of the samples that the networks make of the same noise."""
        self.student.child(PREVIEWS).write(f"{trainer.nimg:012d}.png", sheet(pictures(self.codec, preview(trainer))))

    def _fid(self, trainer: StudentTrainer) -> float:
        spec, n = trainer.spec, self.evaluation.curve_samples
        levels, rng = spec.noise.step_levels, stream("curve", spec.index)
        z = torch.randn(n, *spec.denoiser.sample_shape, generator=rng).to(trainer.device)
        renoise = torch.randn(len(levels) - 1, *z.shape, generator=rng).to(trainer.device)
        with torch.no_grad():
            x = few_steps(trainer.ema, z, trainer.owned.in_turn(n).to(trainer.device), renoise, levels)
        return self.judge.fid(x.cpu())
