"""A UNet of ours as diffusers' `UNet2DModel`, and a student of one or a few steps as its `ConsistencyModelPipeline`.

Both networks are ADM's; where each of our blocks lies there, and which of ours cannot be expressed, stands here.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from msd_ray.diffusion import EDM, EDMDenoiser, few_steps
from msd_ray.errors import MsdRayError, UserError
from msd_ray.extras import needed
from msd_ray.networks import DenoiserSpec, UNetConfig
from msd_ray.networks.embedding import ConditionEmbedding, fourier
from msd_ray.networks.unet import Attention, UNet

_BLOCK = {"norm0": "norm1", "conv0": "conv1", "affine": "time_emb_proj", "norm1": "norm2", "conv1": "conv2"}
_BLOCK["skip"] = "conv_shortcut"
_OUTER = {"conv_in": "conv_in", "norm_out": "conv_norm_out", "conv_out": "conv_out"}


TRIED = 2
"""Samples that a pipeline is tried with."""
TOLERANCE = 1e-4


def consistency_pipeline(
    student: EDMDenoiser, spec: DenoiserSpec, levels: Sequence[float], conditions: list[int]
) -> tuple[Any, float]:
    """The pipeline that makes the samples of the student that `spec` describes, in a step at each of the falling noise
    levels, and the largest difference between its pictures of these conditions and ours, in [0, 1]. Raises UserError
    where there is no pipeline for it, MsdRayError where it makes other samples."""
    diffusers, network = needed("diffusers", "hf"), student.network
    if problem := _misfit(student):
        raise UserError(f"diffusers has no pipeline for this student: {problem}; take --format onnx or safetensors")
    assert isinstance(network, UNet) and isinstance(spec.network, UNetConfig)
    scheduler = _scheduler(diffusers, student, levels)
    unet = diffusers.UNet2DModel(**_config(network, spec.network, spec))
    c_noise = student.preconditioning.coefficients(torch.tensor(levels), student.sigma_data).c_noise
    unet.load_state_dict(_weights(network, spec.network, c_noise, unet.time_proj(scheduler.timesteps)))
    pipeline = diffusers.ConsistencyModelPipeline(unet.eval(), scheduler)
    pipeline.set_progress_bar_config(disable=True)
    difference = _difference(pipeline, student, spec, levels, torch.tensor(conditions))
    if not difference <= TOLERANCE:
        raise MsdRayError(
            f"diffusers makes other samples of this student than msd_ray: they differ by {difference:.1e}"
        )
    return pipeline, difference


def _scheduler(diffusers: Any, student: EDMDenoiser, levels: Sequence[float]) -> Any:
    """The scheduler whose steps are at these levels; raises UserError where its kind of grid cannot have them."""
    low, steps = student.sigma_min, len(levels)
    grid = {"num_train_timesteps": steps + 1, "rho": _rho(low, levels)} if steps > 1 else {}
    scheduler = diffusers.CMStochasticIterativeScheduler(
        sigma_min=low, sigma_max=levels[0], sigma_data=student.sigma_data, clip_denoised=False, **grid
    )
    scheduler.set_timesteps(steps)
    there = scheduler.sigmas[:steps].tolist()
    if any(abs(found / level - 1) > 1e-6 for found, level in zip(there, levels, strict=True)):
        raise UserError(
            f"diffusers' consistency scheduler takes its steps from a Karras grid that ends at {low:g}, where none has "
            f"the levels {', '.join(f'{level:.4g}' for level in levels)}; take --format safetensors, or --format "
            "diffusers without --student"
        )
    return scheduler


def _rho(low: float, levels: Sequence[float]) -> float:
    """For which a Karras grid from levels[0] down to `low`, of as many equal parts as there are levels, has levels[1]
    for its second; the nearest to it from 0.1 to 1000."""
    high, least, most = levels[0], 0.1, 1000.0
    for _ in range(100):
        rho = (least + most) / 2
        second = (high ** (1 / rho) + (low ** (1 / rho) - high ** (1 / rho)) / len(levels)) ** rho
        least, most = (rho, most) if second > levels[1] else (least, rho)
    return rho


@torch.no_grad()
def _difference(
    pipeline: Any, student: EDMDenoiser, spec: DenoiserSpec, levels: Sequence[float], conditions: Tensor
) -> float:
    n, rng = len(conditions), torch.Generator().manual_seed(0)
    z, *renoise = (torch.randn(n, *spec.sample_shape, generator=rng) for _ in levels)
    asked = {"class_labels": conditions} if spec.classes else {}
    generator = torch.Generator().manual_seed(0)
    made = pipeline(n, num_inference_steps=len(levels), generator=generator, output_type="pt", **asked)
    theirs = made.images
    ours = few_steps(student, z, conditions, torch.stack([z, *renoise])[1:], levels)
    return float((theirs - (ours / 2 + 0.5).clamp(0, 1)).abs().max())


def _misfit(student: EDMDenoiser) -> str:
    """What keeps diffusers from computing what this student computes; empty where it can."""
    network = student.network
    if not isinstance(network, UNet):
        return "its network is no UNet of kind 'unet'"
    if not isinstance(student.preconditioning, EDM):
        return f"its preconditioning is {student.preconditioning.kind!r} instead of 'edm'"
    if len(groups := _groups(network)) > 1:
        return (
            f"all normalisations have one number of groups there, and here they have {', '.join(map(str, groups))}, "
            "as where channels are fewer than 128"
        )
    if len(heads := _head_channels(network)) > 1:
        return f"all attention heads have one width there, and here they have {', '.join(map(str, heads))} channels"
    return ""


def _groups(network: UNet) -> list[int]:
    return sorted({norm.num_groups for norm in network.modules() if isinstance(norm, nn.GroupNorm)})


def _head_channels(network: UNet) -> list[int]:
    layers = [layer for layer in network.modules() if isinstance(layer, Attention)]
    return sorted({layer.proj.in_channels // layer.heads for layer in layers})


def _config(network: UNet, config: UNetConfig, spec: DenoiserSpec) -> dict[str, Any]:
    """Arguments of a `UNet2DModel`."""
    (groups,), (head,) = _groups(network), _head_channels(network)
    attends = [size in config.attention for _, size, _ in network.feature_shapes]
    return {
        "sample_size": spec.sample_shape[1],
        "in_channels": spec.sample_shape[0],
        "out_channels": spec.sample_shape[0],
        "block_out_channels": [width for width, _, _ in network.feature_shapes],
        "layers_per_block": config.blocks,
        "down_block_types": ["AttnDownBlock2D" if a else "ResnetDownsampleBlock2D" for a in attends],
        "up_block_types": ["AttnUpBlock2D" if a else "ResnetUpsampleBlock2D" for a in reversed(attends)],
        "downsample_type": "resnet",
        "upsample_type": "resnet",
        "dropout": config.dropout,
        "attention_head_dim": head,
        "norm_num_groups": groups,
        "attn_norm_num_groups": groups,
        "resnet_time_scale_shift": "scale_shift",
        "num_class_embeds": spec.classes or None,
    }


def _weights(network: UNet, config: UNetConfig, c_noise: Tensor, features: Tensor) -> dict[str, Tensor]:
    """The state dict of a `UNet2DModel` that computes what ours computes at each c_noise [S], where its time steps have
    these features [S, d]."""
    there = _embedding(network.embedding, c_noise, features)
    for ours, theirs in _OUTER.items():
        there |= _layer(network.get_submodule(ours), theirs)
    for ours, resnet, attention in _blocks(config):
        block = network.get_submodule(ours)
        for name, layer in block.named_children():
            if name in _BLOCK:
                there |= _layer(layer, f"{resnet}.{_BLOCK[name]}")
        if isinstance(block.attention, Attention):
            there |= _attention(block.attention, attention)
    return there


def _blocks(config: UNetConfig) -> Iterator[tuple[str, str, str]]:
    """Our name of each block, that of the block there, and that of its attention there."""
    levels, each = len(config.multipliers), config.blocks
    for level in range(levels):
        first, there = level * (each + 1), f"down_blocks.{level}"
        yield from ((f"down.{first + i}", f"{there}.resnets.{i}", f"{there}.attentions.{i}") for i in range(each))
        if level < levels - 1:
            yield f"down.{first + each}", f"{there}.downsamplers.0", ""
    yield from ((f"middle.{i}", f"mid_block.resnets.{i}", f"mid_block.attentions.{i}") for i in range(2))
    for level in range(levels):
        first, there = level * (each + 2), f"up_blocks.{level}"
        yield from ((f"up.{first + i}", f"{there}.resnets.{i}", f"{there}.attentions.{i}") for i in range(each + 1))
        if level < levels - 1:
            yield f"up.{first + each + 1}", f"{there}.upsamplers.0", ""


def _layer(layer: nn.Module, there: str) -> dict[str, Tensor]:
    return {f"{there}.{name}": value for name, value in layer.state_dict().items()}


def _attention(ours: Attention, there: str) -> dict[str, Tensor]:
    """Linear layers in place of 1 x 1 convolutions."""
    assert ours.qkv.bias is not None
    weights, biases = ours.qkv.weight.flatten(1).chunk(3), ours.qkv.bias.chunk(3)
    found = _layer(ours.norm, f"{there}.group_norm")
    for name, weight, bias in zip(("to_q", "to_k", "to_v"), weights, biases, strict=True):
        found |= {f"{there}.{name}.weight": weight, f"{there}.{name}.bias": bias}
    assert ours.proj.bias is not None
    return found | {f"{there}.to_out.0.weight": ours.proj.weight.flatten(1), f"{there}.to_out.0.bias": ours.proj.bias}


def _embedding(ours: ConditionEmbedding, c_noise: Tensor, features: Tensor) -> dict[str, Tensor]:
    """Of a network that is always at one of these noise levels: the smallest linear layer that makes of the features
    there, which are of another scale, what ours makes of its own. Of a single level its weight is zero."""
    there = _layer(ours.noise_out, "time_embedding.linear_2")
    given, wanted = features.double(), ours.noise_in(fourier(c_noise, ours.width)).double()
    weight = (torch.linalg.pinv(given - given.mean(dim=0)) @ (wanted - wanted.mean(dim=0))).T
    bias = wanted.mean(dim=0) - weight @ given.mean(dim=0)
    there["time_embedding.linear_1.weight"] = weight.to(ours.noise_in.weight.dtype)
    there["time_embedding.linear_1.bias"] = bias.to(ours.noise_in.weight.dtype)
    if ours.label is not None:
        there["class_embedding.weight"] = ours.label.weight.T
    return there
