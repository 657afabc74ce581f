"""DM's and ADM's update written plainly, the way DMD2's public code trains: autocast in bf16, TensorFloat-32, AdamW of
torch, one pass after the other, nothing compiled, no average of the weights. What ours is measured against."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msd_ray.diffusion import EDMDenoiser, Noise
from msd_ray.objectives.discriminators import discriminator_head

FAKE_STEPS, CLIP, NOISE = 5, 10.0, Noise()


@dataclass
class PlainUpdate:
    """generator, fake, teacher: with weights on the device. head: ADM's, None for DM. real: [N, ...] to draw from.
    draw: n conditions, on the device."""

    generator: EDMDenoiser
    fake: EDMDenoiser
    teacher: EDMDenoiser
    head: nn.Module | None
    real: Tensor
    draw: Callable[[int], Tensor]
    batch: int
    lr: float

    def __post_init__(self) -> None:
        self.teacher.requires_grad_(False)
        self.device, self.grid = self.real.device, NOISE.grid(device=self.real.device)
        heads = list(self.head.parameters()) if self.head else []
        self.judges = [*self.fake.parameters(), *heads]
        self.generator_adam = torch.optim.AdamW(self.generator.parameters(), self.lr)
        self.fake_adam = torch.optim.AdamW(self.judges, self.lr)

    def __call__(self) -> None:
        """One update of the generator, after the fake score's."""
        for _ in range(FAKE_STEPS):
            with torch.no_grad():
                x, condition = self.made()
            self.descend(self.fake_loss(x, condition), self.fake_adam, self.judges)
        for p in self.judges:
            p.requires_grad_(False)
        self.descend(self.generator_loss(), self.generator_adam, list(self.generator.parameters()))
        for p in self.judges:
            p.requires_grad_(True)

    def made(self) -> tuple[Tensor, Tensor]:
        condition = self.draw(self.batch)
        z = torch.randn(self.batch, *self.real.shape[1:], device=self.device)
        sigma = torch.full((self.batch,), NOISE.sigma_init, device=self.device)
        return self.rough(self.generator, z * NOISE.sigma_init, sigma, condition), condition

    def fake_loss(self, x: Tensor, condition: Tensor) -> Tensor:
        x_t, sigma = self.noised(x)
        weight = (sigma**-2 + NOISE.sigma_data**-2)[:, None, None, None]
        loss = (weight * (self.rough(self.fake, x_t, sigma, condition) - x) ** 2).mean()
        if self.head:
            chosen = torch.randint(len(self.real), (self.batch,), device=self.device)
            judged = F.softplus(self.logits(x, condition)) + F.softplus(-self.logits(self.real[chosen], condition))
            loss = loss + 1e-2 * judged.mean()
        return loss

    def generator_loss(self) -> Tensor:
        x, condition = self.made()
        with torch.no_grad():
            x_t, sigma = self.noised(x)
            real, fake = (self.rough(net, x_t, sigma, condition) for net in (self.teacher, self.fake))
            size = (x - real).abs().mean(dim=(1, 2, 3), keepdim=True)
            target = x - (fake - real) / size
        loss = 0.5 * F.mse_loss(x, target)
        if self.head:
            loss = loss + 3e-3 * F.softplus(-self.logits(x, condition)).mean()
        return loss

    def descend(self, loss: Tensor, adam: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> None:
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, CLIP)
        adam.step()
        adam.zero_grad()

    def noised(self, x: Tensor) -> tuple[Tensor, Tensor]:
        sigma = self.grid[torch.randint(20, 980, (len(x),), device=self.device)]
        return x + sigma[:, None, None, None] * torch.randn_like(x), sigma

    def logits(self, x: Tensor, condition: Tensor) -> Tensor:
        assert self.head
        x_t, sigma = self.noised(x)
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            features = self.fake.bottleneck(x_t, sigma, condition)
        logits: Tensor = self.head(features.float())
        return logits

    def rough(self, net: EDMDenoiser, x_t: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            x0: Tensor = net(x_t, sigma, condition)
        return x0.float()


def plain_update(
    net: EDMDenoiser,
    others: list[EDMDenoiser],
    gan: bool,
    real: Tensor,
    batch: int,
    draw: Callable[[int], Tensor],
) -> PlainUpdate:
    """net: the generator; others: fake score and teacher."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    head = discriminator_head(net.network.bottleneck_shape).to(real.device) if gan else None
    return PlainUpdate(net, *others, head, real, draw, batch, 1e-6)
