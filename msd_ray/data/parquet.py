"""Parquet as Hugging Face writes it: a column of images, struct<bytes, path> or binary, and one of labels, integers,
whose names stand in the schema's metadata under `huggingface`.

Parquet cannot be read from the middle of a row group, so a copy in Arrow's format is made once, in the user's cache,
and mapped into memory: a process holds only what it asks for (docs/log.md has what this costs).
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from msd_ray.data.encoded import ImageFiles, ImageOptions
from msd_ray.data.local_copy import local_copy
from msd_ray.data.preprocessing import BrokenImage
from msd_ray.data.ranged_file import ranged_file
from msd_ray.data.source import DataSet
from msd_ray.data.webdataset import matching
from msd_ray.errors import UserError, one_line
from msd_ray.storage import Store

FOOTER = 1 << 16
"""Bytes at the end of a file, by which its copy is known: the sizes and statistics of its parts stand there."""
ROWS = 1000
"""That are copied at a time."""
_COPY = pa.schema([("bytes", pa.large_binary()), ("path", pa.large_string()), ("label", pa.int64())])


@dataclass(frozen=True)
class Parquet(ImageOptions):
    """folder: with all its .parquet, one file, or a pattern such as /data/train-*.parquet. image, label: names of the
    columns. Else what all formats of encoded images may say."""

    image: str = "image"
    label: str = "label"

    def load(self) -> DataSet:
        """Raises UserError where a file is none, or lacks a column."""
        return self.data_set(self._files_at)

    def _files_at(self, path: str) -> ImageFiles:
        store, names = matching(path, ".parquet")
        batches = [batch for name in names for batch in self._copied(store, name).to_batches()]
        if not batches:
            raise UserError(f"{store.uri}/{names[0]} has no row")
        rows = _Rows(batches)
        labels = _labels_in(self._source(store, names[0]).schema_arrow, self.label)
        return ImageFiles(store.uri, rows.name, rows.classes, labels, rows.read)

    def _copied(self, store: Store, name: str) -> pa.Table:
        """The columns of a file, mapped into memory."""
        size = store.sizes().get(name, 0)
        ending = store.read_range(name, max(0, size - FOOTER), FOOTER)
        key = repr((store.uri, name, size, self.image, self.label)).encode() + ending
        copy = f"{hashlib.blake2b(key, digest_size=16).hexdigest()}.arrow"
        path = local_copy(copy, lambda to: self._copy(self._source(store, name), to, f"{store.uri}/{name}"))
        return pa.ipc.open_file(pa.memory_map(path)).read_all()

    def _source(self, store: Store, name: str) -> pq.ParquetFile:
        where = f"{store.uri}/{name}"
        with _told(where):
            source = pq.ParquetFile(ranged_file(store, name))
        schema = source.schema_arrow
        if missing := [each for each in (self.image, self.label) if each not in schema.names]:
            raise UserError(f"{where} has no column {missing[0]!r}, only {', '.join(schema.names)}")
        image, label = schema.field(self.image).type, schema.field(self.label).type
        if not pa.types.is_integer(label):
            raise UserError(f"{where}: the column {self.label!r} must hold integers, not {label}")
        if not _holds_bytes(image):
            raise UserError(f"{where}: the column {self.image!r} must hold bytes, or struct<bytes, path>, not {image}")
        return source

    def _copy(self, source: pq.ParquetFile, to: str, where: str) -> None:
        with _told(where), pa.OSFile(to, "wb") as sink, pa.ipc.new_file(sink, _COPY) as writer:
            for batch in source.iter_batches(ROWS, columns=[self.image, self.label]):
                images, labels = batch.column(self.image), batch.column(self.label)
                if labels.null_count:
                    raise UserError(f"{where}: an image has no {self.label!r}")
                columns = [*_bytes_and_path(images), labels]
                arrays = [column.cast(field.type) for column, field in zip(columns, _COPY, strict=True)]
                writer.write_batch(pa.record_batch(arrays, schema=_COPY))


class _Rows:
    """The images of tables in Arrow's format."""

    def __init__(self, batches: list[pa.RecordBatch]) -> None:
        self._batches = batches
        self._ends = np.cumsum([len(batch) for batch in batches])
        self.classes: NDArray[np.int64] = np.concatenate([batch.column("label").to_numpy() for batch in batches])

    def name(self, index: int) -> str:
        return self._value("path", index) or f"image {index}"

    def read(self, index: int) -> bytes:
        data = self._value("bytes", index)
        if data is None:
            raise BrokenImage("has no bytes")
        return bytes(data)

    def _value(self, column: str, index: int) -> Any:
        number = int(np.searchsorted(self._ends, index, side="right"))
        batch = self._batches[number]
        return batch.column(column)[index - int(self._ends[number]) + len(batch)].as_py()


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        kind = kind.field("bytes").type if kind.get_field_index("bytes") >= 0 else pa.null()
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _bytes_and_path(images: pa.Array) -> tuple[pa.Array, pa.Array]:
    if not pa.types.is_struct(images.type):
        return images, pa.nulls(len(images), pa.large_string())
    fields = dict(zip([field.name for field in images.type], images.flatten(), strict=True))
    return fields["bytes"], fields.get("path", pa.nulls(len(images), pa.large_string()))


def _labels_in(schema: pa.Schema, column: str) -> tuple[str, ...]:
    """Names of the classes, where Hugging Face's metadata have them."""
    try:
        said = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        return tuple(map(str, said["info"]["features"][column]["names"]))
    except (ValueError, KeyError, TypeError):
        return ()


@contextmanager
def _told(where: str) -> Iterator[None]:
    """Says in one line why a file cannot be read."""
    try:
        yield
    except (pa.ArrowException, OSError, OverflowError) as error:
        raise UserError(f"{where} is no Parquet file, or was cut short ({one_line(error)}); fetch it again") from None
