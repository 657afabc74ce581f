"""The same small set in every format that is read from files, written here as each format is described."""

import io
import json
import struct
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from msd_ray.data import DataConfig

N, CLASSES = 40, 4
SIZES = {"idx": (1, 8, 8), "cifar": (3, 32, 32), "imagenet64": (3, 8, 8)}
"""Shapes of formats that have one of their own."""
LABELS = np.random.default_rng(1).permutation(np.arange(N) % CLASSES)
Images = NDArray[np.uint8]
Contents = Sequence[bytes]


def images(kind: str, n: int = N) -> Images:
    return np.random.default_rng(2).integers(0, 256, (n, *SIZES.get(kind, (3, 8, 8))), dtype=np.uint8)


def png(image: Images) -> bytes:
    """Of [C, H, W]."""
    file = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0).squeeze()).save(file, "PNG")
    return file.getvalue()


def arrays(where: Path, x: Images, y: NDArray[Any]) -> DataConfig:
    np.save(where / "images.npy", x)
    np.save(where / "labels.npy", y)
    return DataConfig("arrays", str(where))


def idx(where: Path, x: Images, y: NDArray[Any]) -> DataConfig:
    for name, array in (("images-idx3", x[:, 0]), ("labels-idx1", y.astype(np.uint8))):
        head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
        (where / f"train-{name}-ubyte").write_bytes(head + array.tobytes())
    return DataConfig("idx", str(where), options={"held_out": "none"})


def cifar(where: Path, x: Images, y: NDArray[Any]) -> DataConfig:
    records = np.concatenate([y[:, None].astype(np.uint8), x.reshape(len(x), -1)], axis=1)
    for i, part in enumerate(np.array_split(records, 5)):
        (where / f"data_batch_{i + 1}.bin").write_bytes(part.tobytes())
    (where / "test_batch.bin").write_bytes(records[:20].tobytes())
    return DataConfig("cifar", str(where))


def imagenet64(where: Path, x: Images, y: NDArray[Any]) -> DataConfig:
    """The devkit's order is the sorted one the other way round here."""
    for i, part in enumerate(np.array_split(np.arange(len(x)), 10)):
        data = x[part].reshape(len(part), -1)
        labels = [CLASSES - int(label) for label in y[part]]
        np.savez(where / f"train_data_batch_{i + 1}.npz", data=data, labels=labels, mean=data.mean(axis=0))
    lines = [f"n{100 - i:08} {i + 1} kind_{CLASSES - 1 - i}\n" for i in range(CLASSES)]
    (where / "map_clsloc.txt").write_text("".join(lines))
    return DataConfig("imagenet64", str(where), options={"size": x.shape[-1]})


def folder(where: Path, x: Contents, y: NDArray[Any]) -> DataConfig:
    """Written in the order of its sorted paths."""
    for i, (content, label) in enumerate(zip(x, y, strict=True)):
        path = where / f"class {label}" / f"{i:03}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    return DataConfig("folder", str(where))


def edm_files(x: Contents, y: NDArray[Any]) -> dict[str, bytes]:
    names = [f"{i // 10:05}/img{i:08}.png" for i in range(len(x))]
    labels = json.dumps({"labels": [[name, int(label)] for name, label in zip(names, y, strict=True)]})
    return dict(zip(names, x, strict=True)) | {"dataset.json": labels.encode()}


def edm_zip(where: Path, x: Contents, y: NDArray[Any]) -> DataConfig:
    with zipfile.ZipFile(where / "set.zip", "w") as archive:
        for name, content in edm_files(x, y).items():
            archive.writestr(name, content)
    return DataConfig("edm-zip", str(where / "set.zip"))


def edm_folder(where: Path, x: Contents, y: NDArray[Any]) -> DataConfig:
    for name, content in edm_files(x, y).items():
        (where / name).parent.mkdir(exist_ok=True)
        (where / name).write_bytes(content)
    return DataConfig("edm-zip", str(where))


def parquet(where: Path, x: Contents, y: NDArray[Any]) -> DataConfig:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    for i, part in enumerate(np.array_split(np.arange(len(x)), 2)):
        column = pa.array([{"bytes": x[j], "path": f"{j}.png"} for j in part], kind)
        table = pa.table({"image": column, "label": pa.array(y[part], pa.int64())})
        pq.write_table(table, where / f"train-{i:05}-of-00002.parquet", row_group_size=7)
    return DataConfig("parquet", str(where))


def webdataset(where: Path, x: Contents, y: NDArray[Any]) -> DataConfig:
    for i, part in enumerate(np.array_split(np.arange(len(x)), 2)):
        with tarfile.open(where / f"{i:05}.tar", "w") as archive:
            for j in part:
                for ending, content in (("png", x[j]), ("cls", str(y[j]).encode()), ("txt", b"a caption")):
                    member = tarfile.TarInfo(f"{j:06}.{ending}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    return DataConfig("webdataset", str(where))


RAW: dict[str, Callable[[Path, Images, NDArray[Any]], DataConfig]] = {
    "arrays": arrays,
    "idx": idx,
    "cifar": cifar,
    "imagenet64": imagenet64,
}
ENCODED: dict[str, Callable[[Path, Contents, NDArray[Any]], DataConfig]] = {
    "folder": folder,
    "edm-zip": edm_zip,
    "edm-zip as a folder": edm_folder,
    "parquet": parquet,
    "webdataset": webdataset,
}
KINDS = [*RAW, *ENCODED]


def made(kind: str, where: Path, x: Images, y: NDArray[Any]) -> tuple[DataConfig, NDArray[Any]]:
    """A set of that format, and its labels in the order of its indices: sorted by class in `folder`."""
    y = np.sort(y) if kind == "folder" else y
    return (RAW[kind](where, x, y) if kind in RAW else ENCODED[kind](where, [png(each) for each in x], y)), y


def written(kind: str, where: Path) -> tuple[DataConfig, Images, NDArray[Any]]:
    """The same with the images."""
    config, y = made(kind, where, images(kind), LABELS)
    return config, images(kind), y
