"""How well a run's students enlarge images that nobody trained on, beside bicubic interpolation and their teacher.

Each image that the data set holds out is made smaller as the recipe says and enlarged again; PSNR is against the image
itself, of pixels in [0, 1], the mean over images; FID of the enlarged images against all that were trained on, in the
features `digits` or, of other images, `identity`.

    msd-ray train digits-super-resolution --run-dir runs/sr
    python benchmarks/super_resolution.py runs/sr

The last line of standard output is one JSON object.
"""

import argparse

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
from msd_ray.runs.run_directory import ensemble_folder
from msd_ray.runs.teacher_cache import load_teacher, teacher_in
from msd_ray.storage import Store, default_cache
from msd_ray.validation import made_of


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run")
    given = parser.parse_args()
    context = RunContext.of_run(Store(given.run), [])
    options = SuperResolution(**context.recipe.data.options)
    data = load_data(made_of(DataConfig, options.of))
    real = data.held_out.all().x
    smaller = to_bytes(reduced(real, options.factor))
    seen, seeds = smaller.float() / 127.5 - 1, list(range(len(real)))
    texts = [as_text(each) for each in smaller]
    teacher, sampling = load_teacher(teacher_in(context.store, context.plan)), teachers_sampling(context.recipe)
    encoded, z = context.conditions.encode(texts), seeded_noise(seeds, data.shape)
    features = "digits" if data.shape == (1, 8, 8) else "identity"
    judge = Judge(load_features(features, data, default_cache()), data.train, EvaluationConfig())
    made = {
        "bicubic": F.interpolate(seen, real.shape[2:], mode="bicubic"),
        "teacher": sampling.integrate(teacher, z, encoded, None),
        "students": Ensemble.load(ensemble_folder(given.run)).generate(texts, seeds),
        "real, held out": real,
    }
    figures = {name: {"psnr": psnr(x, real), "fid": judge.fid(x.clamp(-1, 1))} for name, x in made.items()}
    for name, scores in figures.items():
        say(f"{name}: PSNR {scores['psnr']:.2f} dB, FID@{len(real)} {scores['fid']:.3f} in {features}")
    finish("super_resolution", {"n": len(real), "features": features, "of": figures})


def psnr(x: Tensor, real: Tensor) -> float:
    """In dB, the mean over images [N, C, H, W] in [-1, 1]; infinite where they are the same."""
    errors = ((x.clamp(-1, 1) - real) / 2).square().flatten(1).mean(1)
    return float((-10 * errors.log10()).mean())


if __name__ == "__main__":
    main()
