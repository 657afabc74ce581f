"""The checkpoints of one trainer: a bundle per checkpoint, of which the newest few are kept."""

import json
import logging
import re
from collections.abc import Iterator
from functools import partial

from msd_ray.errors import CorruptError
from msd_ray.networks.weights import StoredWeights, to_chunks
from msd_ray.storage import MANIFEST, Chunks, Store, read_file, read_manifest, write_bundle
from msd_ray.training.state import State

LOG = logging.getLogger(__name__)
META, SUFFIX = "state.json", ".safetensors"


class Checkpoints:
    """The directories ckpt-<nimg> in `store`, written by one trainer at a time."""

    def __init__(self, store: Store, keep: int) -> None:
        """keep: complete checkpoints that stay when a new one is saved; raises ValueError below 1."""
        if keep < 1:
            raise ValueError("keep must be at least 1")
        self.store, self.keep = store, keep
        self._whole: set[str] = set()  # as was seen when the last one was saved

    def save(self, state: State) -> None:
        """Writes the checkpoint of state.meta["nimg"], then removes what it makes superfluous.

        Checkpoints beyond the newest `keep` complete ones go, and older ones that were never completed. Any with a
        higher nimg stay: they are the ones that `latest` could not use, and do not count against `keep`.
        Raises UserError where the store cannot be written to.
        """
        nimg = int(state.meta["nimg"])
        write_bundle(self.store.child(f"ckpt-{nimg:012d}"), {"parts": list(state.parts)}, _files(state))
        older = [known for known in self._newest_first() if _nimg(known) < nimg]
        complete = [known for known in older if self._complete(known)]
        for known in set(older) - set(complete[: self.keep - 1]):
            self._remove(known)
        self._whole = {f"ckpt-{nimg:012d}", *complete[: self.keep - 1]}

    def latest(self) -> State | None:
        """The newest complete and undamaged checkpoint, None if there is none; warns of each that it skips."""
        names = self._newest_first()
        for name, following in zip(names, [*names, None][1:], strict=True):
            try:
                return _load(self.store.child(name))
            except FileNotFoundError:
                why = "it was never completed"
            except CorruptError as error:
                why = str(error)
            then = f"trying {following}" if following else "there is no older one"
            LOG.warning("skipping checkpoint %s in %s: %s; %s", name, self.store.uri, why, then)
        return None

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


def _nimg(name: str) -> int:
    return int(name.removeprefix("ckpt-"))


def _files(state: State) -> Iterator[tuple[str, bytes | Chunks]]:
    for part, tensors in state.parts.items():
        yield f"{part}{SUFFIX}", partial(to_chunks, tensors)
    yield META, json.dumps(state.meta).encode()


def _load(store: Store) -> State:
    manifest = read_manifest(store)
    meta = json.loads(read_file(store, manifest, META))
    parts: list[str] = manifest.body["parts"]
    return State({part: StoredWeights(store, manifest, f"{part}{SUFFIX}").read() for part in parts}, meta)
