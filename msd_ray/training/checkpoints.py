"""The checkpoints of one trainer: a bundle per checkpoint, of which the newest few are kept."""

import json
import logging
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from msd_ray.errors import CorruptError, TrainingError
from msd_ray.networks.weights import StoredWeights, to_chunks
from msd_ray.storage import (
    MANIFEST,
    Chunks,
    Manifest,
    Store,
    check_sizes,
    read_file,
    read_manifest,
    verify,
    write_bundle,
)
from msd_ray.training.state import State, Tensors

LOG = logging.getLogger(__name__)
META, SUFFIX = "state.json", ".safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint, from its manifest; none of its tensors is read yet."""

    nimg: int
    stored: Store
    manifest: Manifest

    @property
    def stage(self) -> str:
        """Of the trainer; empty where an older program wrote it."""
        return str(self.manifest.body.get("stage", ""))

    def meta(self) -> dict[str, Any]:
        """The facts in it, without tensors. Raises CorruptError if they are damaged."""
        meta: dict[str, Any] = json.loads(read_file(self.stored, self.manifest, META))
        return meta

    def tensors(self, name: str) -> StoredWeights:
        return StoredWeights(self.stored, self.manifest, f"{name}{SUFFIX}")

    def read(self) -> State:
        """The whole state. Raises CorruptError if any of it is damaged."""
        return State({name: self.tensors(name).read() for name in self.manifest.body["parts"]}, self.meta())


class Checkpoints:
    """The directories ckpt-<nimg> in `store`, written by one trainer at a time."""

    def __init__(self, store: Store, keep: int) -> None:
        """keep: complete checkpoints that are kept when a new one is saved; raises ValueError below 1."""
        if keep < 1:
            raise ValueError("keep must be at least 1")
        self.store, self.keep = store, keep
        self.pieces = 0
        """Pieces of files that were written so far: a sign of life where one is large and the storage slow."""
        self._whole: set[str] = set()  # as was seen when the last one was saved

    def save(self, state: State) -> None:
        """Writes the checkpoint of state.meta["nimg"], then removes superfluous ones.

        Removed are complete checkpoints beyond the newest `keep`, and older incomplete ones. Those with a higher nimg
        stay: `latest` could not use them, and they do not count against `keep`. Raises UserError if the store cannot be
        written to.
        """
        nimg = int(state.meta["nimg"])
        body = {"parts": list(state.tensors), "nimg": nimg, "stage": state.meta.get("stage", "")}
        write_bundle(self.store.child(checkpoint_name(nimg)), body, self._files(state))
        older = [known for known in self._newest_first() if _nimg(known) < nimg]
        complete = [known for known in older if self._complete(known)]
        for known in set(older) - set(complete[: self.keep - 1]):
            self._remove(known)
        self._whole = {checkpoint_name(nimg), *complete[: self.keep - 1]}

    def latest(self, known: int = 0) -> State | None:
        """The state in the newest complete and undamaged checkpoint, None if there is none; warns of each that it
        skips.

        known: images of a checkpoint that some process has written. Raises TrainingError if neither that one nor a
        newer one is visible: then the storage is not shared.
        """
        for checkpoint in self._complete_ones(self._seen(known)):
            try:
                return checkpoint.read()
            except CorruptError as error:
                self._warn(checkpoint.nimg, str(error))
        return None

    def newest(self, known: int = 0, most: float = math.inf) -> Checkpoint | None:
        """The newest complete checkpoint of at most `most` images, None if there is none. Its tensors are verified when
        they are read. known, and errors: as `latest`."""
        for checkpoint in self._complete_ones([name for name in self._seen(known) if _nimg(name) <= most]):
            try:
                check_sizes(checkpoint.stored, checkpoint.manifest)
            except CorruptError as error:
                self._warn(checkpoint.nimg, str(error))
            else:
                return checkpoint
        return None

    def discard_damaged(self) -> None:
        """Reads the newest complete checkpoint, and removes it if it is damaged, so that the one before counts."""
        if checkpoint := self.newest():
            try:
                verify(checkpoint.stored)
            except CorruptError as error:
                self._warn(checkpoint.nimg, str(error))
                self._remove(checkpoint_name(checkpoint.nimg))

    def _seen(self, known: int) -> list[str]:
        """All there are, newest first."""
        names = self._newest_first()
        if known and not any(_nimg(name) >= known for name in names):
            raise TrainingError(
                f"{self.store.uri} has no checkpoint of {known} images here, though one was written: "
                "is it storage that all nodes share?"
            )
        return names

    def _complete_ones(self, names: list[str]) -> Iterator[Checkpoint]:
        for name in names:
            stored = self.store.child(name)
            try:
                yield Checkpoint(_nimg(name), stored, read_manifest(stored))
            except FileNotFoundError:
                self._warn(_nimg(name), "it was never completed")
            except CorruptError as error:
                self._warn(_nimg(name), str(error))

    def _warn(self, nimg: int, why: str) -> None:
        following = next((name for name in self._newest_first() if _nimg(name) < nimg), None)
        then = f"trying {following}" if following else "there is no older one"
        LOG.warning("skipping checkpoint %s in %s: %s; %s", checkpoint_name(nimg), self.store.uri, why, then)

    def _files(self, state: State) -> Iterator[tuple[str, bytes | Chunks]]:
        for name, tensors in state.tensors.items():
            yield f"{name}{SUFFIX}", partial(self._pieces, tensors)
        yield META, json.dumps(state.meta).encode()

    def _pieces(self, tensors: Tensors) -> Iterator[bytes | memoryview]:
        for piece in to_chunks(tensors):
            self.pieces += 1
            yield piece

    def _newest_first(self) -> list[str]:
        names = [name for name in self.store.names() if re.fullmatch(r"ckpt-\d{12,}", name, re.ASCII)]
        return sorted(names, key=_nimg, reverse=True)

    def _complete(self, name: str) -> bool:
        if name in self._whole:
            return True
        try:
            read_manifest(self.store.child(name))
        except (FileNotFoundError, CorruptError):
            return False
        return True

    def _remove(self, name: str) -> None:
        self.store.child(name).delete_file(MANIFEST)  # first, so that a removal cut short leaves nothing to load
        self.store.delete(name)


def checkpoint_name(nimg: int) -> str:
    """Of its directory."""
    return f"ckpt-{nimg:012d}"


def _nimg(name: str) -> int:
    return int(name.removeprefix("ckpt-"))
