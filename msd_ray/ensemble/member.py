"""One student of an ensemble, at rest: its description and its weights."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from msd_ray.diffusion import EDMDenoiser
from msd_ray.errors import CorruptError
from msd_ray.networks import DenoiserSpec
from msd_ray.networks.weights import StoredWeights


@dataclass(frozen=True)
class Member:
    """index: the student's number. conditions: the classes it owns, rising. spec: how its network is built.

    sigma_init: noise level that its step starts from, if it makes samples in a single one. nimg: images it was trained
    on. weights: its state dict, or the file that it is kept in.
    """

    index: int
    conditions: tuple[int, ...]
    spec: DenoiserSpec
    sigma_init: float
    nimg: int
    weights: dict[str, Tensor] | StoredWeights = field(repr=False, compare=False)

    def read(self) -> dict[str, Tensor]:
        """Its state dict. Raises CorruptError where the file is damaged."""
        return self.weights.read() if isinstance(self.weights, StoredWeights) else self.weights

    def build(self, device: torch.device | str = "cpu") -> EDMDenoiser:
        """The student ready to generate, in float32. Raises CorruptError where the weights do not fit the spec, or the
        file is damaged."""
        weights = self.read()
        try:
            with torch.device("meta"):
                network = self.spec.build()
            network.load_state_dict({name: value.float() for name, value in weights.items()}, assign=True)
        except (RuntimeError, ValueError, TypeError, AssertionError) as error:
            reason = " ".join(str(error).split())
            raise CorruptError(f"the weights of student {self.index} do not fit its network: {reason}") from error
        return network.to(device).eval().requires_grad_(False)
