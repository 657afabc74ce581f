"""Networks whose weights are divided among the processes that train a student (torch's FSDP2).

Each process keeps a piece of every weight, of its gradient and of its averages. The processes gather the weights of one
block of a network before they compute with it, and forget the others' pieces afterwards.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from msd_ray.diffusion import EDMDenoiser
from msd_ray.diffusion.denoiser import direct
from msd_ray.training.config import TrainingConfig
from msd_ray.training.pieces import here, is_divided
from msd_ray.training.precision import blocks, rounded_to
from msd_ray.training.process_group import ProcessGroup
from msd_ray.training.state import Tensors


class Sharding:
    """How the networks of one student are divided. All processes of the group call each method alike."""

    def __init__(self, training: TrainingConfig, group: ProcessGroup, device: torch.device) -> None:
        from torch.distributed import device_mesh, fsdp, tensor

        self._fsdp: Any = fsdp
        self._tensor: Any = tensor
        self._group, self._device = group, device
        self._rounded = rounded_to(training)
        self._mesh = device_mesh.init_device_mesh(device.type, (group.world,))

    def divide(self, denoiser: EDMDenoiser) -> EDMDenoiser:
        """The denoiser itself, of which this process then keeps a piece, on its device. It computes as before, but in
        bf16 with all weights rounded, those of its norms too."""
        network, bf16 = denoiser.network, self._rounded
        denoiser.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # as FSDP wants weights
        denoiser.run = direct
        for part in (*blocks(network), network):
            self._shard(part, bf16)
        self._fsdp.register_fsdp_forward_method(network, "encode")
        return denoiser

    def divide_head(self, head: nn.Module) -> nn.Module:
        """The discriminator itself."""
        return self._shard(head, None)

    def divided_like(self, form: EDMDenoiser) -> EDMDenoiser:
        """Another of that form, which has no memory; its weights are undefined."""
        return self.divide(copy.deepcopy(form)).to_empty(device=self._device)

    def gathered(self, tensors: Tensors) -> Tensors:
        """Whole in the host's memory in process 0, and nothing in the others."""
        whole = Tensors()
        for name, value in tensors.items():
            everybodys: Any = value
            value = everybodys.full_tensor() if is_divided(value) else value.clone()
            if self._group.rank == 0:
                whole[name] = value.to("cpu")
        return whole

    def gathered_averages(self, tensors: Tensors, weights: list[nn.Parameter]) -> Tensors:
        """As `gathered`, of an optimizer's state."""
        placed = {name: self._placed_as(value, _weight_of(name, weights)) for name, value in tensors.items()}
        return self.gathered(placed)

    def own_averages(self, tensors: Tensors, weights: list[nn.Parameter]) -> Tensors:
        """This process's pieces of an optimizer's whole state."""
        like = {name: _weight_of(name, weights) for name in tensors}
        return {name: here(value).clone() for name, value in self.pieces(tensors, like).items()}

    def pieces(self, tensors: Tensors, like: Mapping[str, Tensor | None]) -> Tensors:
        """Those of whole tensors that this process keeps of what is divided, as `like`."""
        return {name: self._piece(value, like[name]) for name, value in tensors.items()}

    def _shard(self, part: nn.Module, rounded: torch.dtype | None) -> nn.Module:
        summed = torch.float32 if rounded else None
        policy = self._fsdp.MixedPrecisionPolicy(rounded, summed, cast_forward_inputs=False)
        made = self._fsdp.fully_shard(part, mesh=self._mesh, reshard_after_forward=True, mp_policy=policy)
        made.set_gradient_divide_factor(1.0)  # losses are divided already
        made.set_force_sum_reduction_for_comms(True)  # otherwise another operation multiplies by 1, which gloo lacks
        return part

    def _piece(self, value: Tensor, like: Tensor | None) -> Tensor:
        if like is None or not is_divided(like) or is_divided(value):
            return value
        where: Any = like
        piece: Tensor = self._tensor.distribute_tensor(value, self._mesh, where.placements, src_data_rank=None)
        return piece

    def _placed_as(self, value: Tensor, like: Tensor | None) -> Tensor:
        """A piece of an average, as the piece of the weight that it is of."""
        if like is None or not is_divided(like):
            return value
        where: Any = like
        of, value = {"shape": like.shape, "stride": like.stride()}, value.to(self._device)
        whole: Tensor = self._tensor.DTensor.from_local(value, self._mesh, where.placements, run_check=False, **of)
        return whole


def divides(training: TrainingConfig, group: ProcessGroup) -> bool:
    """Whether the processes keep pieces of a student's weights."""
    return training.sharding == "full" and group.world > 1


def without_memory(module: EDMDenoiser) -> EDMDenoiser:
    """A copy that has shapes alone."""
    empty = {id(p): nn.Parameter(p.to("meta"), p.requires_grad) for p in module.parameters()}
    return copy.deepcopy(module, {**empty, **{id(b): b.to("meta") for b in module.buffers()}})


def _weight_of(name: str, weights: list[nn.Parameter]) -> Tensor | None:
    """The weight that "<number>.<name>" is an average of, None for a count of steps."""
    number, what = name.split(".", 1)
    return None if what == "step" else weights[int(number)]
