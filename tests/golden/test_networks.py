"""Our networks with the weights of the authors' compute what theirs compute, in float64."""

from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from msd_ray.diffusion import Churn, EDMDenoiser, Noise, heun, stochastic
from msd_ray.teachers.adm import ADMFile
from msd_ray.teachers.checkpoint import Checkpoint
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


# Its samplers.

ROUNDED = pytest.mark.skip(reason="msd_ray's samplers do not round the levels to the steps of the teacher's training")


@pytest.mark.parametrize(
    "case", ["heun-adm", "heun-cond", "heun-uncond", "stochastic", "ve", pytest.param("iddpm", marks=ROUNDED)]
)
def test_the_sampler(case: str) -> None:
    v = Vectors("samplers", f"{case}/")
    settings = v.json("config")
    denoiser, asked = edm_network(settings["file"], settings["precond"].removesuffix("Precond")), []
    noise = Noise(sigma_min=max(0.002, denoiser.preconditioning.span[0]))

    def noting(x: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        asked.append((x, float(sigma[0])))
        return denoiser(x, sigma, condition)

    labels = v["labels"] if v.has("labels") else torch.zeros(2, 0)
    z, steps = v["latents"].double(), settings["num_steps"]
    if case == "stochastic":
        churn = Churn(*(settings[name] for name in ("S_churn", "S_min", "S_max", "S_noise")))
        x = stochastic(noting, z, labels, noise, steps, churn, lambda step: v["noise"][step])
    else:
        x = heun(noting, z, labels, noise, steps)
    assert [sigma for _, sigma in asked] == pytest.approx(v["sigmas_asked"].tolist(), rel=1e-6)
    close(torch.stack([x for x, _ in asked[:4]]), v["first_inputs"], 1e-6)
    close(x, v["sample"], 1e-6)


# OpenAI's guided-diffusion and consistency_models.


def openai_file(folder: Path, weights: dict[str, Tensor], **options: Any) -> ADMFile:
    torch.save(weights, folder / "openai.pt")
    return ADMFile(str(folder / "openai.pt"), resolution=16, **options)


def built(checkpoint: Checkpoint) -> EDMDenoiser:
    denoiser = checkpoint.spec.build().eval().requires_grad_(False)
    denoiser.load_state_dict(checkpoint.weights)
    return denoiser.double()


@pytest.mark.parametrize(
    ("theirs", "order"),
    [("head_3_channel", "legacy"), ("3_head_channel", "new"), ("consistency_models", "new")],
)
def test_openais_network(tmp_path: Path, theirs: str, order: Literal["new", "legacy"]) -> None:
    v = Vectors("openai-adm")
    weights = v.weights()
    if theirs == "consistency_models":  # whose attention is of convolutions in two dimensions
        weights = {n: w[..., None] if n.endswith(("qkv.weight", "proj_out.weight")) else w for n, w in weights.items()}
    denoiser = built(openai_file(tmp_path, weights, attention_order=order).read())
    close(denoiser.network(v["x"].double(), v["c_noise"], v["labels"]), v[f"out/{theirs}"])


@pytest.mark.parametrize(("sigma_min", "theirs"), [(0.0, "D"), (0.002, "D_boundary")])
def test_openais_denoiser(tmp_path: Path, sigma_min: float, theirs: str) -> None:
    v = Vectors("openai-adm", "denoiser/")
    weights = Vectors("openai-adm").weights()
    denoiser = built(openai_file(tmp_path, weights, sigma_min=sigma_min).read())
    labels = Vectors("openai-adm")["labels"]
    close(denoiser(v["x_t"].double(), v["sigma"], labels), v[theirs], 1e-7)
