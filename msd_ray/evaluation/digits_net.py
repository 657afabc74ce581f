"""Features for 8 x 8 digits: a small classifier, whose training takes about 6 s on one core."""

from torch import nn

from msd_ray.evaluation.classifier import WIDTH, Kind

SHAPE = (1, 8, 8)


def _body(shape: tuple[int, ...]) -> nn.Module:
    """Three convolutions and a linear layer; 45 thousand parameters with the classifier's head."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.SiLU(),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.SiLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.SiLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(256, WIDTH),
        nn.SiLU(),  # not ReLU, whose dead units make the covariance singular
    )


DIGITS = Kind("digits", _body, epochs=25)
