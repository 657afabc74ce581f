"""In which numbers networks compute, and that one file decides it."""

import ast
import copy
import subprocess
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import msd_ray
from msd_ray.conditions import Classes, Owned
from msd_ray.data import in_memory
from msd_ray.diffusion import EDMDenoiser, Network
from msd_ray.errors import TrainingError
from msd_ray.networks import DenoiserSpec, MLPConfig, UNetConfig
from msd_ray.teachers import Answer, LocalTeacher
from msd_ray.training import precision
from msd_ray.training.config import TrainingConfig
from msd_ray.training.gpu_memory import FOR_STUDENTS
from msd_ray.training.state import State
from msd_ray.training.student_trainer import StudentTrainer

from .cases import SHARED, assert_same, original, sharing, trained, trainer
from .cases import SPEC as STUDENT

SPEC = DenoiserSpec(MLPConfig(width=16, blocks=2), (2,), 3)
UNET = DenoiserSpec(UNetConfig(channels=4, multipliers=(1, 2), blocks=1, attention=(4,), dropout=0.0), (1, 8, 8), 3)
X, SIGMA, CONDITION = torch.randn(6, 2), torch.tensor([0.01, 0.1, 0.5, 1.0, 5.0, 80.0]), torch.arange(6) % 3
DECIDING = {"autocast", "compile", "channels_last", "set_float32_matmul_precision", "allow_tf32", "bfloat16", "float16"}
ELSEWHERE = {
    "networks/weights.py",
    "cluster/pool/wire.py",
    "codecs/vae.py",
    "networks/layers.py",
    "networks/fused_layers.py",
    "serving/service/engine.py",
}
"""They name types and layouts of tensors too: of a file, on the wire, of a decoder, which never trains, and of what
precision.py gives to a norm; and an engine of the service compiles networks that have been trained."""


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


HOW = [
    pytest.param({"recompute": True}, 0.0, id="recompute"),
    pytest.param({"compile": True}, 1e-5, id="compile"),
    pytest.param({"compile": True, "recompute": True}, 1e-5, id="compile and recompute"),
    pytest.param({"precision": "bf16"}, 0.05, id="bf16"),
    pytest.param({"compile": True, "precision": "bf16"}, 0.05, id="compile and bf16"),
]


@pytest.fixture(autouse=True)
def _no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch.compile makes of a network is run as it is: no compiler is started."""
    monkeypatch.setattr(precision, "BACKEND", "eager")


def gradient(denoiser: EDMDenoiser) -> torch.Tensor:
    x = torch.linspace(-1, 1, 6 * 64).view(6, 1, 8, 8)
    denoiser.zero_grad()
    denoiser(x, SIGMA, CONDITION).square().mean().backward()
    return torch.cat([p.grad.flatten() for p in denoiser.parameters() if p.grad is not None])


def unet() -> EDMDenoiser:
    """None of whose layers is zero, so that gradients go through all of them."""
    torch.manual_seed(0)
    made = UNET.build().eval()
    for p in made.parameters():
        p.data.add_(torch.randn_like(p), alpha=0.1)
    return made


@pytest.mark.parametrize(("how", "tolerance"), HOW)
def test_the_gradient_is_near_that_of_the_plain_network(how: dict[str, Any], tolerance: float) -> None:
    plain = unet()
    expected = gradient(plain)
    applied = precision.apply(copy.deepcopy(plain), TrainingConfig(**how))
    for network in (applied, copy.deepcopy(applied)):
        assert list(network.state_dict()) == list(plain.state_dict())
        assert (gradient(network) - expected).norm() <= tolerance * expected.norm()
    again = precision.apply(applied, TrainingConfig())
    assert [type(m) for m in again.modules()] == [type(m) for m in plain.modules()]
    assert torch.equal(gradient(again), expected)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, hidden_states: Tensor, text: Tensor | None = None) -> tuple[Tensor | None, Tensor]:
        return text, self.linear(hidden_states)


class Named(Network):
    """Calls its blocks as networks of diffusers do."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block()])

    def forward(self, x: Tensor, c_noise: Tensor, condition: Tensor) -> Tensor:
        for block in self.blocks:
            _, x = block(hidden_states=x, text=None)
        return x


@pytest.mark.parametrize(("how", "tolerance"), HOW)
def test_blocks_may_be_called_by_the_names_of_their_arguments(how: dict[str, Any], tolerance: float) -> None:
    plain = EDMDenoiser(Named())
    expected = plain(X, SIGMA, CONDITION)
    made = precision.apply(copy.deepcopy(plain), TrainingConfig(**how))(X, SIGMA, CONDITION)
    assert (made - expected).norm() <= tolerance * expected.norm()


def test_recomputation_keeps_less() -> None:
    kept = []
    for recompute in (False, True):
        network, seen = precision.apply(unet(), TrainingConfig(recompute=recompute)), list[int]()
        note = partial(_noted, seen)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
            network(torch.randn(6, 1, 8, 8), SIGMA, CONDITION)
        kept.append(sum(seen))
    assert kept[1] < 0.5 * kept[0]


def _noted(seen: list[int], tensor: torch.Tensor) -> torch.Tensor:
    seen.append(tensor.nbytes)
    return tensor


def test_nobody_waits_for_the_compiler_who_does_not_use_it() -> None:
    code = (
        "import sys, torch\n"
        "from msd_ray.networks import DenoiserSpec, MLPConfig\n"
        "from msd_ray.training import precision\n"
        "from msd_ray.training.config import TrainingConfig\n"
        "net = DenoiserSpec(MLPConfig(width=8, blocks=2), (2,), 3).build()\n"
        "precision.apply(net, TrainingConfig(compile=True, recompute=True))\n"
        "print('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


@pytest.mark.parametrize("how", [{"compile": True}, {"recompute": True}, {"precision": "bf16"}])
def test_a_student_goes_on_to_the_bit_where_it_was_killed(how: dict[str, Any]) -> None:
    spec = replace(STUDENT, training=replace(STUDENT.training, **how))
    whole, killed, again = trained(spec), trainer(spec), trainer(spec)
    killed.advance(48)
    again.load_state_dict(copy.deepcopy(killed.state_dict()))
    again.advance(spec.images)
    assert again.nimg == whole.nimg == spec.images
    assert_same(whole, again)


@pytest.mark.parametrize("name", ["dm", "adm", "sid", "dmd", "gdd", "tsm", "four shards"])
def test_shards_one_after_the_other_train_to_the_same_bits(name: str) -> None:
    ends = [sharing(name), sharing(name, recompute=True)]
    for end in ends:
        end.advance(24)
    assert_same(*ends)


def test_shards_one_after_the_other_keep_one_graph() -> None:
    """Before the first loss, the drafts of all four shards are there: without a graph."""
    graphs = []
    for recompute in (False, True):
        student = sharing("four shards", recompute=recompute)
        student.advance(8)
        graphs.append([student._begin(shard, 8).draft.x.requires_grad for shard in range(4)])
    assert graphs == [[True] * 4, [False] * 4]


@pytest.mark.parametrize("name", ["dm", "adm", "sid", "pd", "multi-guidance", "four shards"])
def test_a_teacher_that_answers_at_once_is_asked_later_and_students_keep_their_bits(name: str) -> None:
    @dataclass
    class Elsewhere:
        denoiser: EDMDenoiser

        def submit(self, x_t: torch.Tensor, sigma: torch.Tensor, condition: torch.Tensor) -> Answer:
            return LocalTeacher(self.denoiser).submit(x_t, sigma, condition)

    ends = [trainer(SHARED[name], kind(original(SHARED[name]))) for kind in (Elsewhere, LocalTeacher)]
    for end in ends:
        end.advance(24)
    assert_same(*ends)


def test_a_full_gpu_is_one_line_that_names_what_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has\n a total of ...")

    monkeypatch.setattr(StudentTrainer, "_step", full)
    with pytest.raises(TrainingError) as caught:
        trainer().advance(8)
    assert str(caught.value) == f"student 0: CUDA out of memory. Tried to allocate 2.00 GiB; {FOR_STUDENTS}"
    assert "training.recompute=true" in FOR_STUDENTS


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


def unet_student(state: State | None = None) -> StudentTrainer:
    """A UNet in bf16; from a state, as slots make it."""
    spec = replace(STUDENT, denoiser=UNET, training=replace(STUDENT.training, precision="bf16"))
    teacher = precision.apply(unet(), spec.training).requires_grad_(False)
    real = in_memory(torch.linspace(-1, 1, 6 * 64).view(6, 1, 8, 8), torch.arange(6) % 3)
    owned = Owned(Classes.numbered(3), torch.arange(3))
    made = StudentTrainer(spec, owned, LocalTeacher(teacher), teacher.state_dict(), real, blank=state is not None)
    if state:
        made.load_state_dict(state)
    return made


def test_in_bf16_convolutions_lie_with_their_channels_last_and_a_student_goes_on_bit_for_bit() -> None:
    whole, t = unet_student(), unet_student()
    whole.advance(whole.spec.images)
    t.advance(24)
    kept = {name: {key: value.clone() for key, value in of.items()} for name, of in t.state_dict().tensors.items()}
    t = unet_student(State(kept, copy.deepcopy(t.state_dict().meta)))
    for network in (t.nets.generator, t.nets.fake, t.ema):
        convolutions = [m.weight for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
        assert all(w.is_contiguous(memory_format=torch.channels_last) for w in convolutions)
    weights, moments = t.nets.generator.parameters(), t.state_dict().tensors["generator_optimizer"]
    assert all(moments[f"{i}.exp_avg"].stride() == w.stride() for i, w in enumerate(weights))
    t.advance(t.spec.images)
    assert_same(t, whole)
