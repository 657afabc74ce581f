"""Networks that have shapes alone."""

import subprocess
import sys

import torch

from msd_ray.networks import DenoiserSpec, MLPConfig, UNetConfig
from msd_ray.networks.shapes import shapes_only

SPECS = [
    DenoiserSpec(UNetConfig(channels=8, multipliers=(1, 2), blocks=1, attention=(4,)), (1, 8, 8), 10),
    DenoiserSpec(MLPConfig(width=16, blocks=2), (2,), 4),
]


def test_they_have_the_shapes_of_real_ones_no_memory_and_draw_nothing() -> None:
    for spec in SPECS:
        before = torch.get_rng_state()
        with shapes_only():
            made = spec.build().state_dict()
        assert torch.equal(torch.get_rng_state(), before)
        assert {name: t.shape for name, t in made.items()} == {n: t.shape for n, t in spec.build().state_dict().items()}
        assert all(t.is_meta for t in made.values())


def test_the_weights_of_networks_built_after_it_are_drawn() -> None:
    with shapes_only():
        SPECS[0].build()
    torch.manual_seed(0)
    first = SPECS[0].build().state_dict()
    torch.manual_seed(1)
    assert any(not torch.equal(t, first[name]) for name, t in SPECS[0].build().state_dict().items())


def test_torchs_compiler_is_not_imported_for_them() -> None:
    """It takes a second of every process that begins."""
    code = (
        "import sys; from tests.networks.test_shapes import SPECS; print([s.parameters() for s in SPECS]); "
        "assert 'torch' in sys.modules and 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
