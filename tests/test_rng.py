import torch

from msd_ray.rng import derived_seed, stream


def test_the_same_path_gives_the_same_numbers_whatever_ran_before() -> None:
    torch.manual_seed(1)
    first = torch.randn(5, generator=stream(0, 3, 640, "generator"))
    torch.manual_seed(2)
    torch.randn(100, generator=stream(9))
    assert torch.equal(first, torch.randn(5, generator=stream(0, 3, 640, "generator")))


def test_every_part_of_the_path_and_its_order_matter() -> None:
    paths = [(0, 1), (1, 0), (0, 1, 0), (0,), ("0", 1), (0, "1"), (0, "a"), (0, "b"), (0, "ab"), ("a", "b"), ("ab",)]
    assert len({derived_seed(*path) for path in paths}) == len(set(paths))


def test_seeds_are_63_bits_and_do_not_collide() -> None:
    seeds = {derived_seed(0, student, nimg) for student in range(20) for nimg in range(0, 6400, 64)}
    assert len(seeds) == 20 * 100
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds).bit_length() == 63


def test_the_seed_is_the_same_in_every_process_and_version() -> None:
    """Checkpoints rely on it: Python's own hash() would differ from process to process."""
    assert derived_seed(0, 3, "generator") == 2974765760084364032


def test_drawing_from_a_stream_leaves_the_global_state_alone() -> None:
    torch.manual_seed(0)
    expected = torch.randn(3)
    torch.manual_seed(0)
    torch.randn(7, generator=stream(1))
    assert torch.equal(torch.randn(3), expected)


def test_neighbouring_streams_are_uncorrelated() -> None:
    draws = torch.stack([torch.randn(4096, generator=stream(0, k)) for k in range(8)])
    correlation = torch.corrcoef(draws) - torch.eye(8)
    assert correlation.abs().max() < 5 / 4096**0.5
