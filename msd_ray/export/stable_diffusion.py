"""A one-step student of prompts as diffusers' `StableDiffusionPipeline` with an `LCMScheduler`, which makes its samples
in one step without guidance."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from msd_ray.codecs.vae import Vae
from msd_ray.conditions.clip_text import opened
from msd_ray.diffusion import EDMDenoiser, NoiseTable, Stepped, one_step
from msd_ray.ensemble import ONE_STEP, Description, Member
from msd_ray.errors import MsdRayError, UserError
from msd_ray.extras import needed
from msd_ray.networks.diffusers_unet_condition import DiffusersConditionUNet

TRIED = ("a red car", "two cats with hats")
"""Prompts that a pipeline is tried with."""
TOLERANCE = 1e-4
"""Of the largest value, where that is above 1."""
CPU = torch.device("cpu")


def prompt_pipeline(known: Description, member: Member) -> tuple[Any, float]:
    """The pipeline that makes the samples of this student, and the largest difference between its latents and ours.
    Raises UserError where there is no pipeline for it, MsdRayError where it makes other samples."""
    student = member.build(known.conditions)
    if problem := _misfit(known, student, member.sigma_init):
        raise UserError(f"diffusers has no pipeline for this student of prompts: {problem}")
    pipeline = _pipeline(known, student)
    difference = _difference(pipeline, known, member, student)
    if not difference <= TOLERANCE:
        raise MsdRayError(
            f"diffusers makes other samples of this student than msd_ray: they differ by {difference:.1e}"
        )
    return pipeline, difference


def _misfit(known: Description, student: EDMDenoiser, sigma_init: float) -> str:
    """What keeps diffusers from computing what this student computes; empty where it can."""
    how, options = student.preconditioning, known.conditions_spec.config.options
    if known.sampling != ONE_STEP:
        return "it makes a sample in several steps"
    if not isinstance(student.network, DiffusersConditionUNet):
        return "its network is not of the kind diffusers-unet-condition"
    if options.get("embedder") != "clip-tokens":
        return "its prompts are not embedded as clip-tokens"
    if known.codec.kind != "vae":
        return "its codec is no vae"
    if not isinstance(how, Stepped) or how.table.schedule == "flow":
        return "its noise levels are not those of an LCMScheduler"
    if abs(_step(how.table, sigma_init) - (how.table.steps - 1)) > 0.01:
        return f"it starts at step {_step(how.table, sigma_init):.1f}, an LCMScheduler at {how.table.steps - 1}"
    return ""


def _step(table: NoiseTable, sigma: float) -> float:
    return float(table.step_of(torch.tensor([sigma], dtype=torch.float64)))


def _pipeline(known: Description, student: EDMDenoiser) -> Any:
    diffusers, how = needed("diffusers", "hf"), student.preconditioning
    assert isinstance(how, Stepped) and isinstance(student.network, DiffusersConditionUNet)
    tokenizer, text_encoder = opened(Path(known.conditions_spec.config.options["encoder"]), CPU)
    table = how.table
    scheduler = diffusers.LCMScheduler(
        num_train_timesteps=table.steps,
        beta_start=table.beta_start,
        beta_end=table.beta_end,
        beta_schedule=table.schedule,
        prediction_type=how.prediction,
        original_inference_steps=table.steps,  # so that a single step is the last of the table
        rescale_betas_zero_snr=table.zero_terminal_snr,
    )
    vae = Vae(**known.codec.options).model(CPU)
    unused = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    pipeline = diffusers.StableDiffusionPipeline(
        vae, text_encoder, tokenizer, student.network.model, scheduler, **unused
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@torch.no_grad()
def _difference(pipeline: Any, known: Description, member: Member, student: EDMDenoiser) -> float:
    z = torch.randn(len(TRIED), *member.spec.sample_shape, generator=torch.Generator().manual_seed(0))
    theirs: Tensor = pipeline(
        list(TRIED), num_inference_steps=1, guidance_scale=0.0, latents=z, output_type="latent"
    ).images
    ours = one_step(student, z, known.conditions.encode(TRIED), member.sigma_init)
    return float((theirs - ours).abs().max() / ours.abs().max().clamp(min=1))
