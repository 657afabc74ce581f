"""Prompts as conditions: what is one, how they are drawn and encoded, and where each belongs."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.feature_extraction.text import HashingVectorizer

from msd_ray.conditions import (
    Conditions,
    ConditionsConfig,
    Partition,
    PartitionConfig,
    fit,
    make_conditions,
    prompt_fit,
)
from msd_ray.conditions.embedders import HashedNgrams
from msd_ray.conditions.kinds import ConditionsSpec, identity
from msd_ray.errors import CorruptError, UserError
from msd_ray.recipes import load_recipe

COLOURS, THINGS = ("red", "green", "blue", "black", "white"), ("heart", "car", "circle", "face", "house", "flag")
PROMPTS = tuple(f"{colour} {thing}" for colour in COLOURS for thing in THINGS)
LANGUAGES = (
    "ein rotes Herz", "un cœur carmin", "красное сердце", "红心", "赤いハート", "빨간 하트", "قلب أحمر", "לב אדום",
    "लाल दिल", "หัวใจสีแดง", "κόκκινη καρδιά", "trái tim đỏ", "czerwone serce", "un corazón rojo", "sydän on punainen",
    "червоне серце", "লাল হৃদয়", "სისხლი წითელი", "կարմիր սիրտ", "ቀይ ልብ",
)  # fmt: skip


def prompts(labels: tuple[str, ...] = PROMPTS, **options: object) -> Conditions:
    return make_conditions(ConditionsConfig("prompts", dict(options)), labels)


def written(folder: Path, **columns: list[object]) -> str:
    pq.write_table(pa.table(columns), folder / "prompts.parquet")
    return str(folder / "prompts.parquet")


def test_the_labels_of_the_data_are_prompts_that_any_text_may_join() -> None:
    known = prompts()
    assert known.n == 30 and known.width == 256 and known.labels([0, 29]) == ["red heart", "white flag"]
    assert known.id_of("  a  Red\theart ") == "a Red heart"
    assert known.id_of("ma\u0308rz") == "m\u00e4rz"
    assert known.asked(torch.tensor([1])) == ["red car"]


def test_texts_that_share_words_are_close_and_each_has_length_one() -> None:
    vectors = prompts().embed(prompts().encode(["red heart", "Red hearts", "fast train"]))
    assert vectors.shape == (3, 256) and vectors.dtype == torch.float32
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))
    assert vectors[0] @ vectors[1] > 0.7 > 0.3 > abs(vectors[0] @ vectors[2])


TEXTS = (
    "a red heart", "a a  a b", "Ein HAUS in der Straße", "ΣΊΣΥΦΟΣ ΌΣ", "İstanbul ǅ ﬁ", "مرحبا بالعالم", "赤い 心",
    "🚗🚗 x", "a\u3000b\u00a0c", "x" * 1000, "",
)  # fmt: skip


def test_vectors_of_texts_are_those_of_scikit_learns_hashed_groups_of_letters_bit_for_bit() -> None:
    """Which hash each text as a whole, while ours hash each different word once."""
    whole = HashingVectorizer(analyzer="char_wb", ngram_range=(3, 5), n_features=64, dtype=np.float32)
    made = HashedNgrams(64).tokens(TEXTS)
    assert made.dtype == torch.float32 and torch.equal(made, torch.from_numpy(whole.transform(TEXTS).toarray()))
    assert all(
        torch.equal(HashedNgrams(64).tokens([text])[0], vector) for text, vector in zip(TEXTS, made, strict=True)
    )
    assert HashedNgrams(64).tokens([]).shape == (0, 64)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("", "a prompt must not be empty"),
        (" \n\t", "a prompt must not be empty"),
        ("a" * 10_000, "a prompt has at most 1,000 characters, not 10,000"),
        ("a\x00b", r"a prompt must not have control characters or halves of others, such as '\\x00'"),
        ("\ud83d", "control characters or halves of others"),
        (3, "ask with a prompt, a text, not with the number 3"),
    ],
)
def test_what_is_no_prompt_is_refused_in_one_line(asked: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        prompts().id_of(asked)
    assert "\n" not in str(refused.value)


def test_of_prompts_with_certain_words_others_are_refused_when_they_are_asked_for_and_in_the_data() -> None:
    known = prompts(("a red dog", "Dogs, two"), only=["dog", "dogs"])
    assert known.n == 2 and known.id_of("my DOG") == "my DOG"
    for asked in ("a cat", "a dogma"):
        with pytest.raises(UserError, match="only prompts with one of these words are known here: dog, dogs"):
            known.id_of(asked)
    assert known.encode(["a picture"]).shape == (1, 256)  # with which students are tried, whatever they know
    with pytest.raises(UserError, match=r"options\.only: prompt 1, 'a cat', has none of the words dog; leave such"):
        _ = prompts(("a dog", "a cat"), only=["dog"]).n
    spec = ConditionsSpec(ConditionsConfig("prompts", {"only": ["dog"]}), ())
    again = ConditionsSpec.from_json(json.loads(json.dumps(spec.to_json())))
    assert again == spec
    with pytest.raises(UserError, match="only prompts with one of these words"):
        again.make().id_of("a cat")


def test_caches_of_prompts_keep_their_names() -> None:
    assert set(ConditionsConfig("prompts", {}).options) == {"file", "embedder", "width", "encoder"}


def test_prompts_of_a_file_are_drawn_by_their_weights(tmp_path: Path) -> None:
    path = written(tmp_path, text=["a cat", "a dog", "a cow"], weight=[1, 0, 3])
    known = prompts(("0",), file=path)
    assert known.labels([2, 0]) == ["a cow", "a cat"]
    drawn = Counter(known.draw(torch.arange(3), 4000, torch.Generator().manual_seed(0)).tolist())
    assert set(drawn) == {0, 2} and abs(drawn[2] - 3000) < 5 * 27.4  # five standard deviations
    weighted = known.fingerprint
    evenly = prompts(("0",), file=written(tmp_path, text=["a cat", "a dog", "a cow"]))
    assert evenly.n == 3 and evenly.fingerprint != weighted


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"words": ["a"]}, "has no column `text` of strings"),
        ({"text": [1]}, "has no column `text` of strings"),
        ({"text": ["a", None]}, "has no prompt, or a row without one"),
        ({"text": ["a"], "weight": ["x"]}, "the column `weight` must hold numbers"),
        ({"text": ["a"], "weight": [-1.0]}, "weights must be finite, not negative, and not all 0"),
        ({"text": ["a"]}, "has 1 prompts for 2 classes of images"),
    ],
)
def test_a_file_that_has_no_prompts_is_refused(columns: dict[str, list[object]], message: str, tmp_path: Path) -> None:
    path = written(tmp_path, **columns)
    with pytest.raises(UserError, match=message):
        _ = prompts(("0", "1"), file=path).n


def test_a_file_that_is_not_there_or_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no .*none\.parquet"):
        _ = prompts(file=str(tmp_path / "none.parquet")).n
    (tmp_path / "text.parquet").write_text("a red heart")
    with pytest.raises(UserError, match="is no Parquet file"):
        _ = prompts(file=str(tmp_path / "text.parquet")).n


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("conditions={kind: prompts, options: {wodth: 8}}", "unknown key options.wodth; did you mean options.width"),
        ("conditions={kind: prompts, options: {embedder: magic}}", "embedder: .*'hashed-ngrams'.*, not 'magic'"),
        ("partition={kind: keywords}", "keywords are for the kind keywords, a list of words for each part but the"),
        ("partition={keywords: [[cat]]}", "keywords are for the kind keywords"),
    ],
)
def test_a_recipe_says_what_there_is(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_recipe("toy2d", [override])


def test_what_is_kept_beside_weights_has_no_text_and_makes_the_same_vectors() -> None:
    config = ConditionsConfig("prompts", {"width": 64})
    kept = json.dumps(ConditionsSpec(config, make_conditions(config, PROMPTS).kept).to_json())
    assert "heart" not in kept
    again = ConditionsSpec.from_json(json.loads(kept)).make()
    assert torch.equal(again.encode(["red heart"]), prompts(width=64).encode(torch.tensor([0])))
    assert identity(config, lambda: PROMPTS) != identity(config, lambda: PROMPTS[:-1])
    assert identity(ConditionsConfig(), lambda: pytest.fail("labels do not matter")) == []


def by_words() -> Partition:
    return fit(PartitionConfig(3, "keywords", keywords=(("heart", "car"), ("white",))), prompts())


def test_clusters_are_of_like_size_and_hold_prompts_that_share_words() -> None:
    partition = fit(PartitionConfig(5, "kmeans"), prompts())
    sizes = np.bincount(partition.router.owners)
    assert sizes.min() >= 5 and sizes.max() <= 7
    owners = np.array(partition.router.owners).reshape(len(COLOURS), len(THINGS))
    together = [(row == np.bincount(row).argmax()).mean() for of in (owners, owners.T) for row in of]
    assert np.mean(together) > 0.5  # by chance 0.4 to 0.45
    assert fit(PartitionConfig(5, "kmeans"), prompts()) == partition


def test_words_choose_the_first_part_that_has_one_of_them_whole() -> None:
    partition, known = by_words(), prompts()
    places = partition.place(known, ["a White HEART", "white flag", "carpet", "a racing-car!"])
    assert [place.part for place in places] == [0, 1, 2, 0]
    assert np.bincount(partition.router.owners).tolist() == [10, 4, 16]  # parts need not be equal


def test_quadrants_are_the_signs_of_the_first_two_entries() -> None:
    partition, known = fit(PartitionConfig(4, "quadrants"), prompts(width=8)), prompts(width=8)
    x, y = known.embed(known.encode(torch.arange(30)))[:, :2].T
    expected = 2 * (y > 0).long() + (x > 0).long()
    assert partition.router.part_of(torch.arange(30)).tolist() == expected.tolist()
    place = partition.place(known, ["red heart"])[0]
    assert place.margin == pytest.approx(float(min(abs(x[0]), abs(y[0]))))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (PartitionConfig(2), "sequential cannot place a prompt that it has never seen; write kmeans, quadrants or"),
        (PartitionConfig(2, "quadrants"), "quadrants makes 4 parts here, so write partition.k=4"),
        (PartitionConfig(2, "keywords", keywords=(("zebra",),)), "with keywords student 0 would own none of the 30"),
        (PartitionConfig(31, "kmeans"), "31 students cannot share 30 prompts: set partition.k to at most 30"),
    ],
)
def test_a_partition_that_cannot_be_is_refused(config: PartitionConfig, message: str) -> None:
    with pytest.raises(UserError, match=message):
        fit(config, prompts())


@pytest.mark.parametrize(
    "partition", [fit(PartitionConfig(5, "kmeans"), prompts()), by_words()], ids=["kmeans", "words"]
)
def test_a_partition_is_read_back_and_known_prompts_are_placed_as_in_training(partition: Partition) -> None:
    again = Partition.from_json(json.loads(json.dumps(partition.to_json())), partition.files.__getitem__)
    assert again.router == partition.router
    assert [place.part for place in again.place(prompts(), list(PROMPTS))] == list(partition.router.owners)
    assert again.place(prompts(), PROMPTS) == partition.place(prompts(), PROMPTS)


def test_a_damaged_partition_is_refused() -> None:
    partition = fit(PartitionConfig(5, "kmeans"), prompts())
    raw = partition.to_json()
    for wrong in ({"rule": "magic"}, {**raw["rule"], "prices": [1.0]}, {**raw["rule"], "centres": "!"}):
        with pytest.raises(CorruptError, match="its rule makes no sense"):
            Partition.from_json({**raw, "rule": wrong}, partition.files.__getitem__)
    with pytest.raises(CorruptError, match=r"its owners\.npy is damaged"):
        Partition.from_json(raw, lambda name: b"nothing")


def test_where_a_prompt_belongs_depends_on_no_other_bit_for_bit() -> None:
    """1,000 prompts that nobody saw: other words, 20 languages, emoji; together, one by one, and in odd batches."""
    partition, known = fit(PartitionConfig(5, "kmeans"), prompts()), prompts()
    words = ("small", "cat", "running", "❤️", "👩‍🚀", "🇫🇷", "purple", "xylophone", *LANGUAGES)
    unseen = [known.id_of(f"{a} {words[(i * j + j) % len(words)]} {j}") for i, a in enumerate(words) for j in range(36)]
    unseen = [*LANGUAGES, *unseen][:1000]
    together = partition.place(known, unseen)
    assert len(together) == 1000 and len({place.part for place in together}) == 5
    assert [partition.place(known, [text])[0] for text in unseen[:100]] == together[:100]
    assert [place for i in range(0, 1000, 7) for place in partition.place(known, unseen[i : i + 7])] == together
    assert all(place.margin is not None and place.margin >= 0 for place in together)


@pytest.mark.slow
def test_students_train_on_the_prompts_that_requests_send_them() -> None:
    """10,000 prompts in 20 languages: all that a student may draw are placed at it, whatever is asked with them."""
    known = prompts(tuple(f"{word} {i}" for i in range(500) for word in LANGUAGES), width=32)
    partition = fit(PartitionConfig(4, "kmeans"), known)
    for student in range(4):
        owned = partition.owned_by(student, known)
        assert {place.part for place in partition.place(known, known.asked(owned.ids))} == {student}
    assert sum(len(partition.owned_by(student, known).ids) for student in range(4)) == 10_000


def test_the_partition_of_many_prompts_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MSD_RAY_CACHE", str(tmp_path))
    monkeypatch.setattr(prompt_fit, "CHUNK", 8)
    texts = tuple(f"{colour} {thing}" for colour in ("red", "green", "blue") for thing in ("heart", "car", "house"))
    known = make_conditions(ConditionsConfig("prompts", {"width": 16}), texts)
    first, config = fit(PartitionConfig(3, "kmeans"), known), PartitionConfig(3, "kmeans")
    with monkeypatch.context() as broken:
        broken.setattr(prompt_fit, "fit_rule", lambda *_: pytest.fail("made again"))
        again = fit(config, known)
    assert again.router.owners == first.router.owners and again.to_json() == first.to_json()
    assert again.place(known, ["an unseen house"]) == first.place(known, ["an unseen house"])
    other = make_conditions(ConditionsConfig("prompts", {"width": 16}), (*texts[:-1], "a blue house"))
    assert len(list(tmp_path.iterdir())) == 1
    fit(config, other)
    assert len(list(tmp_path.iterdir())) == 2


def test_draws_among_other_ids_are_weighed_anew(tmp_path: Path) -> None:
    table = pa.table({"text": ["a", "b", "c", "d"], "weight": [0.0, 1.0, 0.0, 1.0]})
    pq.write_table(table, tmp_path / "prompts.parquet")
    known = make_conditions(ConditionsConfig("prompts", {"file": str(tmp_path / "prompts.parquet")}), ())
    low, high = torch.tensor([0, 1]), torch.tensor([2, 3])
    for among, only in ((low, 1), (high, 3), (low, 1)):
        assert set(known.draw(among, 20, torch.Generator().manual_seed(0)).tolist()) == {only}
