"""Files that want to run something, to take all memory, or that are damaged: each by name."""

import io
import os
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.golden.vectors import Vectors

from .edm_files import Persistent, authors_module, snapshot

PROTO = b"\x80\x04"
DICT_OF_EMA = PROTO + b"}\x8c\x03ema"


class Runs:
    """Pickled as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def dumped(content: Any, protocol: int = 4) -> bytes:
    with authors_module():
        return pickle.dumps(content, protocol)


def calling(module: str, name: str, *texts: str) -> bytes:
    """A pickle that calls a global of that name with texts."""
    arguments = b"".join(_text(text) for text in texts)
    return DICT_OF_EMA + _text(module) + _text(name) + b"\x93(" + arguments + b"tRs."


def _text(text: str) -> bytes:
    raw = text.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def good(name: str = "edm-ddpmpp-cond") -> bytes:
    return dumped(snapshot(name, "EDM"))


def changed_storage(change: Callable[[bytes], bytes]) -> bytes:
    """The snapshot with other bytes where a tensor's numbers are."""
    held = snapshot("edm-ddpmpp-cond", "EDM")
    layer = _layer(held)
    raw = _storage_bytes(layer["weight"].data)
    layer["weight"] = Rebuilt(Stored(change(raw)), 0, tuple(layer["weight"].shape), tuple(layer["weight"].stride()))
    return dumped(held)


def changed_tensor(offset: int = 0, size: Any = (32, 8), stride: Any = (8, 1), twice: bool = False) -> bytes:
    held = snapshot("edm-ddpmpp-cond", "EDM")
    layer = _layer(held)
    layer["weight"] = Rebuilt(Stored(_storage_bytes(layer["weight"].data)), offset, size, stride)
    return dumped(held)


def _layer(held: dict[str, Any]) -> dict[str, Any]:
    model = held["ema"].meta["state"]["_modules"]["model"].meta["state"]["_modules"]
    parameters: dict[str, Any] = model["map_layer0"].meta["state"]["_parameters"]
    return parameters


def _storage_bytes(tensor: Tensor) -> bytes:
    with warnings.catch_warnings(action="ignore"):  # torch has another class for it, which is pickled otherwise
        _, (raw,) = tensor.contiguous().storage().__reduce__()
    assert isinstance(raw, bytes)
    return raw


class Stored:
    def __init__(self, raw: bytes) -> None:
        self.raw = raw

    def __reduce__(self) -> Any:
        return torch.storage._load_from_bytes, (self.raw,)  # type: ignore[attr-defined]


class Rebuilt:
    def __init__(self, storage: Stored, offset: int, size: Any, stride: Any) -> None:
        self.arguments = storage, offset, size, stride, False, {}

    def __reduce__(self) -> Any:
        return torch._utils._rebuild_tensor_v2, self.arguments  # type: ignore[attr-defined]


def shared_parts() -> bytes:
    """A network of forty parts, each of which stands twice in the one above: 2^40 where they are walked through."""
    part = Persistent("Part", _parameters={}, _buffers={}, _modules={})
    for _ in range(40):
        part = Persistent("Part", _parameters={}, _buffers={}, _modules={"a": part, "b": part})
    held = snapshot("edm-ddpmpp-cond", "EDM")
    held["ema"].meta["state"]["_modules"]["extra"] = part
    return dumped(held)


def many_names_of_a_tensor() -> bytes:
    """A parameter of a megabyte under ten thousand names."""
    held = snapshot("edm-ddpmpp-cond", "EDM")
    large = nn.Parameter(torch.zeros(2**18), False)
    _layer(held).update({f"w{i}": large for i in range(10_000)})
    return dumped(held)


def zipped(pickled: bytes, numbers: bytes = bytes(64), how: int = zipfile.ZIP_STORED, root: str = "a") -> bytes:
    """As torch.save makes it."""
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", how) as archive:
        archive.writestr(f"{root}/data.pkl", pickled)
        archive.writestr(f"{root}/data/0", numbers)
    return whole.getvalue()


def state_dict(
    count: int = 16, size: tuple[int, ...] = (16,), stride: tuple[int, ...] = (1,), kind: str = "Float"
) -> bytes:
    """The pickle of a state dict of one tensor, by hand."""
    pid = _text("storage") + b"ctorch\n" + f"{kind}Storage\n".encode() + _text("0") + _text("cpu") + _int(count) + b"tQ"
    numbers = b"(" + b"".join(map(_int, size)) + b"t(" + b"".join(map(_int, stride)) + b"t"
    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n((" + pid + b"K\x00" + numbers + b"\x89}tR"
    return b"\x80\x02}" + _text("w") + rebuild + b"s."


def _int(number: int) -> bytes:
    raw = number.to_bytes(9, "little", signed=True)
    return b"\x8a\x09" + raw


def adm(**changes: Any) -> bytes:
    whole = io.BytesIO()
    torch.save(Vectors("openai-adm").weights() | changes, whole)
    return whole.getvalue()


def without(name: str) -> bytes:
    whole = io.BytesIO()
    torch.save({n: w for n, w in Vectors("openai-adm").weights().items() if n != name}, whole)
    return whole.getvalue()


def files(canary: Path) -> dict[str, tuple[bytes, str]]:
    """The bytes of each, and a part of what is said of it."""
    command = f"touch {canary}"
    run = Runs(os.system, command)
    legacy, beside = dumped(run, 2), dumped({**snapshot("edm-ddpmpp-cond", "EDM"), "x": run})
    unrun, beyond, size = "nothing was run", "larger than what is stored of it", "has not the size that it says"
    no_tensor = "one of its tensors is none"
    return {
        "os.system": (dumped({"ema": run}), unrun),
        "os.system in protocol 2": (dumped({"ema": run}, 2), unrun),
        "os.system beside a network": (beside, unrun),
        "eval": (calling("builtins", "eval", f"__import__('os').system('{command}')"), "builtins.eval"),
        "python 2's eval": (calling("__builtin__", "eval", "1"), "__builtin__.eval"),
        "getattr": (calling("builtins", "getattr", "os", "system"), "builtins.getattr"),
        "a dotted name": (calling("torch", "os.system", command), "torch.os.system"),
        "a dotted name of a known module": (calling("torch._utils", "torch.os.system", command), unrun),
        "torch.load": (calling("torch", "load", "x"), "torch.load"),
        "torch's own reader of bytes": (
            calling("torch.storage", "_load_from_bytes", "x"),
            "one of its tensors is none",
        ),
        "subprocess": (calling("subprocess", "check_output", command), "subprocess.check_output"),
        "runpy": (calling("runpy", "run_path", "x.py"), "runpy.run_path"),
        "numpy's loader": (calling("numpy", "load", "x"), "numpy.load"),
        "a class of the standard library": (calling("types", "CodeType"), "types.CodeType"),
        "operator.attrgetter": (calling("operator", "attrgetter", "a.b"), "operator.attrgetter"),
        "an object's own reduce": (calling("copyreg", "_reconstructor"), "copyreg._reconstructor"),
        "os.system in a tensor's bytes": (changed_storage(lambda raw: legacy), unrun),
        "os.system in a zip in a tensor's bytes": (
            changed_storage(lambda raw: zipped(legacy)),
            "read",
        ),
        "os.system after a tensor's description": (
            changed_storage(lambda raw: raw[:25] + legacy),
            "read",
        ),
        "a persistent id": (DICT_OF_EMA + b"K\x01Qs.", "it refers to something outside of itself"),
        "an extension": (DICT_OF_EMA + b"\x82\x01s.", "the instruction EXT1"),
        "an instance of old": (PROTO + b"(ios\nsystem\n.", "the instruction INST"),
        "a memo of 2^27": (PROTO + b"Nr" + struct.pack("<I", 2**27) + b".", "more objects than a network has"),
        "a memo of 2^31": (PROTO + b"Nr" + struct.pack("<I", 2**31) + b".", "more objects than a network has"),
        "3 GB of bytes claimed": (PROTO + b"B" + struct.pack("<I", 3 * 2**30) + b"x.", "expected 3221225472"),
        "an array of 3 GB claimed": (
            PROTO + b"\x96" + struct.pack("<Q", 3 * 2**30) + b"x.",
            "expected 3221225472 bytes",
        ),
        "a frame of 2^60": (PROTO + b"\x95" + struct.pack("<Q", 2**60) + b"N.", "it ends early"),
        "a number of a million digits": (PROTO + b"L" + b"9" * 10**6 + b"L\n.", "read"),
        "two million lists": (PROTO + b"]" * 2_000_000 + b".", "more objects than a network has"),
        "parts that share parts": (shared_parts(), "stands in it twice"),
        "one tensor of many names": (many_names_of_a_tensor(), "its tensors overlap"),
        "a stride of 0": (changed_tensor(size=(10**6, 10**6), stride=(0, 0)), "does not lie in order"),
        "a tensor beyond its storage": (changed_tensor(size=(2**20, 8)), beyond),
        "a tensor of 2^80": (
            changed_tensor(size=(2**40, 2**40), stride=(2**40, 1)),
            "larger than what is stored of it",
        ),
        "an offset beyond": (changed_tensor(offset=1), beyond),
        "a negative offset": (changed_tensor(offset=-8), no_tensor),
        "a negative size": (changed_tensor(size=(-32, -8)), no_tensor),
        "a tensor of texts": (changed_tensor(size=("a", 8)), no_tensor),
        "a tensor turned around": (changed_tensor(stride=(1, 32)), "does not lie in order"),
        "a storage that claims more": (
            changed_storage(lambda raw: _claiming(raw, 2**40)),
            "has not the size that it says",
        ),
        "a storage that claims less than none": (
            changed_storage(lambda raw: _claiming(raw, -1)),
            "has not the size that it says",
        ),
        "integers": (changed_storage(lambda raw: raw.replace(b"FloatStorage", b"LongStorage")), "torch.LongStorage"),
        "cut in a tensor": (good()[: len(good()) // 2], "read"),
        "cut after ten bytes": (good()[:10], "read"),
        "the last byte cut": (good()[:-1], "read"),
        "two bytes": (PROTO, "read"),
        "no bytes": (b"", "is no teacher"),
        "a list": (dumped([1]), "it holds no network under `ema`"),
        "no network": (dumped({"ema": {"a": 1}}), "it holds no network under `ema`"),
        "a function of EDM's": (dumped({"ema": Persistent("EDMPrecond", _modules=3)}), "something else"),
        "a pointer of git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
        "a web page": (b"<!DOCTYPE html><html>404</html>", "is a web page"),
        "a message in XML": (b"\n<?xml version='1.0'?><Error>AccessDenied</Error>", "is a web page"),
        "a text": (b"hello", "is no teacher"),
        "a picture": (b"\x89PNG\r\n\x1a\n", "is no teacher"),
        "torch's old format": (_old_torch(), "in torch's format of before 2020"),
        "a zip of something else": (zipped(b"", root="b").replace(b"data.pkl", b"data.txt"), "not one of torch.save"),
        "a zip that is cut": (adm()[:-100], "zip"),
        "os.system in a state dict": (zipped(dumped({"w": run}, 2)), unrun),
        "a zip bomb": (zipped(state_dict(), bytes(2**26), zipfile.ZIP_DEFLATED), "it is compressed"),
        "a state dict that grows": (zipped(state_dict(size=(2**40,))), beyond),
        "a state dict of stride 0": (zipped(state_dict(size=(2**20,), stride=(0,))), "does not lie in order"),
        "a state dict that claims more": (zipped(state_dict(count=2**40)), size),
        "a state dict of another type": (zipped(state_dict(kind="Long")), "torch.LongStorage"),
        "a state dict of something else": (zipped(state_dict()), "it lacks 'time_embed.0.weight'"),
        "a state dict in a state dict": (adm(model={"w": torch.zeros(1)}), "is not a tensor in float32 or float16"),
        "a tensor too few": (without("out.2.bias"), "its network lacks the tensor network.conv_out.bias"),
        "a tensor too many": (adm(more=torch.zeros(1)), "the tensor network..more"),
        "a tensor of another shape": (adm(**{"out.0.bias": torch.zeros(4)}), "its configuration [128]"),
        "no numbers": (adm(**{"out.2.bias": torch.full((3,), torch.nan)}), "is not of finite numbers"),
    }


def _claiming(raw: bytes, count: int) -> bytes:
    size = len(raw) - 4 * 32 * 8 - 8
    return raw[:size] + struct.pack("<q", count) + raw[size + 8 :]


def _old_torch() -> bytes:
    whole = io.BytesIO()
    torch.save({"w": torch.zeros(1)}, whole, _use_new_zipfile_serialization=False)
    return whole.getvalue()
