"""An evaluation judges the very samples that `generate` and the service give."""

from pathlib import Path

import numpy as np
import pytest
import torch

from msd_ray.conditions import Classes
from msd_ray.data import DataConfig
from msd_ray.ensemble import Ensemble, Part, read_description
from msd_ray.networks import DenoiserSpec
from msd_ray.runs.sample_sources import FromPart, ensemble_sampler
from msd_ray.storage import Store
from tests.serving.ensembles import PICTURES, POINTS, saved

N = 70
CLASSES, SEEDS = torch.arange(N) % 10, list(range(N))


@pytest.mark.parametrize("spec", [PICTURES, POINTS])
def test_an_exact_ensembles_samples_have_the_bits_of_generate(tmp_path: Path, spec: DenoiserSpec) -> None:
    uri = saved(tmp_path, 2, spec=spec)
    ensemble = Ensemble.load(uri)
    right = torch.cat([ensemble.generate([c], [s]) for c, s in zip(CLASSES.tolist(), SEEDS, strict=True)])
    assert torch.equal(ensemble_sampler(ensemble, Classes.numbered(10))(CLASSES, SEEDS), right)
    for part in range(2):
        source = FromPart(uri, "weights", part)
        numbers = source.numbers(N)
        make = source.open(DataConfig(), torch.device("cpu"))
        made = torch.cat([make(some).x for some in np.array_split(numbers, 3)])
        assert torch.equal(made, right[numbers])


def test_batched_ensembles_are_sampled_in_plain_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[int]()

    def evaluate(self: Part, sample_ids: object, positions: list[int], size: int, *_: object) -> torch.Tensor:
        asked.append(size)
        return torch.zeros(len(positions), *self.sample_shape)

    known = read_description(Store(saved(tmp_path, 1)))
    ensemble = Ensemble(
        known.recipe, known.partition, known.labels, Ensemble.load(known.store).members, batching="batched"
    )
    monkeypatch.setattr(Part, "evaluate", evaluate)
    ensemble_sampler(ensemble, Classes.numbered(10))(CLASSES, SEEDS)
    assert asked == [N]
