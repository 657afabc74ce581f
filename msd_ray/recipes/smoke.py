"""`smoke: true`: a recipe cut to seconds, to see that all its parts fit each other. Shapes and lengths change, and
nothing else: objectives, optimizers, partition and the order of stages stay."""

from dataclasses import fields, replace
from typing import Any

from msd_ray.networks import (
    Adapter,
    DiffusersConditionUNetConfig,
    DiffusersSDXLConfig,
    DiffusersUNetConfig,
    Kind,
    StudentSize,
)
from msd_ray.objectives import objective_class
from msd_ray.recipes.schema import Recipe
from msd_ray.training.config import StageConfig
from msd_ray.validation import made_of

BATCH, UPDATES = 2, 4
SIDE = 64
"""Pixels of what a discriminator's pretrained network sees, where that is a method's choice."""
NARROW = {
    "channels": {"channels": 16, "blocks": 1},
    "width": {"width": 16, "blocks": 2},
    "num_attention_heads": {"num_attention_heads": 2, "num_layers": 2},
}
"""By the field that says how wide a network is: what its fields become."""
LEVEL = 32
"""Channels, at least, of each level of a network that says its widths one by one."""


def shrunk(recipe: Recipe) -> Recipe:
    """The recipe with narrow networks, and a few updates of a few images in each stage."""
    shards = min(BATCH, recipe.training.shards)
    batch = max(BATCH, shards * len(recipe.noise.step_levels))  # each shard has samples of every step
    fewest, most = recipe.cluster.workers_per_student
    images = UPDATES * batch * len(recipe.stages)
    return replace(
        recipe,
        network=_narrow(recipe.network),
        student=_small(recipe.student),
        students={i: _small(size) for i, size in recipe.students.items()},
        pairs=2 * BATCH,
        stages={name: _stage(stage, batch) for name, stage in recipe.stages.items()},
        teacher=replace(recipe.teacher, images=UPDATES * BATCH, batch=BATCH, warmup=0, steps=2),
        cluster=replace(recipe.cluster, workers_per_student=(min(fewest, shards), min(most, shards))),
        training=replace(recipe.training, shards=shards, share_images=False, log_every=batch, checkpoint_every=images),
        evaluation=replace(
            recipe.evaluation, samples=16, curve_samples=4, kid_subsets=2, batch=8, preview_every=10 * images
        ),
    )


def _small(size: StudentSize) -> StudentSize:
    adapter, fake = (
        replace(it, rank=1, alpha=it.scale) if isinstance(it, Adapter) else it
        for it in (size.adapter, size.fake_adapter)
    )
    return replace(size, blocks=size.blocks and 1, adapter=adapter, fake_adapter=fake)  # type: ignore[arg-type]


def _narrow(network: Kind) -> Kind:
    known = {f.name for f in fields(network)}  # type: ignore[arg-type]
    if isinstance(network, DiffusersUNetConfig | DiffusersConditionUNetConfig):
        groups, levels = network.norm_num_groups, len(network.block_out_channels)
        width = -(-LEVEL // groups) * groups
        network = replace(network, block_out_channels=(width,) * levels, layers_per_block=1)
        if isinstance(network, DiffusersSDXLConfig):
            network = replace(network, transformer_layers_per_block=1)
        return network
    sizes: dict[str, Any] = next((sizes for width, sizes in NARROW.items() if width in known), {})
    return replace(network, **sizes)  # type: ignore[type-var]


def _stage(stage: StageConfig, batch: int) -> StageConfig:
    """What a method does from some image on (a generator that rests at first, a GAN that joins) happens in it too."""
    method = objective_class(stage.objective)
    rests = stage.optimization(made_of(method, stage.options).needs.optimization).fake_first
    known = {f.name for f in fields(method)}
    cut = {name: value for name, value in {"gan_from": 2 * batch, "side": SIDE}.items() if name in known}
    return replace(
        stage,
        images=UPDATES * batch,
        batch=batch,
        warmup=0,
        fake_first=batch if rests else 0,
        options=stage.options | cut,
    )
