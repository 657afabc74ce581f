"""Features for 8 x 8 digits: a small classifier, trained once on the training split and kept."""

import hashlib
import logging
from typing import cast

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn import functional as F

from msd_ray.codecs import as_stored
from msd_ray.data import DataSet
from msd_ray.errors import CorruptError
from msd_ray.evaluation.feature_distances import Features
from msd_ray.rng import derived_seed, stream
from msd_ray.storage import Store, read_file, read_manifest, refuse_unwritable, write_bundle

RECIPE = {"version": 1, "epochs": 25, "batch": 128, "lr": 3e-3, "noise": 0.1}
WEIGHTS = "weights.safetensors"
SEED, WIDTH = 0, 64

log = logging.getLogger(__name__)


class DigitsNet(nn.Module):
    """Three convolutions and two linear layers; 45 thousand parameters.

    The features are the last 64 activations, scaled to a mean square of 1 over the training samples: KID's cubic kernel
    would otherwise be ruled by the largest of them.
    """

    scale: Tensor

    name = "digits"

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
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
        self.head = nn.Linear(WIDTH, classes)
        self.register_buffer("scale", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(x))
        return logits

    @torch.no_grad()
    def features(self, x: Tensor) -> Features:
        return cast(Features, (self.scale * self.body(as_stored(x.cpu().float()))).double().numpy())

    @torch.no_grad()
    def classify(self, x: Tensor) -> Tensor | None:
        logits: Tensor = self(as_stored(x.cpu().float()))
        return logits.argmax(1)


def load_or_train(data: DataSet, cache: Store) -> DigitsNet:
    """The classifier of `data` from the cache; trained and put there where it is absent or damaged."""
    store = cache.child(f"features-digits-{_key(data)}")
    net = DigitsNet(data.classes)
    try:
        weights = load(read_file(store, read_manifest(store), WEIGHTS))
    except FileNotFoundError:
        pass
    except CorruptError as damage:
        log.warning("the digits classifier in %s is damaged and is trained again: %s", store.uri, damage)
    else:
        net.load_state_dict(weights)
        return _frozen(net)
    refuse_unwritable(cache, "set MSD_RAY_CACHE to a folder that can be written")
    net = _frozen(train(data))
    write_bundle(store, {"features": "digits", "accuracy": accuracy(net, data)}, [(WEIGHTS, save(net.state_dict()))])
    return net


def train(data: DataSet) -> DigitsNet:
    """AdamW with a cosine schedule on data.train, with noise of standard deviation 0.1 added; about 6 s on one core."""
    x, y = as_stored(data.train.all().x), data.train.classes
    epochs, batch = int(RECIPE["epochs"]), int(RECIPE["batch"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(SEED, "features-digits"))
        net = DigitsNet(data.classes)
    optimizer = torch.optim.AdamW(net.parameters(), lr=RECIPE["lr"], weight_decay=0.01)
    steps = epochs * -(-len(x) // batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for epoch in range(epochs):
        rng = stream(SEED, "features-digits", epoch)
        for rows in torch.split(torch.randperm(len(x), generator=rng), batch):
            noise = RECIPE["noise"] * torch.randn(x[rows].shape, generator=rng)
            loss = F.cross_entropy(net(x[rows] + noise), y[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    net.scale.fill_(float(np.mean(net.features(x) ** 2)) ** -0.5)
    return net


def accuracy(net: DigitsNet, data: DataSet) -> float:
    """The share of held-out samples that `net` classifies rightly."""
    guess = net.classify(data.held_out.all().x)
    assert guess is not None
    return float((guess == data.held_out.classes).double().mean())


def _frozen(net: DigitsNet) -> DigitsNet:
    return net.eval().requires_grad_(False)


def _key(data: DataSet) -> str:
    """Names what the weights depend on: the training samples and the recipe."""
    digest = hashlib.blake2b(repr((sorted(RECIPE.items()), data.classes, SEED)).encode(), digest_size=8)
    digest.update(data.train.all().x.contiguous().numpy().tobytes())
    digest.update(data.train.classes.contiguous().numpy().tobytes())
    return digest.hexdigest()
