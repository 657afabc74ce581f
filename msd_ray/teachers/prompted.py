"""Teachers of prompts: what a text encoder makes of a prompt is what their networks take."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from msd_ray.conditions import ConditionsConfig, ConditionsSpec, conditioned
from msd_ray.diffusion import Denoiser, EDMDenoiser, Guided
from msd_ray.errors import UserError
from msd_ray.networks import DenoiserSpec
from msd_ray.storage import digest
from msd_ray.teachers.source import TeacherSource


@dataclass(frozen=True)
class Prompted:
    """The TeacherSource of a teacher that is asked with prompts as `conditions` encodes them. guidance: 1 for none."""

    source: TeacherSource
    conditions: ConditionsSpec
    guidance: float = 1.0

    @property
    def fingerprint(self) -> str:
        known, embedder = self.conditions.make(), self.conditions.config.options["embedder"]
        return digest([self.source.fingerprint, embedder, known.width, known.fingerprint, self.guidance])

    @property
    def sample_shape(self) -> tuple[int, ...]:
        return self.source.sample_shape

    @property
    def classes(self) -> int:
        return self.source.classes

    @property
    def parameters(self) -> int:
        return self.source.parameters

    @property
    def spec(self) -> DenoiserSpec | None:
        """Of the teacher without guidance, which is what students start from."""
        return self.source.spec

    @property
    def origin(self) -> Any:
        return getattr(self.source, "origin", {})

    def open(self, device: torch.device) -> Denoiser:
        denoiser, known = self.source.open(device), self.conditions.make()
        if isinstance(denoiser, EDMDenoiser):
            conditioned(denoiser, known)
        if self.guidance == 1 or (none := known.unconditional) is None:
            return denoiser
        return Guided(denoiser, none.to(device), self.guidance)

    def weights(self) -> dict[str, Tensor] | None:
        return self.source.weights()


def prompted(source: TeacherSource, config: ConditionsConfig, guidance: float) -> Prompted:
    """config: of the prompts that it is asked with. Raises UserError where they cannot be had, or do not say what the
    teacher was given for none of them."""
    spec = ConditionsSpec(replace(config, options=config.options | {"file": ""}), ())  # which is of students' prompts
    if guidance != 1 and spec.make().unconditional is None:
        raise UserError(
            "teacher.guidance: only a text encoder knows an empty prompt to guide away from; write "
            "conditions.options.embedder=clip-tokens or another one, or teacher.guidance=1"
        )
    return Prompted(source, spec, guidance)
