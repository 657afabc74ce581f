"""A one-step student as an ONNX model: noise and conditions in, samples out."""

import logging
import warnings
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from msd_ray.diffusion import EDMDenoiser, one_step
from msd_ray.diffusion.preconditioning import Coefficients, start
from msd_ray.ensemble import seeded_noise
from msd_ray.errors import MsdRayError, one_line
from msd_ray.extras import needed

TOLERANCE = 1e-4
_TRACED, _TRIED = 2, 3
"""Sizes of the batches that the model is made and tried with: another size shows that it takes any."""


@dataclass(frozen=True)
class _Constant:
    """The coefficients at one level: a search in a table of levels would not become ONNX."""

    known: Coefficients

    def coefficients(self, sigma: Tensor, *_: float) -> Coefficients:
        return Coefficients(*(value.expand(sigma.shape) for value in self.known))


class _OneStep(nn.Module):
    def __init__(self, student: EDMDenoiser, sigma_init: float) -> None:
        super().__init__()
        how, level = student.preconditioning, torch.tensor([sigma_init])
        self.scale, self.sigma_init, self.student = start(how, sigma_init), sigma_init, copy(student)
        constant: Any = _Constant(how.coefficients(level, student.sigma_data, student.sigma_min))
        self.student.preconditioning = constant

    def forward(self, noise: Tensor, condition: Tensor) -> Tensor:
        sigma = torch.full(noise.shape[:1], self.sigma_init)
        x: Tensor = self.student(self.scale * noise, sigma, condition)
        return x


@torch.no_grad()
def write_onnx(student: EDMDenoiser, sigma_init: float, shape: tuple[int, ...], condition: int, file: Path) -> float:
    """Writes the model: `noise` [B, *shape] float32 and `condition` [B] int64 -> `sample` [B, *shape], for any B; large
    weights go into a second file beside it.

    condition: one that the student owns, to try it with. Returns the largest difference between onnxruntime's samples
    and ours, over the largest value where that is above 1. Raises UserError where a library is missing, MsdRayError
    where the model cannot be made, or makes other samples.
    """
    model, inputs = _OneStep(student, sigma_init).eval(), _inputs(_TRACED, shape, condition)
    write_model(model, inputs, ("noise", "condition"), "sample", file)
    return _tried(student, sigma_init, file, _inputs(_TRIED, shape, condition))


@torch.no_grad()
def write_model(model: nn.Module, inputs: Sequence[Tensor], names: Sequence[str], made: str, file: Path) -> None:
    """Writes a model of `names` [B, ...] -> `made` [B, ...], for any B; large weights go into a second file beside it.

    inputs: of a batch of at least two. Raises as `write_onnx`, but does not try what it wrote.
    """
    require_onnx()
    batch = torch.export.Dim("batch")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's own parts
            logging.getLogger("torch.onnx").setLevel(logging.ERROR)
            torch.onnx.export(
                model,
                tuple(inputs),
                file,
                input_names=list(names),
                output_names=[made],
                dynamic_shapes=tuple({0: batch} for _ in inputs),
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # whatever a network has that ONNX has not
        raise MsdRayError(f"torch cannot make an ONNX model of this student: {_reason(error)}") from None


def require_onnx() -> None:
    """Raises UserError where a library is missing."""
    for module in ("onnx", "onnxscript", "onnxruntime"):
        needed(module, "onnx")


def _reason(error: Exception) -> str:
    """What torch says of the code that it cannot export stands in the cause."""
    return one_line(error.__cause__ or error)[:300]


def _inputs(n: int, shape: tuple[int, ...], condition: int) -> tuple[Tensor, Tensor]:
    return seeded_noise(range(n), shape), torch.full((n,), condition)


def _tried(student: EDMDenoiser, sigma_init: float, file: Path, inputs: tuple[Tensor, Tensor]) -> float:
    given = dict(zip(("noise", "condition"), (value.numpy() for value in inputs), strict=True))
    try:
        session = needed("onnxruntime", "onnx").InferenceSession(str(file), providers=["CPUExecutionProvider"])
        (theirs,) = session.run(None, given)
    except Exception as error:  # onnxruntime has classes of its own
        raise MsdRayError(f"onnxruntime cannot run the ONNX model of this student: {_reason(error)}") from None
    ours = one_step(student, *inputs, sigma_init)
    difference = float((ours - torch.from_numpy(theirs)).abs().max() / ours.abs().max().clamp(min=1))
    if not difference <= TOLERANCE:
        raise MsdRayError(
            f"onnxruntime makes other samples of this student than torch: they differ by {difference:.1e}"
        )
    return difference
