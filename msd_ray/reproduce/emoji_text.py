"""Whether several students pay where conditions are prompts: colour emoji by their Unicode names."""

from msd_ray.reproduce.branching_arms import Students
from msd_ray.reproduce.experiment import Claim, Experiment, below

_RATES = "batch: 32, fake_steps: 3, fake_lr: 1e-3, warmup: 320"
_STUDENTS = Students(
    label="full size",
    recipe="emoji-text",
    total=19_200,
    lasts=6_400,
    dm=f"{_RATES}, generator_lr: 2e-4",
    adm=f"{_RATES}, generator_lr: 1e-4",
    more=("training.checkpoint_every=6_400",),
)
_ONE, _FOUR = _STUDENTS.one(), _STUDENTS.scratch(4)

EMOJI_TEXT = Experiment(
    name="emoji-text",
    title="Text to image, emoji at 32 x 32: one student and four by clusters of prompts",
    arms=(_ONE, _FOUR),
    claims=(
        Claim(
            "four students by clusters of prompts beat one at equal images in all (MSD, arXiv 2410.23274, has four "
            "students of Stable Diffusion by quadrants of the prompt's vector: 8.20 on COCO)",
            below("fid", _FOUR.name, _ONE.name),
        ),
        Claim("they keep to their prompts better", below("retrieval", _ONE.name, _FOUR.name)),
    ),
    columns=(
        "fid", "identity/fid", "retrieval", "identity/retrieval", "precision", "recall", "images", "longest",
        "cpu_seconds",
    ),
)  # fmt: skip
