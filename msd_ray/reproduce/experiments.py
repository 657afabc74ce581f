"""The experiments, and what their papers claim. Figures of MSD marked second-hand come from secondary sources."""

from msd_ray.reproduce.adapters import ADAPTERS
from msd_ray.reproduce.emoji_text import EMOJI_TEXT
from msd_ray.reproduce.experiment import Arm, Claim, Experiment, below, every, falls
from msd_ray.reproduce.fashion import FASHION, FASHION_SMALL
from msd_ray.reproduce.shared_trunk import LEARNED_PARTITION, SHARED_TRUNK, SHARED_TRUNK_LONG

COUNTS = (1, 2, 4, 8)
_TSM = "tsm: {objective: tsm, images: 32_768, batch: 512, generator_lr: 4e-3, warmup: 4_096, shared: false}"
_TOY = {
    "DM": "dm: {objective: dm, images: 12288, fake_steps: 4, batch: 256, generator_lr: 2e-4, fake_lr: 1e-3, warmup: 0}",
    "consistency": "cd: {objective: consistency, images: 16384, generator_lr: 1e-2, batch: 256, warmup: 0, "
    "options: {target_decay: 0.5}}",
}
_TOY_REST = (
    "student.channel_factor=0.25",  # K students have room for what one has not
    "training.checkpoint_every=65_536",
    "cluster.teacher=local",
    "teacher.images=512_000",
    "data.samples=2048",
    "evaluation.samples=1024",
)

TOY2D = Experiment(
    name="toy2d",
    title="2-D mixture: distance of small students to the teacher by their number",
    arms=tuple(
        Arm(f"{label}, K = {k}", "toy2d", (f"partition.k={k}", f"stages={{{_TSM}, {stage}}}", *_TOY_REST), k, label)
        for label, stage in _TOY.items()
        for k in COUNTS
    ),
    claims=tuple(
        Claim(
            f"{label}: the l1 distance between what students and teacher make of the same input falls as K grows "
            "(MSD, arXiv 2410.23274, toy experiment; no figures published)",
            falls("l1", [f"{label}, K = {k}" for k in COUNTS]),
        )
        for label in _TOY
    ),
    columns=("l1", "fid", "precision", "recall", "images", "cpu_seconds"),
    x="students K",
)

_SHARED = ("training.share_images=true", "stages.dm.images=20_800", "stages.adm.images=8_000")
"""What the digits recipe's five students have together."""

ABLATION_K = Experiment(
    name="ablation-k",
    title="Digits: FID by number of students",
    arms=(
        *(Arm(f"same images each, K = {k}", "digits", (f"partition.k={k}",), k, "each") for k in (1, 2, 5, 10)),
        *(Arm(f"same total images, K = {k}", "digits", (f"partition.k={k}", *_SHARED), k, "total") for k in (1, 2, 10)),
    ),
    claims=(
        Claim(
            "at equal images per student FID falls with K: 2.60 / 2.49 / 2.37 / 2.32 for K = 1 / 2 / 4 / 8 on "
            "ImageNet-64 (MSD, second-hand)",
            falls("fid", [f"same images each, K = {k}" for k in (1, 2, 5, 10)]),
        ),
        Claim(
            "at equal total images several students beat one: 2.53 for K = 4 against 2.60 (MSD, second-hand)",
            below("fid", "same images each, K = 5", "same total images, K = 1"),
        ),
    ),
    x="students K",
)

ABLATION_PARTITION = Experiment(
    name="ablation-partition",
    title="Digits: FID by kind of partition",
    arms=tuple(Arm(kind, "digits", (f"partition.kind={kind}",)) for kind in ("sequential", "kmeans", "random")),
    claims=(
        Claim(
            "consecutive classes 2.37, k-means 2.39, random 2.45 with K = 4 on ImageNet-64 (MSD, second-hand)",
            below("fid", "sequential", "random"),
        ),
    ),
)

SMALL_STUDENTS = Experiment(
    name="small-students",
    title="Digits: two smaller students, with and without TSM",
    arms=tuple(
        Arm(
            f"{share} fewer parameters, {'with' if tsm else 'without'} TSM",
            "digits-small" if tsm else "digits",
            ("partition.k=2", f"student.channel_factor={factor}", *(["stages.tsm.shared=false"] if tsm else [])),
        )
        for share, factor in (("43%", 0.75), ("74%", 0.5))
        for tsm in (True, False)
    ),
    claims=(
        Claim(
            "TSM makes a smaller student's distillation work (MSD, arXiv 2410.23274); here at equal DM and ADM images",
            below("fid", "43% fewer parameters, with TSM", "43% fewer parameters, without TSM"),
        ),
    ),
    columns=("fid", "kid", "precision", "recall", "agreement", "parameters", "images", "cpu_seconds", "ms_per_image"),
)

_METHODS = {
    "DM": ("digits", ("stages={dm: {objective: dm, images: 5760, batch: 32, fake_steps: 3, generator_lr: 5e-4, "
                      "fake_lr: 2e-3, warmup: 320}}",)),
    "DM, ADM": ("digits", ()),
    "DMD": ("digits-dmd", ()),
    "DM, f-distill (JS)": ("digits-fdistill", ()),
    "SiD": ("digits-sid", ()),
    "SiDA": ("digits-sida", ()),
    "Uni-Instruct (forward KL)": ("digits-uni-instruct", ()),
    "moment matching": ("digits-moments", ()),
    "GDD": ("digits-gdd", ()),
    "GDD-I": ("digits-gddi", ()),
    "consistency": ("digits-consistency", ()),
    "consistency, 2 steps, half its own samples (DDIL)": ("digits-ddil", ()),
    "progressive distillation": ("digits-pd", ()),
    "RDD": ("digits-rdd", ()),
    "SFDDM, 8 steps, 43% of the size": ("digits-sfddm", ()),
    "multi-guidance (FADA), 8 steps": ("digits-guidance", ()),
    "BOOT": ("digits-boot", ()),
    "PID": ("digits-pid", ()),
    "DM, FD": ("digits-fd", ()),
    "consistency + DM": ("digits-consistency-dm", ()),
}  # fmt: skip

_LONGER = {
    f"{name}, 3 x images": (_METHODS[name][0], (f"stages.{stage}.images=17_280",))
    for name, stage in {"GDD": "gdd", "GDD-I": "gdd", "consistency": "consistency"}.items()
}
"""Those without a fake score, where an image costs about a third, at about the others' cost."""

OBJECTIVES = Experiment(
    name="objectives",
    title="Digits: all methods, two students of 5,760 images each",
    arms=tuple(
        Arm(name, recipe, ("partition.k=2", *overrides)) for name, (recipe, overrides) in (_METHODS | _LONGER).items()
    ),
    claims=(
        Claim(
            "our own aim: every method reaches at most 4 times the teacher's FID",
            every("fid", list(_METHODS), "teacher", 4.0),
        ),
        Claim(
            "or does so at the others' cost, where an image costs it a third",
            every("fid", list(_LONGER), "teacher", 4.0),
        ),
    ),
)

TIMESTEPS = Experiment(
    name="timesteps",
    title="Digits: students for parts of the noise levels (O2MKD)",
    arms=tuple(Arm(f"{n} students", "digits-o2mkd", (f"partition.timesteps={n}",), n) for n in (1, 2, 4)),
    claims=(
        Claim(
            "several small students, each for a part of the noise levels, keep the teacher's quality at a lower cost "
            "per step (O2MKD, arXiv 2410.04191); ours: at most 1.5 times the teacher's FID at the same evaluations",
            every("fid", ["4 students"], "teacher", 1.5),
        ),
        Claim("and they are faster", below("ms_per_image", "4 students", "teacher")),
    ),
    columns=("fid", "kid", "precision", "recall", "nfe", "parameters", "images", "cpu_seconds", "ms_per_image"),
    x="students",
)

_STEPS = (1, 2, 4)
_OF_A_FEW_STEPS = {"DM": "DM", "ADM": "DM, ADM", "SiDA": "SiDA", "consistency": "consistency"}

FEW_STEPS = Experiment(
    name="few-steps",
    title="Digits: students of 1, 2 and 4 steps, two students of 5,760 images each",
    arms=tuple(
        Arm(f"{label}, steps {n}", recipe, ("partition.k=2", f"noise.steps={n}", *overrides), n, label)
        for label, method in _OF_A_FEW_STEPS.items()
        for recipe, overrides in [_METHODS[method]]
        for n in _STEPS
    ),
    claims=tuple(
        Claim(
            f"our own aim: {label} has a lower FID in 4 steps than in 1, after as many images",
            falls("fid", [f"{label}, steps {n}" for n in _STEPS]),
        )
        for label in _OF_A_FEW_STEPS
    ),
    columns=("fid", "kid", "precision", "recall", "agreement", "nfe", "images", "cpu_seconds", "ms_per_image"),
    x="steps",
)

_EXPERTS = {1: "one student for all four steps", 2: "two students, two steps each", 4: "four students, a step each"}

PHASES = Experiment(
    name="phases",
    title="Digits: experts for phases of four steps, two parts of the classes, equal images in all",
    arms=tuple(
        Arm(
            name,
            "digits-phases",
            (f"partition.timesteps={n}", "training.share_images=true", "stages.dm.images=16_640",
             "stages.adm.images=6_400"),
            n,
        )
        for n, name in _EXPERTS.items()
    ),
    claims=(
        Claim(
            "an expert for each phase makes better samples than one student of as many steps (Phased DMD, arXiv "
            "2510.27684, on images and videos from texts); ours: a lower FID after as many images in all",
            below("fid", _EXPERTS[2], _EXPERTS[1]),
        ),
    ),
    columns=("fid", "kid", "precision", "recall", "agreement", "nfe", "parameters", "images", "cpu_seconds"),
    x="students of a part",
)  # fmt: skip

_ALL = (
    TOY2D, ABLATION_K, ABLATION_PARTITION, SMALL_STUDENTS, OBJECTIVES, TIMESTEPS, FEW_STEPS, PHASES, SHARED_TRUNK,
    SHARED_TRUNK_LONG, LEARNED_PARTITION, FASHION, FASHION_SMALL, EMOJI_TEXT, ADAPTERS,
)  # fmt: skip
EXPERIMENTS = {e.name: e for e in _ALL}
