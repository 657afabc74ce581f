"""A teacher that is kept as a bundle: trained here, or converted from a file of another format."""

import logging
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from msd_ray.conditions import ConditionsSpec, conditioned
from msd_ray.diffusion import EDMDenoiser
from msd_ray.errors import CorruptError
from msd_ray.networks import DenoiserSpec
from msd_ray.networks.shapes import shapes_only
from msd_ray.networks.weights import StoredWeights, to_chunks
from msd_ray.storage import Store, digest, read_manifest, verify, write_bundle

_FILE = "denoiser.safetensors"
log = logging.getLogger(__name__)


def has_teacher(store: Store) -> bool:
    """Whether a folder holds a whole teacher; a damaged one counts as none, with a warning."""
    try:
        verify(store)
    except FileNotFoundError:
        return False
    except CorruptError as error:
        log.warning("%s; the teacher is made anew", error)
        return False
    return True


@dataclass(frozen=True)
class KeptTeacher:
    """The TeacherSource of a teacher that was trained or converted here. folder: where it is kept. Everything raises
    FileNotFoundError or CorruptError where there is none."""

    folder: Store

    @property
    def fingerprint(self) -> str:
        manifest = read_manifest(self.folder)
        return str(manifest.body.get("fingerprint") or digest([entry.sha256 for entry in manifest.files.values()]))

    @property
    def spec(self) -> DenoiserSpec:
        return DenoiserSpec.from_json(read_manifest(self.folder).body["spec"])

    @property
    def sample_shape(self) -> tuple[int, ...]:
        return self.spec.sample_shape

    @property
    def classes(self) -> int:
        return self.spec.classes

    @property
    def parameters(self) -> int:
        return self.spec.parameters()

    @property
    def origin(self) -> dict[str, str]:
        """Of a converted one: format, network and licence."""
        return dict(read_manifest(self.folder).body.get("origin", {}))

    @property
    def facts(self) -> dict[str, float]:
        """What its training cost, if it was trained here: wall_seconds and cpu_seconds."""
        facts: dict[str, float] = read_manifest(self.folder).body["facts"]
        return facts

    def open(self, device: torch.device) -> EDMDenoiser:
        with shapes_only():
            denoiser = self.spec.build()
        denoiser.load_state_dict(self.weights(), assign=True)
        if known := read_manifest(self.folder).body.get("conditions"):
            conditioned(denoiser, ConditionsSpec.from_json(known).make())
        return denoiser.eval().requires_grad_(False).to(device)

    def weights(self) -> dict[str, Tensor]:
        return StoredWeights(self.folder, read_manifest(self.folder), _FILE).read()


def keep(store: Store, spec: DenoiserSpec, weights: dict[str, Tensor], body: dict[str, Any]) -> None:
    """Writes the bundle. weights: the state dict of what `spec` builds. body: what else its manifest says."""
    write_bundle(store, {"spec": spec.to_json()} | body, [(_FILE, partial(to_chunks, weights))])
