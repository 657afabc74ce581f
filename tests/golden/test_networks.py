"""Our networks with the weights of the authors' compute what theirs compute, in float64."""

import re
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

from msd_ray.diffusion import EDMDenoiser, Noise, heun
from msd_ray.networks import DenoiserSpec, UNetConfig
from msd_ray.teachers.edm import from_official, spec_of
from msd_ray.teachers.edm_pickle import Node

from .vectors import Vectors, close

# EDM.

NETWORKS = {
    "edm-adm": ["EDM"],
    "edm-adm-two-heads": ["EDM"],
    "edm-iddpm": ["iDDPM"],
    "edm-ddpmpp-cond": ["EDM", "VP", "VE"],
    "edm-ddpmpp-uncond": ["EDM", "VP", "VE"],
    "edm-ncsnpp-cond": ["EDM", "VE"],
    "edm-ncsnpp-uncond": ["EDM", "VE"],
}
CASES = [(name, kind) for name, kinds in NETWORKS.items() for kind in kinds]


def edm_network(name: str, kind: str) -> EDMDenoiser:
    """In float64."""
    v = Vectors(name)
    c = v.json("config")
    model = Node(c.pop("model_type"), {"_init_kwargs": c})
    spec = spec_of(Node(f"{kind}Precond", {"_init_kwargs": c, "_modules": {"model": model}}))
    weights = {n.removeprefix("model."): value for n, value in v.weights().items() if n.startswith("model.")}
    denoiser = spec.build().eval().requires_grad_(False)
    denoiser.load_state_dict(from_official(weights, spec))
    return denoiser.double()


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_edms_network(name: str, kind: str) -> None:
    """At small noise the denoiser is nearly the identity, so its network is compared as well."""
    v, denoiser = Vectors(name, f"{kind}Precond/"), edm_network(name, kind)
    x, sigma = v["x"].double(), v["sigma"]
    label = v["labels"] if v.has("labels") else torch.zeros(len(x), 0)
    c = denoiser.preconditioning.coefficients(sigma, 0.5)
    if v.has("c_noise"):
        close(c.c_noise, v["c_noise"])
    f = denoiser.network(x / c.scale.reshape(-1, 1, 1, 1), c.c_noise, label)
    close(f, v["F"][:, : x.shape[1]])  # iDDPM's variances apart
    close(denoiser(x, sigma, label), v["D"])
    assert denoiser.features(x, sigma, label)[-1].shape[1:] == denoiser.network.bottleneck_shape


@pytest.mark.parametrize("name", ["edm-adm", "edm-ddpmpp-cond", "edm-ncsnpp-cond"])
def test_edms_network_without_a_condition(name: str) -> None:
    v, denoiser = Vectors(name, "EDMPrecond/"), edm_network(name, "EDM")
    none = torch.zeros_like(v["labels"])
    close(denoiser(v["x"].double(), v["sigma"], none), v["D_no_label"])


# Its deterministic sampler.

OTHERS = {"stochastic": "a sampler with churn", "ve": "its own range of noise", "iddpm": "rounded noise levels"}


@pytest.mark.parametrize(
    "case",
    [
        *("heun-adm", "heun-cond", "heun-uncond"),
        *(pytest.param(c, marks=pytest.mark.skip(reason=f"msd_ray has no {w}")) for c, w in OTHERS.items()),
    ],
)
def test_the_sampler(case: str) -> None:
    v = Vectors("samplers", f"{case}/")
    settings = v.json("config")
    denoiser, asked = edm_network(settings["file"], settings["precond"].removesuffix("Precond")), []

    def noting(x: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        asked.append((x, float(sigma[0])))
        return denoiser(x, sigma, condition)

    labels = v["labels"] if v.has("labels") else torch.zeros(2, 0)
    x = heun(noting, v["latents"].double(), labels, Noise(), settings["num_steps"])
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
