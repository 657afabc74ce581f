"""In which numbers networks compute, and that one file decides it."""

import ast
import copy
from pathlib import Path

import torch

import msd_ray
from msd_ray.diffusion import EDMDenoiser
from msd_ray.networks import DenoiserSpec, MLPConfig
from msd_ray.training import precision
from msd_ray.training.config import TrainingConfig

SPEC = DenoiserSpec(MLPConfig(width=16, blocks=2), (2,), 3)
X, SIGMA, CONDITION = torch.randn(6, 2), torch.tensor([0.01, 0.1, 0.5, 1.0, 5.0, 80.0]), torch.arange(6) % 3
DECIDING = {"autocast", "compile", "channels_last", "set_float32_matmul_precision", "allow_tf32", "bfloat16", "float16"}
ELSEWHERE = {"networks/weights.py", "cluster/pool/wire.py", "codecs/vae.py"}
"""They name types of tensors too: of a file, on the wire, and of a decoder, which never trains."""


def denoisers() -> tuple[EDMDenoiser, EDMDenoiser]:
    """The same weights in fp32 and in bf16."""
    torch.manual_seed(0)
    exact = SPEC.build()
    return exact, precision.apply(copy.deepcopy(exact), TrainingConfig(precision="bf16"))


def test_bf16_stays_near_fp32_and_keeps_the_type_of_the_input() -> None:
    exact, rough = denoisers()
    a, b = exact(X, SIGMA, CONDITION), rough(X, SIGMA, CONDITION)
    assert b.dtype == torch.float32
    assert rough.bottleneck(X, SIGMA, CONDITION).dtype == torch.float32
    assert not torch.equal(a, b)
    assert torch.allclose(a, b, atol=0.05)


def test_bf16_autocasts_the_network_and_not_what_is_around_it() -> None:
    exact, rough = denoisers()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        f = exact.network(X / (SIGMA[:, None] ** 2 + 0.25).sqrt(), SIGMA.log() / 4, CONDITION)
    s = SIGMA[:, None]
    by_hand = 0.25 / (s**2 + 0.25) * X + s * 0.5 / (s**2 + 0.25).sqrt() * f.float()
    assert f.dtype == torch.bfloat16
    assert torch.equal(rough(X, SIGMA, CONDITION), by_hand)
    assert all(p.dtype == torch.float32 for p in rough.parameters())


def test_fp32_changes_nothing_and_copies_compute_as_their_original() -> None:
    exact, rough = denoisers()
    expected = exact(X, SIGMA, CONDITION)
    assert torch.equal(precision.apply(exact, TrainingConfig())(X, SIGMA, CONDITION), expected)
    assert torch.equal(copy.deepcopy(rough)(X, SIGMA, CONDITION), rough(X, SIGMA, CONDITION))
    assert torch.equal(precision.apply(rough, TrainingConfig(precision="fp32"))(X, SIGMA, CONDITION), expected)


def test_no_other_file_decides() -> None:
    root = Path(msd_ray.__path__[0])
    found = {str(path.relative_to(root)): _named_of_torch(path) & DECIDING for path in root.rglob("*.py")}
    assert {path for path, names in found.items() if names} - ELSEWHERE == {"training/precision.py"}


def _named_of_torch(path: Path) -> set[str]:
    """Attributes of torch and names imported from it, and methods of tensors by the name of a type."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    attributes = {n.attr for n in nodes if isinstance(n, ast.Attribute) and ast.unparse(n) != "re.compile"}
    imports = [n for n in nodes if isinstance(n, ast.ImportFrom) and str(n.module).startswith("torch")]
    return attributes | {alias.name for n in imports for alias in n.names}
