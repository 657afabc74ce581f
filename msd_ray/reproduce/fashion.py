"""Whether several students pay where one lacks capacity: Fashion-MNIST, students far smaller than their teacher."""

from dataclasses import replace

from msd_ray.reproduce.branching_arms import Students, also_in
from msd_ray.reproduce.experiment import Arm, Claim, Experiment, below

_ALSO = "efficientnet-lite0"
_RATES = "batch: 32, fake_steps: 3, fake_lr: 1e-3, warmup: 320"
_QUARTER = Students(
    label="a quarter",
    recipe="fashion",
    total=25_600,
    lasts=6_400,
    dm=f"{_RATES}, generator_lr: 2e-4",
    adm=f"{_RATES}, generator_lr: 1e-4",
    tsm="images: 64_000, batch: 64, generator_lr: 1e-3, warmup: 1_600",
    more=("student.channel_factor=0.5", "evaluation.also=[]", "training.checkpoint_every=6_400"),
)
_SIXTEENTH = replace(_QUARTER, label="a sixteenth", more=("student.channel_factor=0.25", *_QUARTER.more[1:]))


def _main(of: Students) -> list[Arm]:
    arms = [of.one(), of.scratch(5), of.branches(5, 50), of.as_long_as(5, 50)]
    return [also_in(_ALSO, arm) for arm in arms]


def _others(of: Students) -> list[Arm]:
    """With the first seed alone."""
    arms = [of.scratch(2), of.branches(2, 50), of.scratch(10), of.branches(10, 50)]
    arms += [of.branches(5, 50, kind=kind) for kind in ("random", "kmeans")]
    return [replace(arm, most=1) for arm in arms]


def _claims(size: str) -> tuple[Claim, ...]:
    best, one = f"{size}, trunk 50%, K = 5", f"{size}, one student"
    return (
        Claim(f"{size}: five students after a trunk beat one at equal images in all", below("fid", best, one)),
        Claim(
            f"{size}: they beat one student that trains as long",
            below("fid", best, f"{one}, as long as trunk 50%, K = 5"),
        ),
        Claim(f"{size}: five students from scratch beat one", below("fid", f"{size}, K = 5 from scratch", one)),
    )


FASHION = Experiment(
    name="fashion",
    title="Fashion-MNIST at 32 x 32: students of a quarter of the teacher's parameters",
    arms=(*_main(_QUARTER), *_others(_QUARTER)),
    claims=_claims(_QUARTER.label),
    columns=(
        "fid", f"{_ALSO}/fid", "precision", "recall", "agreement", "images", "longest", "parameters", "ms_per_image",
        "cpu_seconds",
    ),
)  # fmt: skip

FASHION_SMALL = replace(
    FASHION,
    name="fashion-small",
    title="Fashion-MNIST at 32 x 32: students of a sixteenth of the teacher's parameters",
    arms=tuple(_main(_SIXTEENTH)),
    claims=_claims(_SIXTEENTH.label),
)
