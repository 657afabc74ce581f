import torch
from safetensors.torch import save

from msd_ray.networks.weights import from_bytes, to_bytes

A = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
ALL_KINDS = {
    "float": A,
    "half": A.half(),
    "bf16": A.bfloat16(),
    "count": torch.tensor(3),
    "bool": A > 0,
    "empty": torch.zeros(0, 3),
}


def test_the_bytes_are_those_that_safetensors_makes() -> None:
    assert to_bytes(ALL_KINDS) == save(ALL_KINDS)


def test_tensors_may_share_memory_and_need_gradients() -> None:
    shared = {"a": A.clone().requires_grad_(), "transposed": A.t(), "row": A[1], "again": A}
    back = from_bytes(to_bytes(shared), "here")
    assert all(torch.equal(back[name], tensor) for name, tensor in shared.items())
