import torch

from msd_ray.data import DataConfig, load_data


def test_all_1797_scans_are_there_and_each_is_in_one_part() -> None:
    data = load_data(DataConfig("digits"))
    assert len(data.train) + len(data.held_out) == 1797
    assert data.shape == (1, 8, 8)
    assert data.labels == tuple("0123456789")
    from sklearn.datasets import load_digits

    raw = load_digits()
    ours = torch.cat([data.train.all().x, data.held_out.all().x]).flatten(1)
    labels = torch.cat([data.train.classes, data.held_out.classes])
    rows = {(*((x + 1) * 8).int().tolist(), int(y)) for x, y in zip(ours, labels, strict=True)}
    expected = {(*map(int, x), int(y)) for x, y in zip(raw.data, raw.target, strict=True)}
    assert rows == expected
    assert len(rows) == 1797  # no two scans are alike, so the two parts cannot overlap


def test_the_split_is_stratified() -> None:
    data = load_data(DataConfig("digits"))
    for digit in range(10):
        of_train, of_held_out = (int((part.classes == digit).sum()) for part in (data.train, data.held_out))
        assert of_held_out == (of_train + of_held_out) // 5


def test_values_are_17_levels_from_minus_1_to_1() -> None:
    data = load_data(DataConfig("digits"))
    levels = torch.cat([data.train.all().x, data.held_out.all().x]).unique()
    assert torch.equal(levels, torch.arange(17) / 8 - 1)


def test_the_same_every_time() -> None:
    torch.manual_seed(1)
    one = load_data(DataConfig("digits"))
    torch.manual_seed(2)
    two = load_data(DataConfig("digits"))
    assert torch.equal(one.train.all().x, two.train.all().x)
    assert torch.equal(one.held_out.classes, two.held_out.classes)


def test_only_keeps_the_chosen_classes_with_their_images() -> None:
    train = load_data(DataConfig("digits")).train
    chosen = train.only(torch.tensor([2, 7])).all()
    assert set(chosen.condition.tolist()) == {2, 7}
    assert len(chosen) == int((train.classes == 2).sum() + (train.classes == 7).sum())
    sevens = train.all().x[train.classes == 7]
    assert torch.equal(chosen.x[chosen.condition == 7], sevens)
