"""Students that enlarge pictures train through the driver and the pool, survive kill -9 bit for bit, and answer for
pictures that nobody trained on."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from msd_ray.conditions.picture_prompt import as_text
from msd_ray.ensemble import Ensemble, seeded_noise
from msd_ray.runs.run_context import RunContext

from .conftest import Ear
from .test_objectives import KillerInEachStage, train, train_here

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("cluster")]
RATES = "images: 640, batch: 16, fake_steps: 1, generator_lr: 1e-3, fake_lr: 1e-3, warmup: 160"
OVERRIDES = [
    "network.unet={channels: 4, multipliers: [1, 2], blocks: 1, attention: []}",
    "teacher={images: 640, batch: 64, warmup: 64, steps: 4}",
    "training={log_every: 160, checkpoint_every: 320}",
    "evaluation.samples=64",
    "pairs=256",
]
BEGINS = ["student.begins=picture", "noise.sigma_init=1"]


@pytest.mark.parametrize(
    ("objectives", "begins"),
    [(["adm"], []), (["flow-trajectory", "dfosd"], BEGINS)],
    ids=["adm, from noise", "flow-trajectory and dfosd, from the picture"],
)
def test_students_of_pictures_whose_process_is_killed_end_as_if_undisturbed(
    objectives: list[str], begins: list[str], tmp_path: Path
) -> None:
    stages = ", ".join(f"{name}: {{objective: {name}, {RATES}}}" for name in objectives)
    asked = [f"stages={{{stages}}}", *begins, *OVERRIDES]
    killer, context = KillerInEachStage(), RunContext.of("digits-super-resolution", asked, str(tmp_path / "run"))
    weights = train(context, killer)
    assert [bool(k.victim) for k in killer.killers] == [True] * len(objectives)
    assert sum(s.restarts for s in killer.statuses) == len(objectives)
    for ours, theirs in zip(weights, train_here(context), strict=True):
        assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    assert train(context, Ear())  # nothing is left to train
    pictures = torch.randint(256, (3, 1, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    texts, ensemble = [as_text(each) for each in pictures], Ensemble.load(str(tmp_path / "run" / "ensemble"))
    x = ensemble.generate(texts, [7, 7, 7])
    assert x.shape == (3, 1, 8, 8) and torch.equal(x[1:2], ensemble.generate(texts[1:2], [7]))
    assert not torch.equal(x[0], x[1])
    torch.testing.assert_close(x, by_hand(ensemble, texts, pictures, bool(begins)), rtol=0, atol=1e-5)


def by_hand(ensemble: Ensemble, texts: list[str], pictures: Tensor, begins: bool) -> Tensor:
    """What each picture's own student says of the noise of seed 7, alone or on the picture."""
    low, made = pictures.float() / 127.5 - 1, []
    for i, place in enumerate(ensemble.partition.place(ensemble.conditions, texts)):
        member = ensemble.members[place.part]
        noise, level = member.sigma_init * seeded_noise([7], (1, 8, 8)), torch.tensor([member.sigma_init])
        x = noise + F.interpolate(low[i : i + 1], (8, 8), mode="bicubic") if begins else noise
        with torch.no_grad():
            made.append(member.build(None, "cpu")(x, level, low[i : i + 1]))
    return torch.cat(made)
