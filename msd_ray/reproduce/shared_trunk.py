"""Whether students that branch off from a trunk pay, at equal images in all and at equal time. No paper says."""

from dataclasses import replace

from msd_ray.reproduce.branching_arms import Students, also_in
from msd_ray.reproduce.experiment import Arm, Claim, Experiment, below

_ALSO = "efficientnet-lite0"
_RATES = "batch: 32, fake_steps: 3, generator_lr: 5e-4, fake_lr: 2e-3, warmup: 320"
_FULL = Students("full width", "digits", 28_800, 8_000, _RATES, _RATES)
_HALF = replace(
    _FULL,
    label="half width",
    tsm="batch: 64, generator_lr: 2e-3, warmup: 1_600, images: 51_200",
    more=("student.channel_factor=0.5",),
)


def _arms(of: Students) -> list[Arm]:
    """What takes long and decides little is run with the first seed alone."""
    full = of is _FULL
    twos = [of.scratch(2), of.branches(2, 50), of.as_long_as(2, 50)]
    others = [of.branches(2, at) for at in (25, 75)] + [
        of.branches(5, 50, what) for what in ("optimizers", "average", "fake_score")
    ]
    return [
        _in_both(of.one()),
        _in_both(of.scratch(5)),
        of.branches(5, 25),
        _in_both(of.branches(5, 50)),
        _in_both(of.branches(5, 75)),
        of.as_long_as(5, 25),
        _in_both(of.as_long_as(5, 50)),
        of.as_long_as(5, 75),
        of.branches(5, 50, "all"),
        *(_in_both(arm) if full else replace(arm, most=1) for arm in twos),
        *(replace(arm, most=1) for arm in others if full),
    ]


def _in_both(arm: Arm) -> Arm:
    return also_in(_ALSO, arm)


def _claims(width: str) -> list[Claim]:
    best = f"{width}, trunk 50%, K = 5"
    return [
        Claim(
            f"{width}: five students after half a trunk beat one student at equal images in all",
            below("fid", best, f"{width}, one student"),
        ),
        Claim(
            f"{width}: they beat one student that trains as long",
            below("fid", best, f"{width}, one student, as long as trunk 50%, K = 5"),
        ),
        Claim(f"{width}: they beat five students from scratch", below("fid", best, f"{width}, K = 5 from scratch")),
        Claim(
            f"{width}: carrying everything over beats beginning it afresh", below("fid", best, f"{best}, all afresh")
        ),
    ]


_COLUMNS = ("fid", f"{_ALSO}/fid", "precision", "recall", "agreement", "images", "longest", "cpu_seconds")

SHARED_TRUNK = Experiment(
    name="shared-trunk",
    title="Digits: students that branch off from a trunk",
    arms=tuple(arm for of in (_FULL, _HALF) for arm in _arms(of)),
    claims=tuple(claim for of in (_FULL, _HALF) for claim in _claims(of.label)),
    columns=_COLUMNS,
)

_KINDS = ("sequential", "random", "kmeans", "learned")

LEARNED_PARTITION = Experiment(
    name="learned-partition",
    title="Digits: five students after half a trunk, by how the classes are divided",
    arms=tuple(_FULL.branches(5, 50, kind=kind) for kind in _KINDS),
    claims=tuple(
        Claim(
            f"our own aim: classes divided by the gradients that the trunk has of each beat {kind} ones",
            below("fid", "full width, trunk 50%, K = 5, learned", f"full width, trunk 50%, K = 5, {kind}"),
        )
        for kind in _KINDS[:-1]
    ),
    columns=tuple(column for column in _COLUMNS if not column.startswith(_ALSO)),
)

_LONG = replace(_FULL, total=3 * 28_800, lasts=3 * 8_000)
SHARED_TRUNK_LONG = Experiment(
    name="shared-trunk-long",
    title="Digits: students that branch off from a trunk, three times as long",
    arms=(_LONG.one(), _LONG.branches(5, 50), _LONG.as_long_as(5, 50)),
    claims=tuple(_claims(_LONG.label)[:2]),
    columns=tuple(column for column in _COLUMNS if not column.startswith(_ALSO)),
)
