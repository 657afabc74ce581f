from pathlib import Path

import pytest

from msd_ray.errors import UserError
from msd_ray.networks import DenoiserSpec, MLPConfig, StudentSize, UNetConfig
from msd_ray.recipes import load_recipe, parse_recipe
from msd_ray.recipes.load import shipped


def test_shipped_recipes_are_valid_and_survive_a_round_trip() -> None:
    assert {"digits", "digits-small", "toy2d"} <= set(shipped())
    for name in shipped():
        recipe = load_recipe(name)
        assert recipe.name == name
        assert parse_recipe(recipe.to_json()) == recipe


def test_the_main_job_is_five_students_dm_then_adm() -> None:
    recipe = load_recipe("digits")
    assert recipe.partition.k == 5
    assert [stage.objective for stage in recipe.stages.values()] == ["dm", "adm"]
    assert isinstance(recipe.network, UNetConfig)
    assert isinstance(load_recipe("toy2d").network, MLPConfig)


def test_overrides_replace_values_in_order() -> None:
    recipe = load_recipe("digits", ["partition.k=2", "partition.k=3", "stages.dm.generator_lr=1e-3", "seed=7"])
    assert (recipe.partition.k, recipe.stages["dm"].generator_lr, recipe.seed) == (3, 1e-3, 7)
    shared = load_recipe("digits", ["training.shards=2", "cluster.workers_per_student=[1,2]"])
    assert shared.cluster.workers_per_student == (1, 2) and parse_recipe(shared.to_json()) == shared
    assert load_recipe("digits", ["network.multipliers=[1, 2, 2]"]).network.multipliers == (1, 2, 2)
    assert load_recipe("digits", ["stages.adm.options.head_weight=0.5"]).stages["adm"].options == {"head_weight": 0.5}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("partiton.k=3", "unknown key partiton; did you mean partition?"),
        ("partition.kk=3", "unknown key partition.kk; did you mean partition.k?"),
        ("stages.dmm.images=64", "unknown key stages.dmm.images; the recipe's stages are dm, adm"),
        ("stages.dm.imges=64", "did you mean stages.dm.images?"),
        ("stages.adm.options.hed_weight=1", "did you mean stages.adm.options.head_weight?"),
        ("network.width=3", "unknown key network.width"),
        ("partition.k=abc", "partition.k: input should be a valid integer, not 'abc'"),
        ("partition.k=2.5", "partition.k"),
        ("partition.k=true", "partition.k"),
        ("partition.k=0", "partition"),
        ("partition.kind=diagonal", "partition: there is no kind 'diagonal', only sequential, random, kmeans"),
        ("stages.dm.objective=magic", "there is no objective 'magic', only dm, adm"),
        ("stages.dm.images=33", "images (33) must be a positive multiple of batch (32)"),
        ("stages.adm.options.head_weight=x", "stages.adm.options.head_weight: input should be a valid number, not 'x'"),
        ("stages.adm.options.head_weight=true", "stages.adm.options.head_weight"),
        ("stages.dm.objective=nowhere:Mine", "objective: 'nowhere:Mine' cannot be imported: No module named 'nowhere'"),
        ("cluster.pool_size=2", "unknown key cluster.pool_size; did you mean cluster.pool"),
        ("cluster.pool.min_replicas=2", "cluster.pool: min_replicas (2) must be at most max_replicas (1)"),
        ("cluster.pool.scale_up_ms=1", "cluster.pool: scale_up_ms must be at least scale_down_ms"),
        ("cluster.pool.wire=fp8", "cluster.pool.wire: input should be 'fp32' or 'bf16', not 'fp8'"),
        ("training.shards=0", "training.shards: input should be greater than or equal to 1, not 0"),
        ("cluster.workers_per_student=[1,2]", "2 workers cannot share batches of 1 shards; set training.shards to"),
        ("cluster.workers_per_student=[2,1]", "cluster: workers_per_student must be [fewest, most]"),
        (
            "cluster.workers_per_student=[0,1]",
            "cluster.workers_per_student.0: input should be greater than or equal to 1",
        ),
        ("cluster.workers_per_student=2", "cluster.workers_per_student: input should be a valid "),
        ("noise.sigma_min=100", "sigma_min must be above 0 and below sigma_max"),
        ("seed.x=1", "seed: input should be a valid integer, not {'x': 1}"),
        ("data={name: mine:data, options: {a: [.nan]}}", "data.options.a.0: must be a finite number, not nan"),
        (
            "stages={a: {objective: sum, images: 32, batch: 32, options: {terms: {consistency: {}, dm: {last: 2}}}}}",
            "stages.a.options.terms.dm.last: input should be less than or equal to 1, not 2",
        ),
        (
            "stages={a: {objective: sum, images: 32, batch: 32, options: {terms: {dm: {}, sid: {}}}}}",
            "stages.a.options: terms: two objectives that train a fake score cannot be summed",
        ),
        ("stages.dm.options.noise=1", "unknown key stages.dm.options.noise; noise is a key of the recipe"),
        ("network.channel=8", "unknown key network.channel; did you mean network.channels?"),
        ("students.0.blcks=1", "unknown key students.0.blcks; did you mean students.0.blocks?"),
        ("partition", "'partition' is not of the form key=value"),
        ("seed=[", "is not a YAML value"),
        ("network.kind=cnn", "network"),
    ],
)
def test_wrong_overrides_are_refused_in_one_line(override: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_recipe("digits", [override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_recipe_can_be_based_on_another(tmp_path: Path) -> None:
    """Values are merged key by key, stages replaced as a whole."""
    path = tmp_path / "mine.yaml"
    path.write_text("base: digits\nname: mine\nteacher: {images: 640}\nstages: {only: {images: 64, batch: 64}}\n")
    recipe, base = load_recipe(str(path), ["teacher.lr=1e-4"]), load_recipe("digits")
    assert (recipe.name, recipe.network, recipe.partition) == ("mine", base.network, base.partition)
    assert (recipe.teacher.images, recipe.teacher.lr, recipe.teacher.warmup) == (640, 1e-4, base.teacher.warmup)
    assert list(recipe.stages) == ["only"]
    path.write_text("base: nowhere\n")
    with pytest.raises(UserError, match="no recipe nowhere"):
        load_recipe(str(path))


def test_the_sizes_of_the_small_recipes_students() -> None:
    recipe = load_recipe("digits-small")
    teacher = DenoiserSpec(recipe.network, (1, 8, 8), 10).parameters()
    for factor, fewer in ((recipe.student.channel_factor, 0.43), (0.5, 0.74)):
        student = DenoiserSpec(recipe.network.cut(StudentSize(factor)), (1, 8, 8), 10).parameters()
        assert 1 - student / teacher == pytest.approx(fewer, abs=0.01)


def test_another_kind_of_network_takes_nothing_from_the_recipes_own() -> None:
    assert load_recipe("digits", ["network.kind=mlp"]).network == MLPConfig()
    assert load_recipe("digits", ["network.kind=mlp", "network.width=32"]).network == MLPConfig(width=32)
    assert load_recipe("digits", ["network.kind=unet"]).network == load_recipe("digits").network


def test_files_that_are_no_recipes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no recipe nowhere: give a YAML file, or one of cifar10, digits, "):
        load_recipe("nowhere")
    for text, message in [("- 1", "must hold a mapping"), ("a: [", "is not YAML"), ("name: x", "network")]:
        file = tmp_path / "r.yaml"
        file.write_text(text)
        with pytest.raises(UserError, match=message):
            load_recipe(str(file))
