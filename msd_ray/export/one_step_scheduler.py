"""Schedulers of diffusers whose single step is that of a one-step student."""

from typing import Any

import torch

from msd_ray.diffusion import Preconditioning, Stepped
from msd_ray.extras import needed

_NEAR = 0.01
"""How far a student's first step may be from a whole number."""


def scheduler_misfit(how: Preconditioning, sigma_init: float) -> str:
    """What keeps a scheduler from the student's only step; empty for nothing."""
    if not isinstance(how, Stepped):
        return "its noise levels are not those of a scheduler"
    step = _step(how, sigma_init)
    if how.table.schedule != "flow" and abs(step - round(step)) > _NEAR:
        level = float(how.table.sigmas[round(step)])
        return f"it starts at step {step:.2f}, an LCMScheduler at whole ones: train with noise.sigma_init={level:.7g}"
    return ""


def one_step_scheduler(how: Stepped) -> Any:
    """A `FlowMatchEulerDiscreteScheduler` for a flow, else an `LCMScheduler`."""
    diffusers, table = needed("diffusers", "hf"), how.table
    if table.schedule == "flow":
        return diffusers.FlowMatchEulerDiscreteScheduler(num_train_timesteps=table.steps, shift=1.0)
    return diffusers.LCMScheduler(
        num_train_timesteps=table.steps,
        beta_start=table.beta_start,
        beta_end=table.beta_end,
        beta_schedule=table.schedule,
        prediction_type=how.prediction,
        original_inference_steps=table.steps,  # so that a single step is the last of the table
        rescale_betas_zero_snr=table.zero_terminal_snr,
    )


def one_step_call(how: Stepped, sigma_init: float) -> dict[str, Any]:
    """What a pipeline with that scheduler is called with: a flow's step is at its u, since the scheduler's own first
    one, u = 1, is pure noise."""
    if how.table.schedule == "flow":
        return {"num_inference_steps": 1, "sigmas": [sigma_init / (1 + sigma_init)]}
    step = round(_step(how, sigma_init))
    return {"num_inference_steps": 1} if step == how.table.steps - 1 else {"timesteps": [step]}


def _step(how: Stepped, sigma: float) -> float:
    return float(how.table.step_of(torch.tensor([sigma], dtype=torch.float64)))
