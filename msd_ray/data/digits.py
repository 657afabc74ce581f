"""The UCI optical digits that scikit-learn ships: 1,797 real 8 x 8 scans of handwritten digits, 16 grey levels.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998
(the test part, CC BY 4.0).
"""

from dataclasses import dataclass

import torch

from msd_ray.data.source import DataSet, in_memory

HELD_OUT_EVERY = 5


@dataclass(frozen=True)
class Digits:
    """Has no options."""

    def load(self) -> DataSet:
        return load()


def load() -> DataSet:
    """Digits scaled to [-1, 1]. Every fifth scan of each class is held out, so that the split needs no random state."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    x = torch.from_numpy(raw.images).float().unsqueeze(1) / 8 - 1
    y = torch.from_numpy(raw.target).long()
    rank_in_class = torch.zeros_like(y)
    for digit in range(10):
        of_digit = y == digit
        rank_in_class[of_digit] = torch.arange(int(of_digit.sum()))
    held_out = rank_in_class % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
    labels = tuple(str(digit) for digit in range(10))
    return DataSet(in_memory(x[~held_out], y[~held_out]), in_memory(x[held_out], y[held_out]), labels)
