"""Teachers in OpenAI's files, plain state dicts of ADM (arXiv 2105.05233): `64x64_diffusion.pt` of guided-diffusion,
`edm_imagenet64_ema.pt` and the one-step models `cd_*.pt` and `ct_*.pt` of consistency_models (arXiv 2303.01469)."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from torch import Tensor

from msd_ray.networks import DenoiserSpec
from msd_ray.ranges import Width, within
from msd_ray.teachers.checkpoint import Checkpoint, check_weights, tensors_of
from msd_ray.teachers.safe_pickle import Array
from msd_ray.teachers.torch_file import read_state_dict

LICENCE = "MIT if OpenAI trained it (its model card says research, not deployment; students inherit it)"
_RESOLUTIONS = {(1, 2, 3, 4): 64, (1, 1, 2, 3, 4): 128, (1, 1, 2, 2, 4, 4): 256}
_LAYERS = {
    "in_layers.0": "norm0",
    "in_layers.2": "conv0",
    "emb_layers.1": "affine",
    "out_layers.0": "norm1",
    "out_layers.3": "conv1",
    "skip_connection": "skip",
    "norm": "attention.norm",
    "qkv": "attention.qkv",
    "proj_out": "attention.proj",
}
_ENDS = {
    "time_embed.0": "embedding.noise_in",
    "time_embed.2": "embedding.noise_out",
    "label_emb": "embedding.label",
    "input_blocks.0.0": "conv_in",
    "out.0": "norm_out",
    "out.2": "conv_out",
}


@dataclass(frozen=True)
class ADMFile:
    """What such a file does not say itself. resolution: 0 where the widths of its levels tell it. head_channels: of
    each head of its attention. attention_order: "new" as in all files above, "legacy" where guided-diffusion trained
    without its use_new_attention_order. sigma_min: 0.002 for the one-step models, which are the identity there."""

    path: str
    resolution: Annotated[int, within(ge=0, le=2**16)] = 0
    head_channels: Width = 64
    attention_order: Literal["new", "legacy"] = "new"
    sigma_min: Annotated[float, within(ge=0, le=1e6)] = 0.0

    def read(self) -> Checkpoint:
        """Raises one of `DAMAGES`, with the reason, where the file holds no such teacher."""
        stored = read_state_dict(Path(self.path))
        spec = self._spec(stored)
        weights = self._renamed(tensors_of(stored, Path(self.path)), spec)
        check_weights(spec, weights)
        counted = sum(value.size for value in stored.values())
        return Checkpoint("adm", "ADM", counted, spec, weights, LICENCE)

    def _spec(self, stored: Mapping[str, Array]) -> DenoiserSpec:
        channels, image = stored["time_embed.0.weight"].shape[1], stored["input_blocks.0.0.weight"].shape[1]
        if channels < 128 or channels % 32:
            raise ValueError("its width is not a multiple of 32 of at least 128, as those of OpenAI's networks are")
        blocks, multipliers, attends = _levels(stored, channels)
        resolution = self.resolution or _RESOLUTIONS.get(multipliers)
        if not resolution:
            raise ValueError("its resolution cannot be told from its levels; set the option `resolution`")
        labels = stored.get("label_emb.weight")
        described = {
            "network": {
                **{"kind": "unet", "channels": channels, "multipliers": multipliers, "blocks": blocks, "dropout": 0.0},
                **{"attention": [resolution >> level for level in attends], "head_channels": self.head_channels},
            },
            "sample_shape": (image, resolution, resolution),
            "classes": 0 if labels is None else len(labels),
            "sigma_min": self.sigma_min,
            "preconditioning": _preconditioning(len(stored["out.2.weight"]), image),
        }
        return DenoiserSpec.from_json(described)

    def _renamed(self, stored: Mapping[str, Tensor], spec: DenoiserSpec) -> dict[str, Tensor]:
        """The state dict of what `spec` builds. Variances, which sampling does not need, are left out."""
        ours, places = dict[str, Tensor](), _places(stored)
        for name, value in stored.items():
            path, _, kind = name.rpartition(".")
            if path == "label_emb":
                value = value.T
            elif path.endswith(".qkv"):
                value = self._reordered(value)
            elif path == "out.2":
                value = value[: spec.sample_shape[0]]
            if path.endswith((".qkv", ".proj_out")) and kind == "weight":
                value = value.reshape(*value.shape[:2], 1, 1)
            ours[f"network.{_renamed(path, places)}.{kind}"] = value.contiguous()
        return ours

    def _reordered(self, value: Tensor) -> Tensor:
        """Rows of queries, keys and values: by (part, head, channel) here, and by (head, part, channel) in legacy."""
        if self.attention_order == "new":
            return value
        heads = len(value) // 3 // self.head_channels
        return value.reshape(heads, 3, -1, *value.shape[1:]).movedim(1, 0).reshape(value.shape)


def _levels(names: Mapping[str, Array], channels: int) -> tuple[int, tuple[int, ...], list[int]]:
    """Residual blocks per level, the width factor of each level, and the levels with attention. The last entry of each
    level on the way up has one block more, which doubles the resolution."""
    up, down = _residual(names, "output_blocks"), _residual(names, "input_blocks")
    if not up:
        raise ValueError("it is no state dict of OpenAI's ADM: it has no output_blocks")
    entries = up[-1][0] + 1
    doubling = [i for i in range(entries) if sum(entry == i for entry, _ in up) == 2]
    blocks = doubling[0] if doubling else entries - 1
    if blocks < 1 or entries % (blocks + 1) or len(down) != entries - 1:
        raise ValueError("its blocks are not arranged as in OpenAI's ADM with resblock_updown")
    firsts = range(1, entries, blocks + 1)  # the first block of each level is after its halving or the convolution
    widths = [len(names[f"input_blocks.{i}.0.in_layers.2.weight"]) // channels for i in firsts]
    attends = [level for level, i in enumerate(firsts) if f"input_blocks.{i}.1.qkv.weight" in names]
    return blocks, tuple(widths), attends


def _preconditioning(outputs: int, channels: int) -> dict[str, Any]:
    """A network with variances beside its estimates was trained on iDDPM's schedule."""
    return {"kind": "iddpm"} if outputs == 2 * channels else {"kind": "edm", "noise_scale": 1000.0}


def _residual(names: Iterable[str], half: str) -> list[tuple[int, int]]:
    """The places of its residual blocks, in their order."""
    found = (re.fullmatch(rf"{half}\.(\d{{1,4}})\.(\d)\.in_layers\.0\.weight", name) for name in names)
    return sorted((int(match[1]), int(match[2])) for match in found if match)


def _places(names: Iterable[str]) -> dict[str, str]:
    """Where each of their blocks is in ours; an attention belongs to the block before it."""
    blocks, places = dict[str, str](), {"middle_block.1": "middle.0"}
    names = list(names)
    for half, ours in (("input_blocks", "down"), ("output_blocks", "up")):
        for n, (i, j) in enumerate(_residual(names, half)):
            blocks[f"{half}.{i}.{j}"] = places[f"{half}.{i}.{j + 1}"] = f"{ours}.{n}"
    return places | blocks | {"middle_block.0": "middle.0", "middle_block.2": "middle.1"}


def _renamed(path: str, places: Mapping[str, str]) -> str:
    """The place in ours of a layer; their own name where there is none."""
    if path in _ENDS:
        return _ENDS[path]
    block = re.match(r"[a-z]+_blocks?(\.\d+)+(?=\.[a-z])", path)
    if not block or block[0] not in places:
        return path
    layer = path[len(block[0]) + 1 :]
    return f"{places[block[0]]}.{_LAYERS.get(layer, layer)}"
