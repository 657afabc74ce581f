"""Features of a classifier of the data's own classes, which is trained once on the training split and kept."""

import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn import functional as F

from msd_ray.codecs import as_stored
from msd_ray.data import DataSet
from msd_ray.errors import CorruptError, UserError
from msd_ray.evaluation.feature_distances import Features
from msd_ray.rng import derived_seed, stream
from msd_ray.storage import Store, read_file, read_manifest, refuse_unwritable, write_bundle

NAME = "classifier"
WEIGHTS = "weights.safetensors"
SEED, WIDTH = 0, 64
VERSION, BATCH, RATE, NOISE = 1, 128, 3e-3, 0.1
"""Of the training. NOISE: the standard deviation of what is added to each image."""
SIDE = 64
"""Pixels of a side beyond which images are made smaller."""
LOOKED_AT = 2048
"""Training samples that the features' scale and the name in the cache are made from."""
QUIET = 5.0
"""Seconds of training between two lines of progress."""

log = logging.getLogger(__name__)
Body = Callable[[tuple[int, ...]], nn.Module]


@dataclass(frozen=True)
class Kind:
    """How such a classifier is built and trained.

    name: of the features. body: made for samples of a shape [C, H, W], gives [N, WIDTH]. epochs: at least, and as many
    more as it takes for this many images. most: images that differ.
    """

    name: str
    body: Body
    epochs: int
    images: int = 0
    most: int = 60_000


class Classifier(nn.Module):
    """The features are the last 64 activations, scaled to a mean square of 1 over training samples: KID's cubic kernel
    would otherwise be ruled by the largest of them."""

    scale: Tensor

    def __init__(self, name: str, body: nn.Module, classes: int) -> None:
        super().__init__()
        self.name = name
        self.body = body
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


def load_or_train(kind: Kind, data: DataSet, cache: Store) -> Classifier:
    """The classifier of `data` from the cache; trained and put there where it is absent or damaged.
    Raises UserError where the cache cannot be written, or the data has a single class."""
    if data.classes < 2:
        raise UserError(f"evaluation.features: {kind.name} needs data of two or more classes")
    store = cache.child(f"features-{kind.name}-{_key(kind, data)}")
    net = untrained(kind, data)
    try:
        weights = load(read_file(store, read_manifest(store), WEIGHTS))
    except FileNotFoundError:
        pass
    except CorruptError as damage:
        log.warning("the %s features in %s are damaged and are trained again: %s", kind.name, store.uri, damage)
    else:
        net.load_state_dict(weights)
        return _frozen(net)
    refuse_unwritable(cache, "set MSD_RAY_CACHE to a folder that can be written")
    net = _frozen(train(kind, data))
    write_bundle(store, {"features": kind.name, "accuracy": accuracy(net, data)}, [(WEIGHTS, save(net.state_dict()))])
    return net


def train(kind: Kind, data: DataSet) -> Classifier:
    """AdamW with a cosine schedule and noise added to each image."""
    split = data.train.thinned(kind.most)
    epochs = max(kind.epochs, round(kind.images / len(split)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(SEED, f"features-{kind.name}"))
        net = untrained(kind, data)
    optimizer = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * -(-len(split) // BATCH))
    told = time.monotonic()
    for epoch in range(epochs):
        if time.monotonic() - told > QUIET:
            told = time.monotonic()
            log.info("the %s features are trained once: epoch %d of %d", kind.name, epoch + 1, epochs)
        rng = stream(SEED, f"features-{kind.name}", epoch)
        for numbers in torch.split(torch.randperm(len(split), generator=rng), BATCH):
            samples = split.take(numbers)
            x = as_stored(samples.x)
            loss = F.cross_entropy(net(x + NOISE * torch.randn(x.shape, generator=rng)), samples.condition)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    net.scale.fill_(float(np.mean(net.features(split.thinned(LOOKED_AT).all().x) ** 2)) ** -0.5)
    return net


def accuracy(net: Classifier, data: DataSet) -> float:
    """The share of held-out samples that `net` classifies rightly."""
    rightly = 0
    for numbers in torch.split(torch.arange(len(data.held_out)), 1024):
        samples = data.held_out.take(numbers)
        guess = net.classify(samples.x)
        assert guess is not None
        rightly += int((guess == samples.condition).sum())
    return rightly / max(1, len(data.held_out))


def untrained(kind: Kind, data: DataSet) -> Classifier:
    """As large as that of `data`."""
    return Classifier(kind.name, kind.body(data.shape), data.classes)


def _frozen(net: Classifier) -> Classifier:
    return net.eval().requires_grad_(False)


def _key(kind: Kind, data: DataSet) -> str:
    """Names what the weights depend on: the training samples, of which some stand for all, and how they are trained."""
    said = (kind.epochs, kind.images, kind.most, BATCH, RATE, NOISE, VERSION, SEED)
    digest = hashlib.blake2b(repr((said, data.labels, data.fingerprint, len(data.train))).encode(), digest_size=8)
    digest.update(data.train.thinned(LOOKED_AT).all().x.contiguous().numpy().tobytes())
    digest.update(data.train.classes.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _body(shape: tuple[int, ...]) -> nn.Module:
    """Convolutions, each with half the side of the one before, down to about 4 pixels, and a linear layer."""
    (channels, *sides), width = shape, 16
    layers: list[nn.Module] = []
    if max(sides) > SIDE:
        layers.append(nn.AdaptiveAvgPool2d(SIDE))
        sides = [SIDE, SIDE]
    while min(sides) > 4:
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.SiLU(), nn.MaxPool2d(2)]
        channels, width, sides = width, min(2 * width, 64), [side // 2 for side in sides]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * sides[0] * sides[1], WIDTH), nn.SiLU())


CLASSIFIER = Kind(NAME, _body, epochs=4, images=240_000)
"""For pictures of any size: some 40 thousand parameters at 32 x 32."""
