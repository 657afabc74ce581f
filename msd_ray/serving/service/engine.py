"""What computes the networks of served students where that is not torch, operation by operation."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn

from msd_ray.ensemble import Part
from msd_ray.errors import MsdRayError, UserError, named
from msd_ray.export.onnx_model import require_onnx, write_model
from msd_ray.extras import needed
from msd_ray.serving.service.config import StudentConfig

INPUTS, OUTPUT = ("x", "c_noise", "condition"), "f"
INSTEAD = "take students.engine: torch"
_TRACING = Lock()
"""Torch traces one network of a process at a time."""
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def use_engine(part: Part, config: StudentConfig) -> None:
    """From now on the part's networks are computed by the engine of the configuration. It makes itself ready where a
    network is first called, and the compiler where a batch has a size that it has not had.

    Raises UserError where a library is missing. A network's first call raises MsdRayError if the engine does not take
    it.
    """
    if config.engine == "compile":
        part.run_networks(_Compiled)
    if config.engine == "onnxruntime":
        require_onnxruntime(part.device)
        part.run_networks(lambda: _InOnnxruntime(config.threads))


def require_onnxruntime(device: torch.device) -> None:
    """Raises UserError where it, or what writes models for it, is not installed, or not for this device."""
    require_onnx()
    if _PROVIDERS[device.type] not in needed("onnxruntime", "onnx").get_available_providers():
        raise UserError(f"the onnxruntime that is installed does not compute on {device.type}; {INSTEAD}, or compile")


class _Compiled:
    """Runs a network as torch's compiler makes it, for each size of batch anew."""

    def __init__(self) -> None:
        self._compiled: dict[int, Callable[..., Tensor]] = {}

    def __call__(self, network: nn.Module, *inputs: Tensor) -> Tensor:
        size = len(inputs[0])
        if size in self._compiled:
            return self._compiled[size](*inputs)
        compiled: Callable[..., Tensor] = torch.compile(_code_of_its_own(network), fullgraph=True, dynamic=False)
        try:
            with _TRACING:
                made = compiled(*inputs)
        except Exception as error:  # of torch's compiler, or of the one for C++
            raise MsdRayError(f"torch cannot compile this student: {named(error)[:300]}; {INSTEAD}") from None
        self._compiled[size] = compiled
        return made


def _code_of_its_own(network: nn.Module) -> Callable[..., Tensor]:
    """Torch keeps what it compiles by the object of a function's code, and little for each."""

    def forward(*inputs: Tensor) -> Tensor:
        made: Tensor = network(*inputs)
        return made

    forward.__code__ = forward.__code__.replace()
    return forward


class _InOnnxruntime:
    """Runs a network in onnxruntime, in fp32 and in batches of any size."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._session: Any = None

    def __call__(self, network: nn.Module, *inputs: Tensor) -> Tensor:
        self._session = self._session or _session(network, inputs, self._threads)
        given = dict(zip(INPUTS, (value.cpu().numpy() for value in inputs), strict=True))
        (made,) = self._session.run([OUTPUT], given)
        return torch.from_numpy(made).to(inputs[0].device)


def _session(network: nn.Module, inputs: tuple[Tensor, ...], threads: int) -> Any:
    """onnxruntime with this network. inputs: those of a call. Raises MsdRayError if it does not take the network."""
    onnxruntime = needed("onnxruntime", "onnx")
    options, provider = onnxruntime.SessionOptions(), _PROVIDERS[inputs[0].device.type]
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "network.onnx"
        try:
            with _TRACING:
                write_model(network, [torch.cat((value, value)) for value in inputs], INPUTS, OUTPUT, file)
            return onnxruntime.InferenceSession(str(file), options, providers=[provider])
        except Exception as error:  # ours, or one of onnxruntime's classes
            raise MsdRayError(f"onnxruntime does not take this student: {named(error)[:300]}; {INSTEAD}") from None
