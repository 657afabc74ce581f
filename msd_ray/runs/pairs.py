"""Pairs of noise and what the teacher's ODE makes of it, for objectives that regress onto them.

They lie in the cache as numbered chunks, each a bundle with one Parquet file, so that making them can go on where it
was cut short. Seeds count up and decide the conditions, so that a longer set begins with the shorter one.
"""

import io

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from msd_ray.conditions import Owned, in_turn
from msd_ray.diffusion import Denoiser, heun
from msd_ray.ensemble import seeded_noise
from msd_ray.errors import CorruptError, UserError
from msd_ray.objectives import Pairs
from msd_ray.runs.plan import Plan
from msd_ray.runs.teacher_cache import cached_in
from msd_ray.storage import Store, digest, read_file, read_manifest, write_bundle

CHUNK = 256
_FILE = "pairs.parquet"


def pairs_folder(cache: Store, plan: Plan) -> Store:
    """The folder of the pairs of a plan's teacher; its name is the hash of everything that they depend on."""
    kept = cached_in(cache, plan.recipe, plan.teacher)
    teacher = plan.source.fingerprint if plan.source else kept.uri.rsplit("/", 1)[-1]
    noise = plan.recipe.to_json()["noise"]
    grid = [noise[key] for key in ("sigma_min", "sigma_max", "rho")]
    return cache.child(f"pairs-{digest([teacher, plan.recipe.teacher.steps, grid, CHUNK])}")


def chunks_of(plan: Plan) -> list[int]:
    """The chunks that hold at least as many pairs as the recipe asks for."""
    return list(range(-(-plan.recipe.pairs // CHUNK)))


def has_chunk(store: Store, chunk: int) -> bool:
    try:
        read_manifest(_folder(store, chunk))
    except (FileNotFoundError, CorruptError):
        return False
    return True


def make_chunk(store: Store, chunk: int, denoiser: Denoiser, device: torch.device, plan: Plan) -> None:
    """Samples one chunk with the teacher's own sampler and writes it."""
    seeds = list(range(chunk * CHUNK, (chunk + 1) * CHUNK))
    condition = in_turn(torch.arange(plan.conditions.n), torch.tensor(seeds))
    z = seeded_noise(seeds, plan.teacher.sample_shape).to(device)
    x = heun(
        denoiser, z, plan.conditions.encode(condition).to(device), plan.recipe.noise, plan.recipe.teacher.steps
    ).cpu()
    table = pa.table({"seed": seeds, "condition": condition.numpy(), "x": list(x.flatten(1).numpy())})
    file = io.BytesIO()
    pq.write_table(table, file)
    write_bundle(_folder(store, chunk), {"pairs": CHUNK}, [(_FILE, file.getvalue())])


def load_pairs(store: Store, chunks: list[int], sample_shape: tuple[int, ...]) -> Pairs:
    """All pairs of these chunks, their noise drawn again from the seeds. Raises CorruptError if one is damaged."""
    table = pa.concat_tables([_table(_folder(store, chunk)) for chunk in chunks])
    z = seeded_noise(table["seed"].to_pylist(), sample_shape)
    values = table["x"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    x = torch.tensor(values, dtype=torch.float32).reshape(z.shape)
    return Pairs(z, x, torch.tensor(table["condition"].to_pylist()))


def refuse_without_own(pairs: Pairs, owned: Owned) -> None:
    """Raises UserError where none of them is of these conditions."""
    if not torch.isin(pairs.condition.cpu(), owned.ids.cpu()).any():
        raise UserError(f"pairs: none of the {len(pairs)} pairs is of a student's own conditions; make more of them")


def _table(store: Store) -> pa.Table:
    return pq.read_table(io.BytesIO(read_file(store, read_manifest(store), _FILE)))


def _folder(store: Store, chunk: int) -> Store:
    return store.child(f"part-{chunk:06d}")
