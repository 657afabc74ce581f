"""How well students enlarge images that nobody trained on, beside bicubic interpolation and their teacher.

Each image that the data set holds out is made smaller as the recipe says and enlarged again; PSNR is against the image
itself, of pixels in [0, 1], the mean over images; FID of the enlarged images against all that were trained on. Runs of
one recipe are seeds: of their ensembles, and of their baselines where they have some, mean and standard deviation are
given. The teacher is the first run's.

    msd-ray train digits-super-resolution --run-dir runs/sr evaluation.baselines=true
    msd-ray train digits-dfosd --run-dir runs/dfosd evaluation.baselines=true
    python benchmarks/super_resolution.py runs/sr runs/dfosd

The last line of standard output is one JSON object.
"""

import argparse
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from statistics import mean, stdev

import torch
from common import finish, say
from torch import Tensor
from torch.nn import functional as F

from msd_ray.codecs import to_bytes
from msd_ray.conditions.picture_prompt import as_text
from msd_ray.data import DataConfig, load_data
from msd_ray.data.super_resolution import SuperResolution, reduced
from msd_ray.ensemble import Ensemble, seeded_noise
from msd_ray.evaluation import EvaluationConfig, Judge, load_features
from msd_ray.runs.compatibility import teachers_sampling
from msd_ray.runs.run_context import RunContext
from msd_ray.runs.run_directory import folder
from msd_ray.runs.teacher_cache import load_teacher, teacher_in
from msd_ray.storage import Store, default_cache
from msd_ray.validation import made_of

Scores = dict[str, float]
PORTION = 256
"""Images that the teacher makes at a time."""


@dataclass(frozen=True)
class Task:
    """real: images [N, C, H, W] in [-1, 1]. smaller: what they are to be made of, uint8 [N, C, h, w]."""

    real: Tensor
    smaller: Tensor
    judge: Judge

    @property
    def texts(self) -> list[str]:
        return [as_text(each) for each in self.smaller]

    def scores(self, x: Tensor) -> Scores:
        return {"psnr": psnr(x, self.real), "fid": self.judge.fid(x.clamp(-1, 1))}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--images", type=int, default=10**6, help="held-out images at the most")
    parser.add_argument("--features", default="", help="of FID; digits or, of larger images, identity if left out")
    given = parser.parse_args()
    runs = [RunContext.of_run(Store(each), []) for each in given.runs]
    options = SuperResolution(**runs[0].recipe.data.options)
    data = load_data(made_of(DataConfig, options.of))
    features = given.features or ("digits" if data.shape == (1, 8, 8) else "identity")
    judge = Judge(load_features(features, data, default_cache()), data.train, EvaluationConfig())
    real = data.held_out.all().x[: given.images]
    task = Task(real, to_bytes(reduced(real, options.factor)), judge)
    found = defaultdict[str, list[Scores]](list)
    for name, make in (("bicubic", bicubic), ("teacher", lambda task: by_teacher(task, runs[0]))):
        found[name].append(task.scores(make(task)))
    found["real, held out"].append(task.scores(real))
    for context in runs:
        for name, make in makers(context).items():
            found[name].append(task.scores(make(task)))
    for name, several in found.items():
        psnrs, fids = (shown([scores[key] for scores in several]) for key in ("psnr", "fid"))
        say(f"{name}: PSNR {psnrs} dB, FID@{len(real)} {fids}, {len(several)} run(s)")
    finish("super_resolution", {"n": len(real), "features": features, "of": found})


def bicubic(task: Task) -> Tensor:
    return F.interpolate(task.smaller.float() / 127.5 - 1, task.real.shape[2:], mode="bicubic")


def by_teacher(task: Task, context: RunContext) -> Tensor:
    """With the noise of seeds 0, 1, ..., as students have it."""
    teacher, sampling = load_teacher(teacher_in(context.store, context.plan)), teachers_sampling(context.recipe)
    encoded, z = context.conditions.encode(task.texts), seeded_noise(range(len(task.real)), task.real.shape[1:])
    parts = zip(z.split(PORTION), encoded.split(PORTION), strict=True)
    return torch.cat([sampling.integrate(teacher, *part, None) for part in parts])


def makers(context: RunContext) -> dict[str, Callable[[Task], Tensor]]:
    """The ensembles of a run, by the name of its recipe and their own."""

    def made_by(directory: str) -> Callable[[Task], Tensor]:
        ensemble = Ensemble.load(folder(context.store, directory))
        return lambda task: ensemble.generate(task.texts, list(range(len(task.real))))

    return {f"{context.recipe.name}, {each.name}": made_by(each.directory) for each in context.plan.ensembles}


def shown(values: list[float]) -> str:
    """Their mean, and the standard deviation of several."""
    return f"{mean(values):.3f}" + (f" +- {stdev(values):.3f}" if len(values) > 1 else "")


def psnr(x: Tensor, real: Tensor) -> float:
    """In dB, the mean over images [N, C, H, W] in [-1, 1]; infinite where they are the same."""
    errors = ((x.clamp(-1, 1) - real) / 2).square().flatten(1).mean(1)
    return float((-10 * errors.log10()).mean())


if __name__ == "__main__":
    main()
