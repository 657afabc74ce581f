"""The ensemble on disk: a bundle of one safetensors file per student, described in the manifest's body.

body = {format_version, recipe, partition, labels, sampling, batching, students: [{index, part, conditions, file, spec,
sigma_init, nimg, parameters}]}

`conditions` is the number of those that a student owns. Format 7 has students that are told a guidance, in `sampling`.
Format 6 has students whose files hold adapters alone, which `adapter` describes, and in `base` the file of the weights
under them, as a plain network has them. Format 5 has students that divide a few steps among them, format 4 others of a
few steps; the rest are written as format 3. Formats 1 and 2 listed the conditions and had no `part`; format 1 has
neither `sampling` nor a spec's `sigma_min`. An ensemble without `batching` is exact.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from itertools import chain
from typing import Any, get_args

import torch
from torch import Tensor

from msd_ray.codecs import NO_CODEC, CodecConfig
from msd_ray.conditions import Conditions, ConditionsSpec, Partition, conditioned
from msd_ray.diffusion import EDMDenoiser
from msd_ray.ensemble.positions import Mode, batch_size_for, mode_for
from msd_ray.ensemble.sampling import ONE_STEP, Sampling
from msd_ray.ensemble.shared_base import SharedBase, kept_base
from msd_ray.errors import CorruptError, UserError, one_line
from msd_ray.networks import Adapter, DenoiserSpec
from msd_ray.networks.adapters import attach, load_own, merged
from msd_ray.networks.shapes import shapes_only
from msd_ray.networks.weights import StoredWeights, to_chunks
from msd_ray.storage import Chunks, Manifest, Store, read_file, read_manifest, write_bundle
from msd_ray.validation import made_of


@dataclass(frozen=True)
class Member:
    """index: the student's number. spec: how its network is built.

    sigma_init: noise level that its step starts from, or the first of a few. nimg: images it was trained
    on. weights: its state dict, or the file that it is kept in; of its adapters alone, where it has any. adapter: what
    these are like. base: the weights that they change.
    """

    index: int
    spec: DenoiserSpec
    sigma_init: float
    nimg: int
    weights: dict[str, Tensor] | StoredWeights = field(repr=False, compare=False)
    adapter: Adapter | None = None
    base: SharedBase | None = field(default=None, repr=False, compare=False)

    def read(self) -> dict[str, Tensor]:
        """The state dict that its network has without adapters, these merged. Raises CorruptError if a file is damaged
        or they do not fit each other."""
        own = self._own()
        if not (self.adapter and self.base):
            return own
        try:
            return merged(self.base.on("cpu"), own, self.adapter)
        except (KeyError, RuntimeError) as error:
            raise self._misfit(error) from error

    def merged(self) -> "Member":
        """The same student without adapters. Raises CorruptError as `read`."""
        return replace(self, weights=self.read(), adapter=None, base=None) if self.adapter else self

    def build(self, conditions: Conditions | None, device: torch.device | str = "cpu") -> EDMDenoiser:
        """The student of these conditions ready to generate, in float32; without conditions it takes what they embed.
        Those built on one base share its memory. Raises CorruptError if the weights do not fit the spec, or the file is
        damaged."""
        weights = {name: value.float() for name, value in self._own().items()}
        try:
            with shapes_only():
                network = conditioned(self.spec.build(), conditions) if conditions else self.spec.build()
            if self.adapter and self.base:
                network.load_state_dict(self.base.on(device), assign=True)
                attach(network, self.adapter)
            load_own(network, weights, assign=True)
        except (RuntimeError, ValueError, TypeError, AssertionError) as error:
            raise self._misfit(error) from error
        return network.to(device).eval().requires_grad_(False)

    def _own(self) -> dict[str, Tensor]:
        return self.weights.read() if isinstance(self.weights, StoredWeights) else self.weights

    def _misfit(self, error: Exception) -> CorruptError:
        return CorruptError(f"the weights of student {self.index} do not fit its network: {one_line(error)}")


FORMAT_VERSION = 7
BASE = "base.safetensors"


@dataclass(frozen=True)
class Description:
    """An ensemble without its weights. labels: name of each condition. recipe: of its training. sampling: how its
    students make a sample. codec: what samples look like. batching: what the service promises of a sample."""

    store: Store
    manifest: Manifest
    recipe: dict[str, Any]
    partition: Partition
    labels: tuple[str, ...]
    sampling: Sampling
    codec: CodecConfig = NO_CODEC
    batching: Mode = "exact"

    @property
    def conditions_spec(self) -> ConditionsSpec:
        return conditions_spec(self.recipe, self.labels)

    @cached_property
    def conditions(self) -> Conditions:
        """What it can be asked for. Raises UserError where they are a user's own that cannot be imported here."""
        return self.conditions_spec.make()


def conditions_spec(recipe: dict[str, Any], labels: Sequence[str]) -> ConditionsSpec:
    """Of an ensemble that this recipe trained on data of these labels. Raises CorruptError as `ConditionsSpec`."""
    return ConditionsSpec.from_json({**recipe.get("conditions", {}), "labels": labels})


def save_ensemble(
    store: Store,
    recipe: dict[str, Any],
    partition: Partition,
    labels: tuple[str, ...],
    members: Sequence[Member],
    sampling: Sampling = ONE_STEP,
    codec: CodecConfig = NO_CODEC,
) -> None:
    """Writes an ensemble into the directory `store`, atomically.

    recipe: fit for JSON. members: one per student, in order; weights in files are copied. Raises ValueError if the
    arguments contradict each other, CorruptError if such a file is damaged, UserError if the store cannot be written
    to.
    """
    problem = contradiction(partition, conditions_spec(recipe, labels).make(), members, sampling)
    if problem:
        raise ValueError(problem)
    body: dict[str, Any] = {
        "format_version": _format(partition, members, sampling),
        "recipe": recipe,
        "partition": partition.to_json(),
        "labels": labels,
        "sampling": sampling.to_json(),
        "batching": mode_for(min(map(_batch_size, members))),
        "students": [_described(member, partition) for member in members],
        **({"codec": codec.to_json()} if codec.to_json() else {}),
    }
    bases = [member.base.weights for member in members if member.base][:1]
    body |= {"base": BASE} if bases else {}
    shared = ((BASE, _content(base)) for base in bases)
    students = ((_file(member.index), _content(member.weights)) for member in members)
    write_bundle(store, body, chain(partition.files.items(), shared, students))


def _format(partition: Partition, members: Sequence[Member], sampling: Sampling) -> int:
    """The first version whose readers understand all of it."""
    if sampling.guidance is not None:
        return 7
    if any(member.adapter for member in members):
        return 6
    return (5 if partition.borders else 4) if sampling.levels else 3


def read_description(store: Store) -> Description:
    """The ensemble's manifest, without reading weights: enough to route, or to find one student with `read_member`.

    Raises UserError if there is no ensemble, or one of a newer format; CorruptError if it is damaged.
    """
    try:
        manifest = read_manifest(store)
    except FileNotFoundError as error:
        raise UserError(f"no ensemble at {store.uri}: it has no manifest.json") from error
    version = manifest.body.get("format_version")
    if type(version) is not int:
        raise UserError(f"no ensemble at {store.uri}: its manifest is of something else")
    if version > FORMAT_VERSION:
        raise UserError(
            f"{store.uri} was written by a newer msd_ray (format {version}, this one reads {FORMAT_VERSION}): upgrade"
        )
    return described(store, manifest)


def described(store: Store, manifest: Manifest) -> Description:
    """What the manifest of an ensemble says. Raises CorruptError where it makes no sense."""
    try:
        body = manifest.body
        labels, recipe = tuple(str(label) for label in body["labels"]), dict(body["recipe"])
        partition, sampling = Partition.from_json(body["partition"], partial(read_file, store, manifest)), ONE_STEP
        if "sampling" in body:
            sampling = Sampling.from_json(body["sampling"])
        codec, batching = CodecConfig.from_json(body.get("codec", {})), body.get("batching", "exact")
        if batching not in get_args(Mode):
            raise ValueError(f"no batching {batching!r}")
        return Description(store, manifest, recipe, partition, labels, sampling, codec, batching)
    except (KeyError, TypeError, ValueError) as error:
        raise _nonsense(store, error) from error


def read_member(description: Description, index: int) -> Member:
    """Student `index` of the ensemble, its weights left in their file; raises CorruptError if its description is
    damaged."""
    store, manifest = description.store, description.manifest
    try:
        raw = manifest.body["students"][index]
        file, spec = str(raw["file"]), DenoiserSpec.from_json(raw["spec"])
        facts = int(raw["index"]), spec, float(raw["sigma_init"]), int(raw["nimg"])
        _check_owned(raw, description.partition, index)
        adapter = made_of(Adapter, raw["adapter"]) if "adapter" in raw else None
        base = kept_base(StoredWeights(store, manifest, str(manifest.body["base"]))) if adapter else None
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise _nonsense(store, error) from error
    return Member(*facts, StoredWeights(store, manifest, file), adapter, base)


def _check_owned(raw: dict[str, Any], partition: Partition, index: int) -> None:
    """Raises ValueError if the student was trained on other conditions than the partition gives it."""
    ids, said = partition.router.ids_of(partition.part_of_student(index)).tolist(), raw["conditions"]
    if (said if isinstance(said, list) else int(said)) != (ids if isinstance(said, list) else len(ids)):
        raise ValueError(f"student {index} was trained on other conditions than the partition gives it")


def contradiction(
    partition: Partition, conditions: Conditions, members: Sequence[Member], sampling: Sampling
) -> str | None:
    """What is wrong with the parts of an ensemble, in one line; None if they fit together."""
    if conditions.is_open != (partition.rule is not None):
        return f"a partition that cannot place {conditions.called[1]}"
    if not conditions.is_open and conditions.n != partition.router.n:
        return f"{conditions.n} labels for {partition.router.n} conditions"
    if [member.index for member in members] != list(range(partition.k)):
        return f"the partition has students 0 to {partition.k - 1}, but not exactly these are given, in order"
    for member in members:
        if member.spec.classes not in (0, conditions.width):
            return f"student {member.index} knows {member.spec.classes} conditions instead of {conditions.width}"
        if member.spec.sample_shape != members[0].spec.sample_shape:
            return f"student {member.index} makes samples of another shape than student 0"
    if any(bool(member.adapter) != bool(member.base) for member in members):
        return "adapters need the weights that they change, and other students have none"
    if len({id(member.base) for member in members if member.base}) > 1:
        return "the adapters change different weights"
    if partition.borders and sampling == ONE_STEP:
        return "students that share the noise levels cannot make a sample in a single step"
    if problem := sampling.problem(partition):
        return problem
    for member in members if sampling.levels else ():
        if member.sigma_init != partition.steps_of(member.index, sampling.levels)[0]:
            return f"the first step of student {member.index} begins at another noise level than the ensemble's"
    return None


def _described(member: Member, partition: Partition) -> dict[str, Any]:
    spec, part = member.spec.to_json(), partition.part_of_student(member.index)
    if not member.spec.sigma_min:
        del spec["sigma_min"]  # so that the student's hash stays what it was in format 1
    return {
        "index": member.index,
        "part": part,
        "conditions": len(partition.router.ids_of(part)),
        "file": _file(member.index),
        "spec": spec,
        "sigma_init": member.sigma_init,
        "nimg": member.nimg,
        "parameters": member.spec.parameters(),
        **({"adapter": asdict(member.adapter)} if member.adapter else {}),
    }


def _batch_size(member: Member) -> int:
    return batch_size_for(member.spec.parameters(), math.prod(member.spec.sample_shape[1:]))


def _content(weights: dict[str, Tensor] | StoredWeights) -> Chunks:
    return weights.chunks if isinstance(weights, StoredWeights) else partial(to_chunks, weights)


def _file(index: int) -> str:
    return f"student-{index:04d}.safetensors"


def _nonsense(store: Store, error: Exception) -> CorruptError:
    return CorruptError(f"the manifest of the ensemble at {store.uri} makes no sense ({type(error).__name__}: {error})")
