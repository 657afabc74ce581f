"""Students that are adapters of one base beside students of all weights."""

from msd_ray.reproduce.experiment import Arm, Claim, Experiment, every

_RATES = tuple(f"stages.{stage}.{rate}" for stage in ("dm", "adm") for rate in ("generator_lr=4e-3", "fake_lr=8e-3"))
"""Higher than the recipe's, which move adapters too little (docs/log.md, "Adapters of one base")."""
_OF_FULL_FAKE = tuple(
    f"stages.{stage}.{rate}" for stage in ("dm", "adm") for rate in ("generator_lr=4e-3", "fake_lr=2e-3")
)


def _adapted(rank: int, *others: str) -> tuple[str, ...]:
    return f"student.adapter={{rank: {rank}}}", *others


_ADAPTED = {
    "rank 4": _adapted(4, *_RATES),
    "rank 16": _adapted(16, *_RATES),
    "rank 16, a fake score of all weights": _adapted(16, "student.fake_adapter=none", *_OF_FULL_FAKE),
}

ADAPTERS = Experiment(
    name="adapters",
    title="Digits: five students that are adapters of the teacher, and students of all weights",
    arms=(
        Arm("all weights", "digits", ()),
        Arm(
            "one student of all weights, as many images in all",
            "digits",
            ("partition.k=1", "training.share_images=true", "stages.dm.images=20_800", "stages.adm.images=8_000"),
        ),
        *(Arm(name, "digits", overrides) for name, overrides in _ADAPTED.items()),
    ),
    claims=(
        Claim(
            "our own aim: adapters reach at most 1.5 times the FID of students of all weights, at equal images",
            every("fid", list(_ADAPTED), "all weights", 1.5),
        ),
    ),
    columns=("fid", "kid", "precision", "recall", "agreement", "parameters", "images", "cpu_seconds", "ms_per_image"),
)
