"""A one-step student of prompts as a stock pipeline of diffusers, which makes its samples in one step without
guidance."""

from typing import Any

import torch
from torch import Tensor

from msd_ray.codecs.vae import Vae
from msd_ray.diffusion import EDMDenoiser, one_step
from msd_ray.ensemble import ONE_STEP, Description, Member
from msd_ray.errors import MsdRayError, UserError
from msd_ray.export.one_step_scheduler import one_step_call, one_step_scheduler, scheduler_misfit
from msd_ray.export.stock_pipelines import CPU, STOCK

TRIED = ("a red car", "two cats with hats")
"""Prompts that a pipeline is tried with."""
TOLERANCE = 1e-4
"""Of the largest value, where that is above 1."""


def prompt_pipeline(known: Description, member: Member) -> tuple[Any, float]:
    """The pipeline that makes the samples of this student, and the largest difference between its latents and ours.
    Raises UserError where there is no pipeline for it, MsdRayError where it makes other samples."""
    if problem := _misfit(known, member):
        raise UserError(f"diffusers has no pipeline for this student of prompts: {problem}")
    student = member.build(known.conditions)
    pipeline = _pipeline(known, member, student)
    difference = _difference(pipeline, known, member, student)
    if not difference <= TOLERANCE:
        raise MsdRayError(
            f"diffusers makes other samples of this student than msd_ray: they differ by {difference:.1e}"
        )
    return pipeline, difference


def prompt_call(member: Member) -> dict[str, Any]:
    """What the pipeline of this student must be called with, beside the prompts."""
    how: Any = member.spec.preconditioning
    called = one_step_call(how, member.sigma_init)
    return {**called, "guidance_scale": 0.0, **STOCK[member.spec.network.kind].call(member.spec)}


def _misfit(known: Description, member: Member) -> str:
    """What keeps diffusers from computing what this student computes; empty where it can."""
    network: Any = member.spec.network
    if known.sampling != ONE_STEP:
        return "it makes a sample in several steps"
    if network.kind not in STOCK:
        return f"its network is none of the kinds {', '.join(STOCK)}"
    if known.conditions_spec.config.options.get("embedder") != network.takes:
        return f"its prompts are not embedded as {network.takes}"
    if known.codec.kind != "vae":
        return "its codec is no vae"
    return scheduler_misfit(member.spec.preconditioning, member.sigma_init)


def _pipeline(known: Description, member: Member, student: EDMDenoiser) -> Any:
    network: Any = student.network
    how: Any = student.preconditioning
    stock, encoder = STOCK[member.spec.network.kind], known.conditions_spec.config.options["encoder"]
    pipeline = stock.make(network.model, Vae(**known.codec.options).model(CPU), one_step_scheduler(how), encoder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@torch.no_grad()
def _difference(pipeline: Any, known: Description, member: Member, student: EDMDenoiser) -> float:
    z = torch.randn(len(TRIED), *member.spec.sample_shape, generator=torch.Generator().manual_seed(0))
    theirs: Tensor = pipeline(list(TRIED), latents=z, output_type="latent", **prompt_call(member)).images
    ours = one_step(student, z, known.conditions.encode(TRIED), member.sigma_init)
    return float((theirs - ours).abs().max() / ours.abs().max().clamp(min=1))
