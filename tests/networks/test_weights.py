import tracemalloc
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from msd_ray.errors import CorruptError
from msd_ray.networks import weights
from msd_ray.networks.weights import StoredWeights, from_chunks, to_chunks
from msd_ray.storage import Store, read_manifest, store, write_bundle

A = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
ALL_KINDS = {
    "float": A,
    "half": A.half(),
    "bf16": A.bfloat16(),
    "count": torch.tensor(3),
    "bool": A > 0,
    "empty": torch.zeros(0, 3),
    **{str(d): torch.ones(3, dtype=d) for d in (torch.float64, torch.int32, torch.int16, torch.int8, torch.uint8)},
    'a "name" \n \u2028': A.clone(),
}
PIECE = 1 << 10


def test_the_bytes_are_those_that_safetensors_makes() -> None:
    assert b"".join(to_chunks(ALL_KINDS)) == save(ALL_KINDS)


def test_tensors_may_share_memory_and_need_gradients() -> None:
    shared = {"a": A.clone().requires_grad_(), "transposed": A.t(), "row": A[1], "again": A}
    back = from_chunks(map(bytes, to_chunks(shared)), "here")
    assert all(torch.equal(back[name], tensor) for name, tensor in shared.items())


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "CHUNK", PIECE)
    monkeypatch.setattr(store, "CHUNK", PIECE)


@pytest.mark.usefixtures("small_pieces")
def test_the_bytes_do_not_depend_on_the_pieces(tmp_path: Path) -> None:
    tensors = {**ALL_KINDS, "large": torch.randn(PIECE), "a large one": torch.arange(PIECE + 7)}
    pieces = [bytes(piece) for piece in to_chunks(tensors)]
    assert b"".join(pieces) == save(tensors) and len(pieces) > 12
    write_bundle(Store(str(tmp_path)), {}, [("w", lambda: to_chunks(tensors))])
    back = StoredWeights(Store(str(tmp_path)), read_manifest(Store(str(tmp_path))), "w").read()
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[n], t) and back[n].dtype == t.dtype for n, t in tensors.items())


@pytest.mark.usefixtures("small_pieces")
def test_neither_writing_nor_reading_nor_copying_holds_a_second_time_what_it_moves(tmp_path: Path) -> None:
    large, here = {"w": torch.randn(1_000_000)}, Store(str(tmp_path))
    tracemalloc.start()
    write_bundle(here, {}, [("w", lambda: to_chunks(large))])
    stored = StoredWeights(here, read_manifest(here), "w")
    write_bundle(here.child("copy"), {}, [("w", stored.chunks)])
    stored.read()  # into memory that torch allocates, which is not traced
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < large["w"].nbytes / 8
    assert here.child("copy").read("w") == here.read("w") == save(large)


@pytest.mark.usefixtures("small_pieces")
def test_a_byte_that_changed_is_found_while_the_file_is_copied(tmp_path: Path) -> None:
    here = Store(str(tmp_path))
    write_bundle(here, {}, [("w", lambda: to_chunks({"w": torch.zeros(PIECE)}))])
    stored, content = StoredWeights(here, read_manifest(here), "w"), here.read("w")
    here.write("w", content[:-1] + b"\1")
    with pytest.raises(CorruptError, match="w is damaged: its sha256 is not the one in the manifest"):
        write_bundle(here.child("copy"), {}, [("w", stored.chunks)])
    assert here.child("copy").names() == []
    with pytest.raises(CorruptError, match="w is damaged: its sha256"):
        stored.read()
