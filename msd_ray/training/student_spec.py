"""What one student's training is given."""

from dataclasses import dataclass
from typing import Literal

from msd_ray.diffusion import EDMDenoiser, Noise
from msd_ray.errors import UserError
from msd_ray.networks import Adapter, DenoiserSpec
from msd_ray.objectives import Objective, Pairs, objective_class
from msd_ray.training.config import StageConfig, TrainingConfig
from msd_ray.training.state import Tensors


@dataclass(frozen=True)
class StudentSpec:
    """Everything that a student's future depends on, beside the teacher and the data.

    index: the student's number, which its random streams derive from. stages: in order; where the student branches off
    from a trunk, the first ones are the trunk's. begins: images that the trunk was trained on, 0 without one. shards:
    equal parts that every batch is made of, each with random streams of its own; up to so many processes can share the
    work. phases: number of students that divide a sample's steps among them; `noise` has this one's own. phase: its
    place among these, from 0 for the one that begins from pure noise. The others begin from real samples with noise,
    which is what those before them are to lead to. adapter: what alone is trained, on the frozen weights that the
    student is given; all weights if None. fake_adapter: the same of the fake score; "same": as the student's.
    What a loss compares within a batch (O2MKD's similarities, the density weights of SiDA) it then compares within a
    shard. Raises UserError where a batch cannot be split so, or an objective not be computed so.
    """

    index: int
    seed: int
    denoiser: DenoiserSpec
    stages: dict[str, StageConfig]
    training: TrainingConfig = TrainingConfig()
    noise: Noise = Noise()
    shards: int = 1
    begins: int = 0
    phase: int = 0
    phases: int = 1
    adapter: Adapter | None = None
    fake_adapter: Adapter | Literal["same", "none"] = "same"

    def __post_init__(self) -> None:
        if self.shards < 1:
            raise UserError(f"shards must be at least 1, not {self.shards}")
        if self.shards > 1:
            for stage in self.stages:
                self._check_shards(stage)
        for stage in self.stages if self.noise.steps != 1 or self.phases > 1 else ():
            self._check_steps(stage)

    @property
    def images(self) -> int:
        """Length of the whole training in generator images."""
        return sum(stage.images for stage in self.stages.values())

    @property
    def own_images(self) -> int:
        """Without those of the trunk that it branches off from."""
        return self.images - self.begins

    @property
    def adapter_of_fake(self) -> Adapter | None:
        """What alone is trained of the fake score; all its weights if None."""
        if self.fake_adapter == "same":
            return self.adapter
        return None if self.fake_adapter == "none" else self.fake_adapter

    def of_its_own(self, known: int) -> int:
        """known: images of its newest checkpoint, or of the trunk's where it has none yet; in the latter case 0."""
        return known if known > self.begins else 0

    @property
    def goes_on_from_another_run(self) -> bool:
        """Whether the first stage says what of another run's student begins afresh, rather than to take its averaged
        weights alone."""
        return next(iter(self.stages.values())).afresh != "auto"

    def begins_afresh(self, stage: str) -> tuple[str, ...]:
        """What of the stage before does not go on in this one."""
        said, names = self.stages[stage].afresh, list(self.stages)
        if said != "auto":
            return said
        before = self.stages[names[names.index(stage) - 1]] if stage != names[0] else None
        goes_on = before is not None and before.groups and before.method == self.stages[stage].method
        return () if goes_on else ("optimizers",)

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

    def _check_steps(self, stage: str) -> None:
        config, steps, needs = self.stages[stage], len(self.noise.step_levels), self.objective(stage).needs
        if needs.makes == "generator" and not needs.few_steps:
            raise UserError(f"noise.steps: {config.objective} (stages.{stage}) trains generators of a single step only")
        if self.phases > 1 and needs.makes == "generator" and not needs.phases:
            raise UserError(
                f"partition.timesteps: {config.objective} (stages.{stage}) trains no student for some of a sample's "
                "steps; take dm, adm, f-distill or moment-matching, or leave partition.timesteps out"
            )
        if config.batch // self.shards < steps:
            raise UserError(
                f"stages.{stage}.batch: {config.batch // self.shards} samples in a shard cannot be divided among the "
                f"{steps} steps of the generator (noise.steps); take larger batches or fewer steps"
            )

    def _check_shards(self, stage: str) -> None:
        config = self.stages[stage]
        if config.batch % self.shards:
            raise UserError(f"stages.{stage}.batch ({config.batch}) must be a multiple of the {self.shards} shards")
        if self.objective(stage).needs.memory:
            raise UserError(
                f"stages.{stage}: {config.objective} keeps numbers from one update to the next, which "
                f"{self.shards} shards cannot share; train it with one shard, in one process"
            )


@dataclass(frozen=True)
class Extras:
    """What only some objectives need. fake: weights that the fake score starts from, if other than the generator's.
    encoder: the frozen teacher. pairs: noise and what the teacher's ODE makes of it."""

    fake: Tensors | None = None
    encoder: EDMDenoiser | None = None
    pairs: Pairs | None = None
