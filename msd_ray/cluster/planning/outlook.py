"""The forecast of a run that a user asks for: what is left to do first, measured steps, nodes. No Ray in here."""

from msd_ray.cluster.planning.forecast import RAY, Ahead, Forecast, forecast
from msd_ray.cluster.planning.layout import check_fits
from msd_ray.runs.nodes import read_cluster, this_machine
from msd_ray.runs.pairs import PART, has_part, pairs_folder, parts_of
from msd_ray.runs.setting import Setting
from msd_ray.runs.teacher import cached_in, has_teacher
from msd_ray.runs.timing import time_plan


def outlook(setting: Setting, nodes: str | None) -> Forecast | None:
    """On this machine, or on the cluster that the file `nodes` describes. None where the steps are too slow to be
    measured here. Raises UserError where the file is wrong, or its nodes have no room for the run."""
    cluster = (read_cluster(nodes) if nodes else this_machine()).each()
    check_fits(len(setting.plan.jobs), setting.plan.cluster, cluster)
    timing = time_plan(setting.plan)
    if timing is None:
        return None
    return forecast(setting.plan, timing, cluster, ahead_of(setting, local=nodes is None))


def ahead_of(setting: Setting, local: bool) -> Ahead:
    """local: whether Ray has to be started for the run."""
    plan, cache = setting.plan, setting.cache
    taught = has_teacher(setting.store.child("teacher")) or has_teacher(cached_in(cache, plan.recipe, plan.teacher))
    wanted = any(job.spec.objective(stage).needs.pairs for job in plan.jobs for stage in job.spec.stages)
    folder = pairs_folder(cache, plan)
    missing = [part for part in parts_of(plan) if wanted and not has_part(folder, part)]
    return Ahead(teacher=not taught, pairs=PART * len(missing), ray=RAY if local else 0.0)
