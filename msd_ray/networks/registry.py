"""The kinds of networks. A new one is a frozen dataclass with the methods of `Kind`, named in the two lines below."""

from typing import Protocol

from msd_ray.diffusion import Network
from msd_ray.networks.mlp import MLPConfig
from msd_ray.networks.sizes import StudentSize
from msd_ray.networks.unet import UNetConfig

KINDS = {"unet": UNetConfig, "mlp": MLPConfig}
NetworkConfig = UNetConfig | MLPConfig


class Kind(Protocol):
    """The shape of a network. What the data decides (resolution, channels, classes) is not part of it."""

    def build(self, sample_shape: tuple[int, ...], classes: int) -> Network:
        """A network for samples of this shape, [C, H, W] or [D], with fresh weights from torch's global random state.
        Raises ValueError where it cannot be built for them."""
        ...

    def cut(self, size: StudentSize) -> "Kind":
        """The shape of a student of that size. Raises ValueError where `size` says what this kind does not have."""
        ...

    def misfit(self, sample_shape: tuple[int, ...]) -> str:
        """What in its configuration makes no sense for samples of this shape, and what to write; empty for nothing."""
        ...
