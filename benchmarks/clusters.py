"""How good students of clusters are, in features that neither they nor the clusters come from.

Each ensemble's samples, all its classes in turn, are scored against the digits in the features `digits`, a classifier
of the true classes, which no teacher, student or k-means here has seen.

    msd-ray train digits-clusters --run-dir runs/ten evaluation.baselines=true
    msd-ray train digits-clusters --run-dir runs/one data.options.k=1 partition.k=1 evaluation.features=identity \
        'stages.dm.images=20800' 'stages.adm.images=8000'
    python benchmarks/clusters.py runs/ten runs/ten/baselines/same-total runs/one [--samples 1797]

The last line of standard output is one JSON object.
"""

import argparse

import torch
from common import finish, say

from msd_ray.data import DataConfig, load_data
from msd_ray.ensemble import Ensemble
from msd_ray.evaluation import EvaluationConfig, Judge, load_features
from msd_ray.runs.run_directory import ensemble_folder
from msd_ray.storage import default_cache


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--samples", type=int, default=1797)
    given = parser.parse_args()
    digits = load_data(DataConfig())
    judge = Judge(load_features("digits", digits, default_cache()), digits.train, EvaluationConfig())
    found = {}
    for run in given.runs:
        ensemble = Ensemble.load(ensemble_folder(run))
        asked = torch.arange(given.samples) % ensemble.conditions.n
        scores = judge.score(ensemble.generate(asked.tolist(), list(range(given.samples))), asked)
        found[run] = {name: getattr(scores, name) for name in ("n", "fid", "precision", "recall")}
        say(f"{run}: FID@{scores.n} {scores.fid:.3f}, precision {scores.precision:.3f}, recall {scores.recall:.3f}")
    finish("clusters", {"runs": found})


if __name__ == "__main__":
    main()
