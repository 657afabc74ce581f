import numpy as np
import pytest
import torch

from msd_ray.cluster.pool.wire import is_half, pack, pack_half, unpack


def test_tensors_come_back_as_they_were() -> None:
    for tensor in (torch.randn(3, 1, 8, 8), torch.arange(5), torch.zeros(0, 2), torch.tensor(1.5)):
        assert torch.equal(unpack(pack(tensor)), tensor)
        assert unpack(pack(tensor)).dtype == tensor.dtype


def test_bf16_halves_the_bytes_and_rounds_to_the_nearest_bf16() -> None:
    tensor = torch.randn(64, 3, 8, 8) * 10.0 ** torch.arange(-30, 34).view(-1, 1, 1, 1)
    packed = pack_half(tensor)
    assert packed.nbytes * 2 == pack(tensor).nbytes
    assert is_half(packed) and not is_half(pack(tensor))
    back = unpack(packed)
    assert back.dtype == torch.float32
    torch.testing.assert_close(back, tensor, rtol=2**-8, atol=0)
    assert torch.equal(unpack(pack_half(back)), back)


@pytest.mark.parametrize("how", [pack, pack_half])
def test_what_is_unpacked_can_be_written_to(how: object) -> None:
    """Arrays that Ray hands over are read-only and shared."""
    array = how(torch.randn(4))  # type: ignore[operator]
    array.flags.writeable = False
    before = array.copy()
    unpack(array).add_(1)
    assert np.array_equal(array, before)
