"""Our UNet with the weights of the authors' networks, under other names, computes what theirs compute.

In float32, as networks train; their results are in float64.
"""

import re
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

from msd_ray.diffusion import EDMDenoiser, Noise, heun
from msd_ray.networks import DenoiserSpec, UNetConfig

from .vectors import Vectors, close

TOLERANCE = 1e-5


# EDM.

BLOCK = {"norm2": "attention.norm", "qkv": "attention.qkv", "proj": "attention.proj"}
OUTER = {
    "map_layer0": "embedding.noise_in",
    "map_layer1": "embedding.noise_out",
    "map_label": "embedding.label",
    "out_norm": "norm_out",
    "out_conv": "conv_out",
}


def places(weights: dict[str, Tensor]) -> dict[str, str]:
    """Where each of their blocks is in ours: `enc.8x8_down` -> `down.1`."""
    blocks = {".".join(name.split(".")[1:3]): None for name in weights}
    enc, dec = ([b for b in blocks if b.startswith(f"{half}.")] for half in ("enc", "dec"))
    down = {block: f"down.{i}" for i, block in enumerate(enc[1:])}
    up = {block: f"up.{i}" for i, block in enumerate(dec[2:])}
    return {enc[0]: "conv_in", **down, dec[0]: "middle.0", dec[1]: "middle.1", **up}


def from_edm(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    ours, where = {}, places(weights)
    for name, value in weights.items():
        _, first, *rest = name.split(".")
        if first in OUTER:
            ours[".".join([OUTER[first], *rest])] = value
            continue
        block, *layer = rest
        if layer[0] == "qkv":  # rows by (head, channel, part) there, by (part, head, channel) here
            heads = max(1, len(value) // 3 // 64)
            value = value.unflatten(0, (heads, -1, 3)).movedim(2, 0).flatten(0, 2)
        ours[".".join([where[f"{first}.{block}"], *(BLOCK.get(part, part) for part in layer)])] = value
    return ours


def edm_network(name: str) -> EDMDenoiser:
    v = Vectors(name)
    c = v.json("config")
    config = UNetConfig(
        channels=c["model_channels"],
        multipliers=tuple(c["channel_mult"]),
        blocks=c["num_blocks"],
        attention=tuple(c["attn_resolutions"]),
        dropout=c["dropout"],
    )
    image = (c["img_channels"], c["img_resolution"], c["img_resolution"])
    denoiser = DenoiserSpec(config, image, c["label_dim"]).build().eval().requires_grad_(False)
    weights = {name: value for name, value in v.weights().items() if not name.endswith("resample_filter")}
    denoiser.network.load_state_dict(from_edm(weights))
    return denoiser


@pytest.mark.parametrize("name", ["edm-adm", "edm-adm-two-heads"])
def test_edms_network(name: str) -> None:
    """At small noise the denoiser is nearly the identity, so its network is compared as well."""
    v, denoiser = Vectors(name, "EDMPrecond/"), edm_network(name)
    x, sigma, label = v["x"], v["sigma"].float(), v["labels"]
    scaled = x / (sigma**2 + 0.25).sqrt().reshape(-1, 1, 1, 1)
    close(denoiser.network(scaled, sigma.log() / 4, label).double(), v["F"], TOLERANCE)
    close(denoiser(x, sigma, label).double(), v["D"], TOLERANCE)


def test_edms_network_without_a_condition() -> None:
    v, denoiser = Vectors("edm-adm", "EDMPrecond/"), edm_network("edm-adm")
    none = torch.zeros_like(v["labels"])
    close(denoiser(v["x"], v["sigma"].float(), none).double(), v["D_no_label"], TOLERANCE)


# Its deterministic sampler.

OTHERS = {
    "heun-cond": "DDPM++",
    "heun-uncond": "DDPM++",
    "stochastic": "DDPM++, and a sampler with churn",
    "ve": "NCSN++ and the VE preconditioning",
    "iddpm": "the iDDPM preconditioning",
}


@pytest.mark.parametrize(
    "case",
    ["heun-adm", *(pytest.param(c, marks=pytest.mark.skip(reason=f"msd_ray has no {w}")) for c, w in OTHERS.items())],
)
def test_the_sampler(case: str) -> None:
    v = Vectors("samplers", f"{case}/")
    settings = v.json("config")
    denoiser, asked = edm_network(settings["file"]).double(), []

    def noting(x: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        asked.append((x, float(sigma[0])))
        return denoiser(x, sigma, condition)

    x = heun(noting, v["latents"].double(), v["labels"], Noise(), settings["num_steps"])
    assert [sigma for _, sigma in asked] == pytest.approx(v["sigmas_asked"].tolist(), rel=1e-6)
    close(torch.stack([x for x, _ in asked[:4]]), v["first_inputs"], 1e-6)
    close(x, v["sample"], 1e-6)


# OpenAI's guided-diffusion.

LAYERS = {
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
HALVES = {"input": "down", "middle": "middle", "output": "up"}
ENDS = {
    "time_embed.0": "embedding.noise_in",
    "time_embed.2": "embedding.noise_out",
    "label_emb": "embedding.label",
    "input_blocks.0.0": "conv_in",
    "out.0": "norm_out",
    "out.2": "conv_out",
}


def from_openai(weights: dict[str, Tensor], heads: int, new_order: bool) -> dict[str, Tensor]:
    """Their state dict is in the order of the network, so blocks are counted as they come."""
    ours: dict[str, Tensor] = {}
    counted: Counter[str] = Counter()
    for name, value in weights.items():
        path, _, kind = name.rpartition(".")
        if path in ENDS:
            ours[f"{ENDS[path]}.{kind}"] = value.T if path == "label_emb" else value
            continue
        half, layer = re.fullmatch(r"([a-z]+)_blocks?(?:\.\d+)+\.(\D.*)", path).groups()  # type: ignore[union-attr]
        counted[half] += (layer, kind) == ("in_layers.0", "weight")
        if layer == "qkv" and not new_order:  # rows by (head, part, channel)
            value = value.unflatten(0, (heads, 3, -1)).movedim(1, 0).flatten(0, 2)
        if layer in ("qkv", "proj_out") and kind == "weight":
            value = value.reshape(*value.shape[:2], 1, 1)
        ours[f"{HALVES[half]}.{counted[half] - 1}.{LAYERS[layer]}.{kind}"] = value
    return ours


def openai_network(new_order: bool) -> EDMDenoiser:
    v = Vectors("openai-adm")
    c: Any = v.json("config")
    size, channels = c["image_size"], c["model_channels"]
    config = UNetConfig(
        channels=channels,
        multipliers=tuple(c["channel_mult"]),
        blocks=c["num_res_blocks"],
        attention=tuple(size // factor for factor in c["attention_resolutions"]),
        head_channels=c["num_head_channels"],
        dropout=c["dropout"],
    )
    spec = DenoiserSpec(config, (c["in_channels"], size, size), c["num_classes"])
    denoiser = spec.build().eval().requires_grad_(False)
    heads = channels * c["channel_mult"][-1] // c["num_head_channels"]
    denoiser.network.load_state_dict(from_openai(v.weights(), heads, new_order))
    return denoiser


@pytest.mark.parametrize(("theirs", "new_order"), [("head_3_channel", False), ("3_head_channel", True)])
def test_openais_network(theirs: str, new_order: bool) -> None:
    v, network = Vectors("openai-adm"), openai_network(new_order).network
    ours = network(v["x"], v["c_noise"].float(), v["labels"])
    close(ours.double(), v[f"out/{theirs}"], 3e-5)  # the noise level enters a thousand times larger: rounded angles
