"""A split of any data set as Parquet, as Hugging Face lays it out, after its preprocessing: PNGs, which keep every bit,
and the classes' numbers. Broken images are left out."""

import io
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor

from msd_ray.data.inspection import whole
from msd_ray.data.registry import DataConfig
from msd_ray.data.source import DataSet, Split
from msd_ray.errors import UserError, one_line

KEY = b"msd_ray"
"""Of the schema's metadata: what was converted, with its preprocessing."""
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def convert(config: DataConfig, data: DataSet, split: Split, to: Path, seen: Callable[[int], None]) -> int:
    """Writes the file whole or not at all, and returns how many images it has. seen: told after each piece how many
    images it had. Raises UserError where the samples are no images of 8 bits, or the file cannot be written."""
    if not len(split):
        raise UserError(f"{config.name} holds no samples out; leave --split away")
    if len(data.shape) != 3 or split.rows.take(torch.zeros(1, dtype=torch.int64).numpy()).dtype != torch.uint8:
        raise UserError(f"{config.name} has no images of 8 bits, so there is nothing to convert")
    temporary = to.with_name(f".{to.name}.{os.getpid()}")
    try:
        with pq.ParquetWriter(temporary, _schema(config, data)) as writer:
            for table in _tables(split, writer.schema):
                writer.write_table(table)
                seen(len(table))
        os.replace(temporary, to)
    except OSError as error:
        raise UserError(f"cannot write {to}: {one_line(error.strerror or error)}") from None
    finally:
        temporary.unlink(missing_ok=True)
    return len(split) - len(split.broken)


def _tables(split: Split, schema: pa.Schema) -> Iterator[pa.Table]:
    n = 0
    for raw, classes in whole(split):
        images = [{"bytes": png(image), "path": f"{n + i:08}.png"} for i, image in enumerate(raw)]
        n += len(images)
        columns = [pa.array(images, _IMAGE), pa.array(classes.numpy(), pa.int64())]
        yield pa.Table.from_arrays(columns, schema=schema)


def png(image: Tensor) -> bytes:
    """Of uint8 [C, H, W]."""
    file = io.BytesIO()
    pixels = image.permute(1, 2, 0).numpy()
    Image.fromarray(pixels if len(image) == 3 else pixels[:, :, 0]).save(file, "PNG")
    return file.getvalue()


def _schema(config: DataConfig, data: DataSet) -> pa.Schema:
    features: dict[str, Any] = {
        "image": {"_type": "Image"},
        "label": {"names": list(data.labels), "_type": "ClassLabel"},
    }
    made_of = {"data": asdict(config), "shape": data.shape, "fingerprint": data.fingerprint}
    metadata = {b"huggingface": {"info": {"features": features}}, KEY: made_of}
    fields = [("image", _IMAGE), ("label", pa.int64())]
    return pa.schema(fields, metadata={key: json.dumps(value).encode() for key, value in metadata.items()})
