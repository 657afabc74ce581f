"""An ensemble as a pipeline of diffusers: each condition is answered by the student that owns it.

    from msd_ray.export.ensemble_pipeline import EnsemblePipeline
    EnsemblePipeline.from_pretrained(directory)(["cat", 3], seeds=[0, 1]).images
    EnsemblePipeline.from_pretrained(of_prompts)("a red heart", seeds=[0]).images

Only what exports or loads such a pipeline imports this module, since it imports diffusers.
"""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import ConfigMixin, DiffusionPipeline, ImagePipelineOutput, ModelMixin
from diffusers.configuration_utils import register_to_config
from PIL import Image
from torch import Tensor, nn

from msd_ray.codecs import load_codec, to_image
from msd_ray.conditions import Condition
from msd_ray.ensemble import Description, Member, read_member, seeded_noises
from msd_ray.ensemble.artifact import described
from msd_ray.ensemble.part import embedded
from msd_ray.ensemble.requests import seeds_of
from msd_ray.ensemble.sampling import sampled
from msd_ray.errors import UserError
from msd_ray.storage import Manifest, Store


class EnsembleModel(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """The students of an ensemble. sample_shape: [C, H, W] or [D]."""

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(self, ensemble: dict[str, Any]) -> None:
        """ensemble: the body of its manifest. Raises CorruptError if it makes no sense, UserError for a user's own
        parts that this process may not import."""
        super().__init__()
        known = described(Store("."), Manifest(dict(ensemble), {}))
        self.partition, self.sampling, self.conditions = known.partition, known.sampling, known.conditions
        self.codec = load_codec(known.codec)
        self.members = [read_member(known, index) for index in range(known.partition.k)]
        self.students = nn.ModuleList(member.spec.build() for member in self.members)
        self.sample_shape = self.members[0].spec.sample_shape

    @torch.no_grad()
    def forward(self, noises: Tensor, asked: Sequence[Condition]) -> Tensor:
        """The samples [B, ...] that the owners of the conditions make of the noises ~ N(0, I) [draws, B, ...]. asked:
        B ids, or prompts."""
        prepared, places = self.partition.prepared(self.conditions, asked)
        x = torch.empty_like(noises[0])
        for part in sorted({place.part for place in places}):
            mine = [i for i, place in enumerate(places) if place.part == part]
            numbers = self.partition.students_of(part)
            condition = embedded(self.conditions, [prepared[i] for i in mine], self.device)
            students = [self.students[i] for i in numbers]
            sigma_init = self.members[numbers[0]].sigma_init
            x[mine] = sampled(self.partition, students, sigma_init, self.sampling, noises[:, mine], condition)
        return x


class EnsemblePipeline(DiffusionPipeline):  # type: ignore[misc]
    """Samples of an ensemble's conditions."""

    def __init__(self, students: EnsembleModel) -> None:
        super().__init__()
        self.register_modules(students=students)

    def __call__(
        self,
        conditions: int | str | Sequence[int | str],
        seeds: Sequence[int] | None = None,
        generator: torch.Generator | None = None,
        output_type: str = "pil",
    ) -> ImagePipelineOutput:
        """One sample of each condition, which is given by number or name, or is a prompt.

        seeds: one per condition, from which its noise follows as in `msd-ray generate`; without them `generator` draws
        it. output_type: "pil" for pictures, "pt" for the samples themselves, [N, *sample_shape]. Raises UserError for
        conditions that there are not, for another number of seeds, and for pictures of samples that have none.
        """
        known, shape, codec = self.students.conditions, self.students.sample_shape, self.students.codec
        if output_type not in ("pil", "pt") or (output_type == "pil" and codec.picture_shape(shape) is None):
            raise UserError("output_type must be 'pil' or 'pt'; samples without pictures are had as 'pt'")
        ids = [known.id_of(asked) for asked in ([conditions] if isinstance(conditions, int | str) else conditions)]
        if seeds is not None and len(seeds) != len(ids):
            raise UserError(f"{len(ids)} conditions but {len(seeds)} seeds: give one seed per condition")
        draws = self.students.sampling.draws
        if seeds is None:
            noises = torch.randn(draws, len(ids), *shape, generator=generator)
        else:
            noises = seeded_noises(seeds_of(seeds), shape, draws)
        x = self.students(noises.to(self.students.device, self.students.dtype), ids).cpu()
        if output_type == "pt":
            return ImagePipelineOutput(images=x)
        return ImagePipelineOutput(images=[Image.fromarray(to_image(picture)) for picture in codec.to_pixels(x)])


def of_ensemble(known: Description, members: Sequence[Member]) -> EnsemblePipeline:
    """The pipeline of all students of an ensemble. Raises CorruptError if their weights are damaged."""
    model = EnsembleModel(_body(known))
    for empty, member in zip(model.students, members, strict=True):
        empty.load_state_dict(member.build(known.conditions).state_dict())
    return EnsemblePipeline(model)


def _body(known: Description) -> dict[str, Any]:
    """The manifest's, which needs no other file. Of prompts that students were trained on nothing is left: their rule
    places any text."""
    body = known.manifest.body
    if not known.partition.rule:
        return body
    students = [student | {"conditions": 1} for student in body["students"]]
    return body | {"partition": known.partition.for_texts_alone(), "students": students}
