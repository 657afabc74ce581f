"""Whether a recipe's data, codec, noise and stages all are of tokens, or none is."""

import torch

from msd_ray.codecs.levels import KIND, are_tokens
from msd_ray.data import DataSet
from msd_ray.errors import UserError
from msd_ray.recipes import Recipe
from msd_ray.teachers import TRAINED

DIMO = "dimo"


def check_tokens(recipe: Recipe, data: DataSet) -> None:
    """Raises UserError in one line where a part is of tokens and another is not."""
    for name, stage in recipe.stages.items():
        if stage.objective == DIMO and not recipe.codec.of_tokens:
            raise UserError(f"stages.{name}: {DIMO} has a teacher of tokens; write codec.kind={KIND} data.name={KIND}")
        if stage.objective != DIMO and recipe.codec.of_tokens:
            raise UserError(f"stages.{name}: {stage.objective} has no teacher of tokens; take {DIMO}, or another codec")
    if not recipe.codec.of_tokens:
        return
    if not are_tokens(data.train.take(torch.arange(min(8, len(data.train)))).x):
        raise UserError(f"codec.kind: {recipe.data.name} has no tokens for {KIND}; write data.name={KIND}")
    if recipe.teacher.source != TRAINED:
        raise UserError(f"teacher.source: a teacher of tokens (codec.kind={KIND}) is trained here; leave it out")
    if recipe.teacher.churn.amount:
        raise UserError("teacher.churn: a teacher of tokens draws anew in each step in any case; leave it out")
    if recipe.noise.sigma_max > 1 or recipe.noise.sigma_init > 1:
        raise UserError("noise: the level of tokens is the share of masks: noise.sigma_max=1, noise.sigma_init=0.6")
