"""How large the config of a service becomes with the number of students: etcd takes objects of 1.5 MB.

python benchmarks/kubernetes_sizes.py [--quick]
"""

import argparse

from common import finish, say

from msd_ray.conditions import ConditionsConfig, ConditionsSpec
from msd_ray.serving.serve_apps.manifest import as_yaml
from msd_ray.serving.service.config import ServeConfig, StudentConfig
from msd_ray.serving.service.versions import StudentFacts, Version, content_hash

LIMIT = 1_500_000
"""Bytes of an object that etcd takes by default."""
CLASSES = 1000


def version(students: int) -> Version:
    """An ensemble of so many students with 1,000 classes between them."""
    owners = tuple(min(label * students // CLASSES, students - 1) for label in range(CLASSES))
    facts = [StudentFacts(k, 0.0, float("inf"), 300_000_000, 10**9, f"{k:064x}") for k in range(students)]
    return Version(
        name="large",
        uri="s3://bucket/ensembles/large",
        kind="kmeans",
        conditions_spec=ConditionsSpec(ConditionsConfig(), tuple(f"class {label}" for label in range(CLASSES))),
        owners=owners,
        intervals=1,
        parts=tuple(content_hash(k) for k in range(students)),
        sample_shape=(3, 64, 64),
        evaluations=1,
        recipe="large",
        students=tuple(facts),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer students")
    counts = (10, 100) if parser.parse_args().quick else (10, 100, 1000)
    found = {}
    for placement in ("dedicated", "multiplexed"):
        config = ServeConfig(students=StudentConfig(placement=placement))
        found[placement] = {k: len(as_yaml(version(k), config).encode()) for k in counts}
        for k, size in found[placement].items():
            say(f"{placement}: {k} students, {size:,} bytes, {size / LIMIT:.0%} of what etcd takes")
    finish("kubernetes_sizes", {"bytes": found})


if __name__ == "__main__":
    main()
