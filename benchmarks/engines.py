"""What the engines of served students take and give, network by network: torch in fp32 and bf16, torch's compiler,
onnxruntime, and two ways of eight bits that the service does not have, onnxruntime's and torchao's.

    python benchmarks/engines.py [--repeats 7] [--quick] [--network digits|large|both] [--engines NAME ...]

The last line of standard output is one JSON object. Of each network and engine: `start_seconds`, until all sizes are
ready (and `again_seconds` of the compiler, which then finds what it has compiled); `ms`, of one evaluation of so many
images by one thread's CPU time, mean, standard deviation and n; `ratio`, torch's median in fp32 over the engine's, the
evaluations in turns; `difference`, the largest of any value of 64 images from torch's in fp32. `missing` says which
library an engine lacks here.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from common import finish, say, spread
from serving_ensembles import untrained
from torch import Tensor, nn

from msd_ray.ensemble import Part, SampleId, read_description
from msd_ray.export.onnx_model import write_model
from msd_ray.serving.service.config import StudentConfig
from msd_ray.serving.service.engine import INPUTS, OUTPUT, use_engine
from msd_ray.storage import Store

NETWORKS = {"digits": [], "large": ["network.channels=160", "partition.k=1"]}
SIZES = (1, 4, 16, 64)


def as_configured(**students: Any) -> Callable[[Part], None]:
    """As the service computes with this configuration of students."""

    def change(part: Part) -> None:
        config = StudentConfig(**students)
        if config.precision == "bf16":
            part.compute_in_bf16()
        use_engine(part, config)

    return change


def onnxruntime_in_int8(part: Part) -> None:
    """Weights in eight bits, and activations where they are multiplied: `quantize_dynamic`."""
    part.run_networks(_QuantizedOnnx)


class _QuantizedOnnx:
    def __init__(self) -> None:
        self._session: Any = None

    def __call__(self, network: nn.Module, *inputs: Tensor) -> Tensor:
        self._session = self._session or _quantized(network, inputs)
        given = dict(zip(INPUTS, (value.numpy() for value in inputs), strict=True))
        return torch.from_numpy(self._session.run([OUTPUT], given)[0])


def _quantized(network: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
    import onnxruntime
    from onnxruntime.quantization import quantize_dynamic

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    with tempfile.TemporaryDirectory() as folder:
        plain, eight = Path(folder) / "plain.onnx", Path(folder) / "eight.onnx"
        write_model(network, [torch.cat((value, value)) for value in inputs], INPUTS, OUTPUT, plain)
        quantize_dynamic(plain, eight)
        return onnxruntime.InferenceSession(str(eight), options, providers=["CPUExecutionProvider"])


def torchao_in_int8(part: Part) -> None:
    """Linear layers in eight bits, weights and activations; torchao leaves convolutions as they are."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    part.run_networks(lambda: lambda network, *inputs: network(*inputs))
    for student in part._students:
        quantize_(student.network, Int8DynamicActivationInt8WeightConfig())


ENGINES: dict[str, tuple[str, Callable[[Part], None]]] = {
    "torch": ("torch", as_configured()),
    "torch bf16": ("torch", as_configured(precision="bf16")),
    "compile": ("torch", as_configured(engine="compile")),
    "compile bf16": ("torch", as_configured(engine="compile", precision="bf16")),
    "onnxruntime": ("onnxruntime", as_configured(engine="onnxruntime")),
    "onnxruntime int8": ("onnxruntime", onnxruntime_in_int8),
    "torchao int8": ("torchao", torchao_in_int8),
}
"""Each with the library that it needs."""
QUICK = ("torch", "onnxruntime", "torchao int8")


def evaluated(part: Part, trial: Any, size: int) -> Tensor:
    sample_ids: list[SampleId] = [(trial, seed) for seed in range(size)]
    return part.evaluate(sample_ids, range(size), size)


def made_ready(load: Callable[[], Part], change: Callable[[Part], None], trial: Any) -> tuple[Part, float]:
    """A part with its engine, and the seconds until it has evaluated every size."""
    part, begin = load(), time.perf_counter()
    change(part)
    for size in SIZES:
        evaluated(part, trial, size)
    return part, time.perf_counter() - begin


def measured(overrides: list[str], engines: list[str], repeats: int) -> dict[str, Any]:
    """Of one network, by engine."""
    with tempfile.TemporaryDirectory() as where:
        known = read_description(Store(untrained("digits", overrides, where).students))
        trial = int(known.partition.router.ids_of(0)[0])
        parts, rows = dict[str, Part](), dict[str, Any]()
        for name in engines:
            say(name)
            change = ENGINES[name][1]
            parts[name], seconds = made_ready(lambda: Part.load(known, 0), change, trial)
            rows[name] = {"start_seconds": seconds}
            if name.startswith("compile"):
                rows[name]["again_seconds"] = made_ready(lambda: Part.load(known, 0), change, trial)[1]
    times = timed(parts, trial, repeats)
    right = evaluated(parts["torch"], trial, SIZES[-1])
    for name, row in rows.items():
        row["ms"] = {size: spread(times[name, size]) for size in SIZES}
        row["ratio"] = {
            size: statistics.median(times["torch", size]) / statistics.median(times[name, size]) for size in SIZES
        }
        row["difference"] = float((evaluated(parts[name], trial, SIZES[-1]) - right).abs().max())
    return {"parameters": parts["torch"].parameters, "engines": rows}


def timed(parts: dict[str, Part], trial: Any, repeats: int) -> dict[tuple[str, int], list[float]]:
    """Milliseconds of each engine's evaluations of each size, the engines in turns."""
    times: dict[tuple[str, int], list[float]] = {(name, size): [] for name in parts for size in SIZES}
    for _ in range(repeats):
        for (name, size), some in times.items():
            begin = time.thread_time()
            evaluated(parts[name], trial, size)
            some.append(1000 * (time.thread_time() - begin))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=[*NETWORKS, "both"], default="both")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument(
        "--engines", nargs="+", choices=list(ENGINES), default=list(ENGINES), metavar="NAME", help="beside torch"
    )
    parser.add_argument("--quick", action="store_true", help="the digits' network, and what needs no compiler")
    args = parser.parse_args()
    torch.set_num_threads(1)
    wanted = dict.fromkeys(("torch", *(QUICK if args.quick else args.engines)))
    missing = {name: library for name in wanted if find_spec(library := ENGINES[name][0]) is None}
    engines = [name for name in wanted if name not in missing]
    networks = ["digits"] if args.quick else list(NETWORKS) if args.network == "both" else [args.network]
    found = {name: measured(NETWORKS[name], engines, args.repeats) for name in networks}
    finish("engines", {"repeats": args.repeats, "networks": found, "missing": missing})


if __name__ == "__main__":
    main()
