"""The linear probe: unseen speakers, intervals and rates against sklearn; what cannot be probed is refused."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix

import speechssl
from speechssl.core.errors import InputError
from speechssl.score.metrics import confusions, intervals, rates
from speechssl.score.probe import probe, probe_vectors
from speechssl.score.protocols import group_folds
from speechssl.use.embed import embed_to_parquet
from tests.conftest import digits, write_table


def table(path, labels, groups, vectors):
    """A Parquet file as `embed` writes it."""
    pq.write_table(pa.table({"label": labels, "speaker": groups, "vector": vectors}), path)
    return path


def clouds(labels, groups, distance: float = 8.0) -> np.ndarray:
    """One cloud of vectors for each label, with the speaker as noise."""
    rng = np.random.default_rng(0)
    centres = {name: rng.normal(size=6) * distance for name in sorted(set(labels))}
    voices = {name: rng.normal(size=6) for name in sorted(set(groups))}
    return np.stack([centres[a] + voices[b] + rng.normal(size=6) for a, b in zip(labels, groups, strict=True)])


LABELS, GROUPS = np.array(list("abc") * 20), np.repeat(list("12345"), 12)


def test_what_can_be_told_is_told_and_noise_stays_at_chance():
    easy = probe_vectors({"vector": clouds(LABELS, GROUPS)}, LABELS, GROUPS, label="label")
    noise = np.random.default_rng(1).normal(size=(60, 6))
    hard = probe_vectors({"vector": noise}, LABELS, GROUPS, label="label")
    assert easy.scores[0].accuracy > 0.95
    low, high = hard.scores[0].accuracy_interval
    assert low < hard.chance_accuracy < high
    assert (easy.groups, easy.folds, easy.chance_uar) == (5, 5, pytest.approx(1 / 3))


def test_rates_equal_sklearn_s():
    rng = np.random.default_rng(0)
    true = rng.choice(3, 100, p=[0.6, 0.3, 0.1])
    guess = np.where(rng.random(100) < 0.6, true, rng.integers(0, 3, 100))
    (counts_CC,) = confusions(true, guess, np.zeros(100, dtype=int), 3)
    assert np.array_equal(counts_CC, confusion_matrix(true, guess))
    accuracy, uar = rates(counts_CC)
    assert accuracy == pytest.approx(accuracy_score(true, guess))
    assert uar == pytest.approx(balanced_accuracy_score(true, guess))


def test_folds_share_no_speaker_and_test_every_clip_once():
    splits = group_folds(LABELS, GROUPS, 5, seed=1)
    assert sorted(np.concatenate([test for _, test in splits])) == list(range(60))
    assert all(not set(GROUPS[train]) & set(GROUPS[test]) for train, test in splits)


def test_a_feature_of_the_speaker_alone_does_not_help():
    """One dimension names the speaker, whose labels are all alike: seen speakers would be perfect, unseen are not."""
    groups = np.repeat([str(i) for i in range(12)], 6)
    labels = np.where(np.repeat(np.arange(12), 6) % 2 == 0, "even", "odd")
    vectors = np.eye(12)[np.repeat(np.arange(12), 6)]
    result = probe_vectors({"vector": vectors}, labels, groups, label="label")
    assert result.scores[0].accuracy < 0.75


def test_a_class_of_two_speakers_among_four_can_be_probed():
    labels, groups = np.array(list("mmffmmff")), np.array(list("11223344"))
    result = probe_vectors({"vector": clouds(labels, groups)}, labels, groups, label="sex")
    assert result.scores[0].accuracy == 1.0


def test_fewer_clips_than_folds_are_no_error():
    labels, groups = np.array(list("aabb")), np.array(list("1212"))
    assert probe_vectors({"vector": clouds(labels, groups)}, labels, groups, label="label").folds == 2


def test_embeddings_from_end_to_end(pretrained_folder, tmp_path):
    source = write_table(tmp_path / "x.tsv", *digits(30))
    model = speechssl.load(pretrained_folder)
    embed_to_parquet(model, [source], tmp_path / "e.parquet", layer="weighted")
    result = probe(tmp_path / "e.parquet", folds=2, out=tmp_path / "p.json")
    assert [score.vectors for score in result.scores] == ["vector_00", "vector_01", "vector_02", "mixture"]
    assert result.clips == 30 and len(result.classes) == 10
    assert json.loads((tmp_path / "p.json").read_text())["scores"][0]["accuracy"] == result.scores[0].accuracy
    assert f"{100 * result.scores[-1].accuracy:.1f}" in str(result)


@pytest.mark.parametrize(
    "labels, groups, complaint",
    [
        ("aaaa", "1234", "column 'label' has a single value \\('a'\\)"),
        ("abab", "1111", "all rows are of one group \\('1'\\)"),
        ("ab", "12", "the class 'a' of 'label' occurs with so few groups"),
        ("abcd", "1234", "occurs with so few groups that it can never be tested unseen"),
        ("ababababc", "112233441", "the class 'c' of 'label' occurs with so few groups"),
        (["a", None, "b", "b"], "1212", "1 of 4 rows have no 'label'; fill the column"),
        (["a", "", "b", "b"], "1212", "1 of 4 rows have no 'label'"),
        ("abab", ["1", "", "2", ""], "2 of 4 rows have no 'speaker'"),
        (pa.array([], pa.string()), pa.array([], pa.string()), "has no rows"),
        ([["a"], ["b"], ["a"], ["b"]], "1212", "the column 'label' holds lists"),
    ],
    ids=str,
)
def test_labels_and_groups_that_cannot_be_probed(labels, groups, complaint, tmp_path):
    labels, groups = (list(values) if isinstance(values, str) else values for values in (labels, groups))
    vectors = np.random.default_rng(0).normal(size=(len(labels), 3)).tolist() or pa.array([], pa.list_(pa.float32()))
    with pytest.raises(InputError, match=complaint):
        probe(table(tmp_path / "e.parquet", labels, groups, vectors))


@pytest.mark.parametrize(
    "vector, complaint",
    [
        ([np.nan, 1.0], "vector holds NaN"),
        ([np.inf, 1.0], "infinite"),
        ([1.0], "differ in length"),
        (None, "differ in length"),
    ],
    ids=str,
)
def test_vectors_that_cannot_be_probed(vector, complaint, tmp_path):
    vectors = [[0.0, 1.0], [1.0, 0.0], [1.0, 1.0], vector]
    with pytest.raises(InputError, match=rf"e\.parquet.*{complaint}"):
        probe(table(tmp_path / "e.parquet", list("abab"), list("1122"), vectors))


def test_files_and_columns_that_are_not_there(tmp_path):
    path = table(tmp_path / "e.parquet", list("abab"), list("1122"), [[1.0, 2.0]] * 4)
    (tmp_path / "text.parquet").write_text("I am a text")
    for source, options, complaint in (
        (tmp_path / "gone.parquet", {}, "does not exist; make it with `speechssl embed"),
        (tmp_path / "text.parquet", {}, "is not a Parquet file"),
        (path, {"label": "age"}, "has no column 'age'; it has label, speaker, vector"),
        (path, {"seed": -1}, "--seed -1"),
        (path, {"out": tmp_path}, "is a folder; name the file"),
    ):
        with pytest.raises(InputError, match=complaint):
            probe(source, **options)


@pytest.fixture
def voices() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vectors that hold the voice and a trace of the class, classes, speakers: 6 speakers, 4 classes, 5 takes."""
    speakers, y, _ = (axis.ravel() for axis in np.meshgrid(range(6), range(4), range(5), indexing="ij"))
    rng = np.random.default_rng(1)
    of_speaker_and_class = rng.normal(size=(6, 4, 16))[speakers, y]
    vectors = 3 * of_speaker_and_class + rng.normal(size=(4, 16))[y] + rng.normal(size=(len(y), 16))
    return vectors, y.astype(str), speakers.astype(str)


def test_predictions_are_those_behind_the_scores(voices):
    vectors, y, speakers = voices
    result = probe_vectors({"vector": vectors}, y, speakers, label="label", folds=6)
    score = result.scores[0]
    assert score.accuracy == pytest.approx(np.mean(y == score.predicted))
    confusion = [[np.sum((y == a) & (np.array(score.predicted) == b)) for b in result.classes] for a in result.classes]
    assert np.array_equal(score.confusion, confusion)


def test_clips_as_groups_are_the_random_split_that_leaks(voices):
    vectors, y, speakers = voices
    unseen = probe_vectors({"vector": vectors}, y, speakers, label="label", folds=6).scores[0]
    random = probe_vectors({"vector": vectors}, y, np.arange(len(y)).astype(str), label="label", folds=6).scores[0]
    assert random.accuracy > unseen.accuracy + 0.3


def test_json_holds_the_predictions(voices, tmp_path):
    vectors, y, speakers = voices
    pq.write_table(pa.table({"label": y, "speaker": speakers, "vector": list(vectors)}), tmp_path / "e.parquet")
    probe(tmp_path / "e.parquet", out=tmp_path / "e.json")
    assert len(json.loads((tmp_path / "e.json").read_text())["scores"][0]["predicted"]) == len(y)


def test_intervals_are_those_of_resampled_groups():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 300)
    guess, groups = np.where(rng.random(300) < 0.6, y, 0), rng.integers(0, 20, 300)
    found = []
    for picks in np.random.default_rng(1).integers(0, 20, size=(1000, 20)):
        rows = np.concatenate([np.flatnonzero(groups == group) for group in picks])
        found.append(((y[rows] == guess[rows]).mean(), balanced_accuracy_score(y[rows], guess[rows])))
    expected = np.percentile(found, [2.5, 97.5], axis=0)
    np.testing.assert_allclose(intervals(confusions(y, guess, groups, 3), seed=1), expected)
