import json
from typing import Any

import pytest

from msd_ray.errors import CorruptError
from msd_ray.networks import DenoiserSpec, MLPConfig, UNetConfig

SPECS = [
    DenoiserSpec(UNetConfig(channels=16, multipliers=(1, 2), attention=(), dropout=0), (1, 8, 8), 10),
    DenoiserSpec(MLPConfig(width=64), (2,), 0, sigma_data=0.25),
]


@pytest.mark.parametrize("spec", SPECS)
def test_a_spec_survives_json(spec: DenoiserSpec) -> None:
    assert DenoiserSpec.from_json(spec.to_json()) == spec
    assert DenoiserSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


@pytest.mark.parametrize(
    "change",
    [
        {"network": None},
        {"network": {"kind": "rnn"}},
        {"network": {"kind": []}},
        {"network": {"kind": "mlp", "depth": 3}},
        {"network": {"kind": "mlp", "width": "64"}},
        {"network": {"kind": "mlp", "width": True}},
        {"network": {"kind": "mlp", "width": 1}},
        {"network": {"kind": "unet", "multipliers": [1.5]}},
        {"network": {"kind": "unet", "multipliers": 1}},
        {"sample_shape": "1"},
        {"sample_shape": [[1]]},
        {"classes": None},
        {"sigma_data": "x"},
        {"surprise": 1},
    ],
)
def test_what_is_no_spec_is_corrupt(change: dict[str, Any]) -> None:
    with pytest.raises(CorruptError) as told:
        DenoiserSpec.from_json({**SPECS[1].to_json(), **change})
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("raw", [None, 1, [], {}, "spec", {"network": {"kind": "mlp"}}])
def test_what_is_no_spec_at_all_is_corrupt(raw: Any) -> None:
    with pytest.raises(CorruptError):
        DenoiserSpec.from_json(raw)
