"""A batch of several shards: its gradient, its random streams, the order of its work, and what cannot be split."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from msd_ray.diffusion import add_noise, edm_loss, one_step
from msd_ray.errors import UserError
from msd_ray.objectives import Draft, Pairs
from msd_ray.rng import stream
from msd_ray.training.process_group import ProcessGroup
from msd_ray.training.student_trainer import StudentTrainer

from ..gradients import last_gradients
from .cases import CONDITIONS, DM, SPEC, Spy, pairs_of, shared, staged, trainer

SHARDS, SIZE = 4, 2  # of DM's batch of 8


def first_streams(purpose: str) -> list[torch.Generator]:
    """Those of the shards of the first update, as their names are documented."""
    return [stream(SPEC.seed, SPEC.index, 0, purpose, shard) for shard in range(SHARDS)]


def noise_and_classes(rng: torch.Generator) -> tuple[Tensor, Tensor]:
    z = torch.randn(SIZE, 2, generator=rng)
    return z, torch.tensor(CONDITIONS)[torch.randint(len(CONDITIONS), (SIZE,), generator=rng)]


def gradients_after_one_update(objective: str, fake_steps: int) -> tuple[StudentTrainer, dict[str, list[Tensor]]]:
    """A trainer as it was before its first update of four shards, and the gradients that the update took."""
    spec = shared([objective], SHARDS, fake_steps=fake_steps, clip=1e9)
    t = trainer(spec)
    with last_gradients() as gradients:
        t.advance(1)
    return trainer(spec), {"generator": gradients(t.nets.generator), "fake": gradients(t.nets.fake)}


def same(ours: list[Tensor], loss: Tensor, network: nn.Module) -> None:
    expected = torch.autograd.grad(loss, list(network.parameters()))
    assert any(g.abs().max() > 1e-3 for g in expected)
    for a, b in zip(ours, expected, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-6)


def whole_dm_loss(before: StudentTrainer) -> Tensor:
    """DM's loss of the first update, for the samples of all shards at once."""
    objective: Any = before.spec.objective("0-dm")
    n, xs, x_ts, sigmas, conditions = objective.noise, [], [], [], []
    for rng in first_streams("generator"):
        z, condition = noise_and_classes(rng)
        xs.append(one_step(before.nets.generator, z, condition, n.sigma_init))
        sigmas.append(n.draw(SIZE, int(0.02 * n.levels), int(0.98 * n.levels), rng).to(z.dtype))
        x_ts.append(add_noise(xs[-1].detach(), sigmas[-1], rng))
        conditions.append(condition)
    draft = Draft(torch.cat(xs), torch.cat(x_ts), torch.cat(sigmas), torch.cat(conditions))
    teacher_x0 = Spy().submit(draft.x_t, draft.sigma, draft.condition).result()
    loss: Tensor = objective.generator_loss(before.nets, draft, None, teacher_x0, None).total
    return loss


def test_the_generators_gradient_is_that_of_the_mean_over_the_whole_batch() -> None:
    before, gradients = gradients_after_one_update("dm", fake_steps=0)
    same(gradients["generator"], whole_dm_loss(before), before.nets.generator)


def test_losses_are_logged_as_means_over_the_whole_batch() -> None:
    spec = replace(shared(["dm"], SHARDS, fake_steps=0), training=replace(SPEC.training, log_every=8))
    logged = {row.name: row.value for row in trainer(spec).advance(8)}
    assert logged["dm"] == pytest.approx(whole_dm_loss(trainer(spec)).item(), rel=1e-5)


def test_the_fake_scores_gradient_is_the_mean_of_the_shards() -> None:
    before, gradients = gradients_after_one_update("sid", fake_steps=1)
    losses = []
    for rng in first_streams("fake 0"):
        z, condition = noise_and_classes(rng)
        with torch.no_grad():
            x = one_step(before.nets.generator, z, condition, SPEC.noise.sigma_init)
        losses.append(edm_loss(before.nets.fake, x, condition, rng, sigma_data=0.5, p_mean=-1.2, p_std=1.2))
    same(gradients["fake"], 2 * torch.stack(losses).mean(), before.nets.fake)


def test_a_single_shard_draws_from_the_stream_without_a_number() -> None:
    t = trainer()
    t.advance(1)
    batch, _ = t._draw("generator", 0, 8)
    assert torch.equal(batch.z, torch.randn(8, 2, generator=stream(SPEC.seed, SPEC.index, 8, "generator")))


def test_no_two_shards_draw_the_same() -> None:
    spec = shared(["adm"], SHARDS)
    t = trainer(spec)
    t.advance(1)
    z = torch.cat([t._draw("generator", shard, 8)[0].z for shard in range(SHARDS)])
    assert len(z.unique(dim=0)) == 8


def test_pairs_and_real_samples_are_split_too() -> None:
    t = trainer(shared(["dmd"], SHARDS))
    t.advance(1)
    pairs = t._draw("generator", 0, 8)[0].pairs
    assert isinstance(pairs, Pairs) and len(pairs) == SIZE < len(pairs_of(SPEC))
    t = trainer(shared(["adm"], SHARDS))
    t.advance(1)
    real = t._draw("generator", 0, 8)[0].real
    assert real is not None and len(real) == SIZE


def test_all_shards_are_put_to_the_teacher_before_the_fake_score_trains(spy: Spy) -> None:
    stages = {"dm": replace(DM, warmup=0, fake_steps=3)}
    trainer(replace(SPEC, stages=stages, shards=2), spy).advance(16)
    update = ["asked", "asked", *["step 0.002000"] * 3, "read", "read", "step 0.001000"]
    assert spy.events == update * 2


# What cannot be split.


def test_a_batch_that_is_no_multiple_of_the_shards_is_refused() -> None:
    with pytest.raises(UserError, match=r"^stages\.0-dm\.batch \(8\) must be a multiple of the 3 shards$"):
        replace(staged(["dm"]), shards=3)


@pytest.mark.parametrize("shards", [0, -1])
def test_there_is_at_least_one_shard(shards: int) -> None:
    with pytest.raises(UserError, match=f"^shards must be at least 1, not {shards}$"):
        replace(SPEC, shards=shards)


def test_an_objective_that_keeps_tensors_between_updates_is_refused() -> None:
    with pytest.raises(UserError, match=r"^stages\.1-f-distill: f-distill keeps numbers from") as e:
        replace(staged(["adm", "f-distill"]), shards=2)
    assert "\n" not in str(e.value)
    assert replace(staged(["adm", "f-distill"]), shards=1).shards == 1


def test_more_workers_than_shards_are_refused() -> None:
    with pytest.raises(UserError, match=r"^student 0: 3 workers cannot .* 2 shards; take at most 2 workers$"):
        trainer(shared(["dm"]), group=ProcessGroup(2, 3))
