"""A one-step student as an ONNX model: noise and conditions in, samples out."""

import logging
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from msd_ray.diffusion import EDMDenoiser, one_step
from msd_ray.ensemble import seeded_noise
from msd_ray.errors import MsdRayError, one_line
from msd_ray.extras import needed

TOLERANCE = 1e-4
_TRACED, _TRIED = 2, 3
"""Sizes of the batches that the model is made and tried with: another size shows that it takes any."""


class _OneStep(nn.Module):
    def __init__(self, student: EDMDenoiser, sigma_init: float) -> None:
        super().__init__()
        self.student, self.sigma_init = student, sigma_init

    def forward(self, noise: Tensor, condition: Tensor) -> Tensor:
        return one_step(self.student, noise, condition, self.sigma_init)


@torch.no_grad()
def write_onnx(student: EDMDenoiser, sigma_init: float, shape: tuple[int, ...], condition: int, file: Path) -> float:
    """Writes the model: `noise` [B, *shape] float32 and `condition` [B] int64 -> `sample` [B, *shape], for any B; large
    weights go into a second file beside it.

    condition: one that the student owns, to try it with. Returns the largest difference between onnxruntime's samples
    and ours. Raises UserError where a library is missing, MsdRayError where the model cannot be made, or makes other
    samples.
    """
    for module in ("onnx", "onnxscript", "onnxruntime"):
        needed(module, "onnx")
    model, inputs = _OneStep(student, sigma_init).eval(), _inputs(_TRACED, shape, condition)
    batch = torch.export.Dim("batch")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's own parts
            logging.getLogger("torch.onnx").setLevel(logging.ERROR)
            torch.onnx.export(
                model,
                inputs,
                file,
                input_names=["noise", "condition"],
                output_names=["sample"],
                dynamic_shapes=({0: batch}, {0: batch}),
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # whatever a network has that ONNX has not
        raise MsdRayError(f"torch cannot make an ONNX model of this student: {one_line(error)[:300]}") from None
    return _tried(model, file, _inputs(_TRIED, shape, condition))


def _inputs(n: int, shape: tuple[int, ...], condition: int) -> tuple[Tensor, Tensor]:
    return seeded_noise(range(n), shape), torch.full((n,), condition)


def _tried(model: nn.Module, file: Path, inputs: tuple[Tensor, Tensor]) -> float:
    given = dict(zip(("noise", "condition"), (value.numpy() for value in inputs), strict=True))
    try:
        session = needed("onnxruntime", "onnx").InferenceSession(str(file), providers=["CPUExecutionProvider"])
        (theirs,) = session.run(None, given)
    except Exception as error:  # onnxruntime has classes of its own
        raise MsdRayError(f"onnxruntime cannot run the ONNX model of this student: {one_line(error)[:300]}") from None
    difference = float((model(*inputs) - torch.from_numpy(theirs)).abs().max())
    if not difference <= TOLERANCE:
        raise MsdRayError(
            f"onnxruntime makes other samples of this student than torch: they differ by {difference:.1e}"
        )
    return difference
