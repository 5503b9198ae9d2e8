"""The linear probe: what it predicts, and that a voice is no help with an unseen speaker."""

import json

import numpy as np
import pytest

from speechssl.probe.linear import probe, probe_vectors


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
    import pyarrow as pa
    import pyarrow.parquet as pq

    vectors, y, speakers = voices
    pq.write_table(pa.table({"label": y, "speaker": speakers, "vector": list(vectors)}), tmp_path / "e.parquet")
    probe(tmp_path / "e.parquet", out=tmp_path / "e.json")
    assert len(json.loads((tmp_path / "e.json").read_text())["scores"][0]["predicted"]) == len(y)
