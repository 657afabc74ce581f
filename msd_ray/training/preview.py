"""Pictures of the samples of a student's networks from the same noise: loss curves of these methods say little."""

import torch
from torch import Tensor

from msd_ray.codecs import Codec
from msd_ray.diffusion import add_noise, few_steps
from msd_ray.rng import stream
from msd_ray.training.student_spec import StudentSpec
from msd_ray.training.student_trainer import StudentTrainer

PREVIEWS = "previews"
SAMPLES, SIGMAS = 8, (0.5, 3.0)
ROWS = ("student", *(f"{who} at sigma {sigma:g}" for sigma in SIGMAS for who in ("teacher", "fake score")))
"""The rows of a preview. If a stage trains a denoiser, "fake score" is the student itself."""


def can_preview(spec: StudentSpec, codec: Codec) -> bool:
    """Whether there is a picture to make: of images, by a student of whole samples that knows all levels shown."""
    n = spec.noise
    has_pictures = codec.picture_shape(spec.denoiser.sample_shape) is not None
    return has_pictures and spec.phases == 1 and n.sigma_min <= min(SIGMAS) and max(SIGMAS) <= n.sigma_max


@torch.no_grad()
def preview(trainer: StudentTrainer) -> Tensor:
    """[rows, SAMPLES, ...] as `ROWS` says: samples, and how teacher and fake score denoise them when noised.

    The same noise and conditions every time.
    """
    spec, device = trainer.spec, trainer.device
    rng = stream("preview", spec.index, device=device)
    z = torch.randn(SAMPLES, *spec.denoiser.sample_shape, generator=rng, device=device)
    condition = trainer.owned.in_turn(SAMPLES).to(device)
    follower = trainer.nets.fake if trainer.makes_samples else trainer.ema
    levels = spec.noise.step_levels
    renoise = torch.randn(len(levels) - 1, *z.shape, generator=rng, device=device)
    x = few_steps(trainer.ema, z, condition, renoise, levels)
    rows = [x]
    for level in SIGMAS:
        sigma = torch.full((SAMPLES,), level, device=device)
        x_t = add_noise(x, sigma, rng)
        rows += [trainer.teacher.submit(x_t, sigma, condition).result(), follower(x_t, sigma, condition)]
    return torch.stack(rows)
