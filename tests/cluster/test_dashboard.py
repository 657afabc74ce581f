"""The Grafana dashboard asks Prometheus for metrics that exist, under the names that Ray gives them."""

import json
import re
import time
import urllib.request
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]
DASHBOARD = Path(__file__).parents[2] / "deploy" / "grafana" / "msd_ray.json"


def asked() -> set[str]:
    """The names of metrics in all panels."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return {name for p in panels for t in p["targets"] for name in re.findall(r"ray_msd_ray_\w+", t["expr"])}


def exported() -> str:
    import ray

    (node,) = ray.nodes()
    with urllib.request.urlopen(f"http://127.0.0.1:{node['MetricsExportPort']}/metrics", timeout=10) as page:
        return str(page.read().decode())


def test_every_metric_of_the_dashboard_is_exported() -> None:
    from msd_ray.cluster.pool.replica import _Exported
    from msd_ray.cluster.pool.replica_metrics import Forward
    from msd_ray.cluster.progress import Progress
    from msd_ray.cluster.prometheus import COUNTED, RunMetrics

    meters, teacher = RunMetrics(), _Exported()
    for kind in COUNTED:
        meters.event(kind, {"student": "student 0"})
    meters.slots(2)
    meters.progress("student 0", Progress(640, "dm", 100.0, False, fid=0.3, fid_samples=50, waited=0.01), 1280)
    teacher.utilisation.set(0.5)
    teacher.forward(Forward(0.0, 1.0, 32, (0.01,), 0.9))
    assert len(asked()) > 10
    deadline = time.monotonic() + 60  # Ray's agents pass metrics on every few seconds
    while missing := {name for name in asked() if f"\n{name}{{" not in exported()}:
        assert time.monotonic() < deadline, f"not exported: {missing}"
        time.sleep(1)
