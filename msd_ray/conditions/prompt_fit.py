"""Fitting a rule to prompts."""

import logging
from dataclasses import asdict
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from msd_ray.conditions.conditions import Conditions
from msd_ray.conditions.kmeans import balanced_centres
from msd_ray.conditions.partition import Partition, Table, costs_of
from msd_ray.conditions.partition_config import KEYWORDS, KMEANS, QUADRANTS, PartitionConfig
from msd_ray.conditions.rules import Keywords, Nearest, Quadrants, Rule
from msd_ray.errors import CorruptError, UserError
from msd_ray.rng import derived_seed

MOST_POINTS = 20_000
"""Prompts, evenly spread, that centres are fitted to."""
CHUNK = 4096
"""Prompts that are placed at a time; partitions of more are kept in the cache."""
_VERSION = 1  # to be raised when the same prompts are divided otherwise
log = logging.getLogger(__name__)


def fitted(config: PartitionConfig, conditions: Conditions, borders: tuple[float, ...]) -> Partition:
    """The partition of these prompts. Where they are many it is kept in the cache, since every command on a run needs
    it, and a text encoder may take hours. Raises UserError as `fit_rule`."""
    if conditions.n <= CHUNK:
        return _made(config, conditions, borders)
    from msd_ray.storage import (  # here, since training needs none of it
        default_cache,
        digest,
        read_file,
        read_manifest,
        write_bundle,
    )

    key = digest([_VERSION, asdict(config), borders, conditions.fingerprint, conditions.width])
    folder = default_cache().child(f"partition-{key}")
    try:
        manifest = read_manifest(folder)
        return Partition.from_json(manifest.body["partition"], partial(read_file, folder, manifest))
    except (FileNotFoundError, CorruptError):
        log.info("placing %d prompts, once", conditions.n)
    made = _made(config, conditions, borders)
    try:
        write_bundle(folder, {"partition": made.to_json()}, list(made.files.items()))
    except UserError as error:
        log.warning("the partition is not kept, so the next command makes it again: %s", error)
    return made


def _made(config: PartitionConfig, conditions: Conditions, borders: tuple[float, ...]) -> Partition:
    rule, of_each = fit_rule(config, conditions)
    return Partition(config.kind, Table(of_each), borders, rule)


def fit_rule(config: PartitionConfig, conditions: Conditions) -> tuple[Rule, tuple[int, ...]]:
    """The rule, and the part of each prompt that has an id. Raises UserError where the kind is not one for prompts, or
    a part gets none of them."""
    rule = _rule(config, conditions)
    if rule.parts != config.k:
        raise UserError(f"partition.k: {config.kind} makes {rule.parts} parts here, so write partition.k={rule.parts}")
    chunks = (torch.arange(first, min(first + CHUNK, conditions.n)) for first in range(0, conditions.n, CHUNK))
    costs = (costs_of(rule, conditions, conditions.asked(ids)) for ids in chunks)
    owners = np.concatenate([of_each.argmin(axis=1) for of_each in costs])
    sizes = np.bincount(owners, minlength=rule.parts)
    if not sizes.all():
        raise UserError(
            f"partition.kind: with {config.kind} student {int(sizes.argmin())} would own none of the {conditions.n} "
            f"prompts; take fewer students, or another kind"
        )
    return rule, tuple(owners.tolist())


def _rule(config: PartitionConfig, conditions: Conditions) -> Rule:
    if config.kind == KMEANS:
        n = min(MOST_POINTS, conditions.n)
        encoded = conditions.encode(torch.arange(n) * conditions.n // n)
        vectors: NDArray[np.float32] = conditions.vectors(encoded).numpy()
        centres, prices = balanced_centres(vectors, config.k, derived_seed("partition", config.seed))
        return Nearest(centres, prices)
    if config.kind == QUADRANTS:
        return Quadrants()
    if config.kind == KEYWORDS or config.k == 1:
        return Keywords(config.keywords)
    raise UserError(
        f"partition.kind: {config.kind} cannot place a prompt that it has never seen; write kmeans, quadrants or "
        f"keywords"
    )
