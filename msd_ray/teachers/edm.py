"""Teachers in EDM's files, `network-snapshot-*.pkl` (arXiv 2206.00364): DDPM++, NCSN++ and ADM with its four kinds of
preconditioning. Nothing in the file is executed."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from msd_ray.networks import DenoiserSpec, Kind, UNetConfig
from msd_ray.teachers.checkpoint import Checkpoint, check_weights, tensors_of
from msd_ray.teachers.edm_pickle import Node, read_snapshot

LICENCE = "CC BY-NC-SA 4.0 if NVIDIA trained it (not for commercial use; students inherit it)"
_FORMS = {("positional", "standard", 1, (1, 1)): "ddpm++", ("fourier", "residual", 2, (1, 3, 3, 1)): "ncsn++"}
_PRECONDITIONINGS = {"EDMPrecond": "edm", "VPPrecond": "vp", "VEPrecond": "ve", "iDDPMPrecond": "iddpm"}
_NAMES = {
    "map_layer0": "embedding.noise_in",
    "map_layer1": "embedding.noise_out",
    "map_label": "embedding.label",
    "map_noise": "embedding",
    "out_norm": "norm_out",
    "out_conv": "conv_out",
    "norm2": "attention.norm",
    "qkv": "attention.qkv",
    "proj": "attention.proj",
}


@dataclass(frozen=True)
class EDMFile:
    path: str

    def read(self) -> Checkpoint:
        """Raises one of `DAMAGES`, with the reason, where the file holds no such teacher."""
        top = read_snapshot(Path(self.path))
        spec, stored = spec_of(top), top.tensors()
        official = {name.removeprefix("model."): value for name, (_, value) in stored.items() if name[:6] == "model."}
        weights = from_official(tensors_of(official, Path(self.path)), spec)
        check_weights(spec, weights)
        counted = sum(value.size for kind, value in stored.values() if kind == "_parameters")
        return Checkpoint("edm", getattr(spec.network, "form", "ADM").upper(), counted, spec, weights, LICENCE)


def spec_of(top: Node) -> DenoiserSpec:
    """Of the denoiser, without dropout. Raises ValueError, LookupError or CorruptError where there is none such."""
    model = top.child("model")
    c = model.arguments
    if c.get("channel_mult_emb", 4) != 4 or c.get("decoder_type", "standard") != "standard":
        raise ValueError("its network has an embedding or a decoder that no published one has")
    network = _adm(c) if model.name == "DhariwalUNet" else _songunet(c, model.name)
    described = {
        "network": network | {"channels": c["model_channels"], "blocks": c.get("num_blocks", 4), "dropout": 0.0},
        "sample_shape": (c["img_channels"], c["img_resolution"], c["img_resolution"]),
        "classes": c.get("label_dim", 0),
        "sigma_data": top.attributes.get("sigma_data", 0.5),
        "preconditioning": _preconditioning(top),
    }
    return DenoiserSpec.from_json(described)


def _adm(c: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "unet", "multipliers": c["channel_mult"], "attention": c["attn_resolutions"]}


def _songunet(c: dict[str, Any], name: str) -> dict[str, Any]:
    if name != "SongUNet":
        raise ValueError(f"its network is a {name!r}, neither a SongUNet nor a DhariwalUNet")
    how = c.get("embedding_type", "positional"), c.get("encoder_type", "standard"), c.get("channel_mult_noise", 1)
    form = _FORMS.get((*how, tuple(c.get("resample_filter", (1, 1)))))
    if form is None:
        raise ValueError("its SongUNet is neither DDPM++ nor NCSN++")
    shape = {"multipliers": c["channel_mult"], "attention": c.get("attn_resolutions", [16])}
    return {"kind": "songunet", "form": form, **shape}


def _preconditioning(top: Node) -> dict[str, Any]:
    c = top.arguments
    if c.get("M", 1000) != 1000 or (c.get("C_1", 0.001), c.get("C_2", 0.008)) != (0.001, 0.008):
        raise ValueError("its schedule is not the published one of 1000 steps")
    if top.name not in _PRECONDITIONINGS:
        known = ", ".join(_PRECONDITIONINGS)
        raise ValueError(f"its preconditioning is a {top.name!r}, which is none of {known}")
    kind = _PRECONDITIONINGS[top.name]
    return {"kind": kind} | ({name: c[name] for name in ("beta_d", "beta_min") if name in c} if kind == "vp" else {})


def from_official(weights: dict[str, Tensor], spec: DenoiserSpec) -> dict[str, Tensor]:
    """The state dict of what `spec` builds, from EDM's of the raw network, in the order of its layers.

    What inference does not need is left out: the augmentation's embedding, the filters, iDDPM's variances.
    """
    ours, places = dict[str, Tensor](), _places(weights)
    for name, value in weights.items():
        first, *rest = name.split(".")
        if first == "map_augment" or rest[-1:] == ["resample_filter"]:
            continue
        if first in ("enc", "dec"):
            first, rest = places[f"{first}.{rest[0]}"], rest[1:]
        where = ".".join(_NAMES.get(part, part) for part in (first, *rest))
        if ".qkv." in where:
            value = _reordered(value, spec.network)
        if where.startswith("conv_out."):
            value = value[: spec.sample_shape[0]]
        ours[f"network.{where}"] = value.contiguous()
    return ours


def _places(weights: dict[str, Tensor]) -> dict[str, str]:
    """Where each of their blocks is in ours: `enc.8x8_down` -> `down.1`."""
    blocks = list(dict.fromkeys(".".join(name.split(".")[:2]) for name in weights if re.match(r"(enc|dec)\.", name)))
    ends = {"aux_norm": "norm_out", "aux_conv": "conv_out"}
    places = {block: ends[end] for block in blocks if (end := block.partition("_")[2]) in ends}
    images = [block for block in blocks if block.endswith("_aux_residual")]
    enc = [block for block in blocks if block.startswith("enc.") and block not in images]
    dec = [block for block in blocks if block.startswith("dec.") and block not in places]
    lists = {"down": enc[1:], "images": images, "middle": dec[:2], "up": dec[2:]}
    for ours, theirs in lists.items():
        places |= {block: f"{ours}.{i}" for i, block in enumerate(theirs)}
    return places | dict.fromkeys(enc[:1], "conv_in")


def _reordered(value: Tensor, network: Kind) -> Tensor:
    """Rows of queries, keys and values: by (head, channel, part) there, by (part, head, channel) here."""
    heads = len(value) // 3 // 64 if isinstance(network, UNetConfig) else 1
    if heads < 1:
        raise ValueError("its network has fewer than 64 channels, and so no attention in EDM")
    return value.reshape(heads, -1, 3, *value.shape[1:]).movedim(2, 0).reshape(value.shape)
