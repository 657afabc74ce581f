"""How all U-shaped networks pass samples through their blocks. What their blocks are is each one's own."""

from torch import Tensor, nn

from msd_ray.diffusion import Network
from msd_ray.networks.layers import joined, normed


class UShaped(Network):
    """A network whose halves are joined by skips: blocks of `up` that do not resample take the features of the
    first half too, the last one first. last_of_level: the place of each level's last feature among these."""

    embedding: nn.Module
    middle: nn.ModuleList
    up: nn.ModuleList
    norm_out: nn.GroupNorm
    conv_out: nn.Module
    last_of_level: list[int]

    def forward(self, x: Tensor, c_noise: Tensor, condition: Tensor) -> Tensor:
        emb = self.embedding(c_noise, condition)
        skips = self._encode(x, emb)
        h = skips[-1]
        for block in self.middle:
            h = block(h, emb)
        for block in self.up:
            h = block(h if block.resample else joined(h, skips.pop()), emb)
        out: Tensor = self.conv_out(normed(self.norm_out, h))
        return out

    def encode(self, x: Tensor, c_noise: Tensor, condition: Tensor) -> list[Tensor]:
        """The encoder's last feature map of each level, [B, *feature_shapes[level]]."""
        features = self._encode(x, self.embedding(c_noise, condition))
        return [features[i] for i in self.last_of_level]

    def _encode(self, x: Tensor, emb: Tensor) -> list[Tensor]:
        """All features of the first half, in their order."""
        raise NotImplementedError
