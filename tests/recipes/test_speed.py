"""recipes/speed end to end at its smallest, and what is compared is the same work."""

import json

import pytest
import rival
import torch
from bench import main
from work import Spec, embedding, utterances

from speechssl.models.wav2vec2.model import Wav2Vec2Encoder
from speechssl.use.stream import BATCH


def test_times_both_in_turn(tmp_path, capsys):
    words = "pretrain --size tiny --dtype float32 --total 4 --range 1 2 --rounds 2 --threads 1 --against transformers"
    main([*words.split(), "--out", str(tmp_path / "b.json")])
    shown, result = capsys.readouterr().out, json.loads((tmp_path / "b.json").read_text())
    assert list(result["systems"]) == ["speechssl", "transformers"]
    for name, row in result["systems"].items():
        assert name in shown
        assert len(row["step_seconds"]) == 2 and min(row["step_seconds"]) > 0
        assert 0 < row["share_of_peak"] < 1 and row["peak_memory_bytes"] > 2e8
        assert (row["batch"] is None) == (name == "speechssl"), "the rival runs at the batch size that it found fastest"


@pytest.mark.parametrize(
    "seconds, best, tried",
    [
        # noise does not end the search, a slower size does
        ({1: 9.0, 2: 5.0, 4: 4.0, 8: 4.1, 16: 6.0, 32: 1.0}, 4, [1, 2, 4, 8, 16]),
        ({1: 9.0, 2: 5.0, 4: None, 8: 1.0}, 2, [1, 2, 4]),  # the GPU's memory does
        ({1: 4.0, 2: 3.0, 4: 2.0}, 4, [1, 2, 4]),
    ],
)
def test_the_fastest_batch_size_is_searched_upwards(seconds, best, tried):
    seen = []

    def measure(size: int) -> float:
        seen.append(size)
        if seconds[size] is None:
            raise torch.OutOfMemoryError
        return seconds[size]

    assert rival.fastest(measure, list(seconds)) == best
    assert seen == tried


def test_both_compute_the_same_vectors(monkeypatch):
    """With transformers' weights, our packed vectors are those of its batch, in order."""
    given = Spec(
        "embed", "tiny", "float32", "cpu", 1, 1, (1.3, 1.3, 1.3)
    )  # one length: group norm differs with padding
    theirs = rival.network(given)
    own = Wav2Vec2Encoder(given.config)
    weights = {f"wav2vec2.{name}": value for name, value in theirs.state_dict().items()}
    assert not own.load_state_dict(weights, strict=False).missing_keys
    monkeypatch.setattr("work.Wav2Vec2Encoder", lambda config: own)
    monkeypatch.setitem(BATCH, "cpu", 3.0)
    step, _ = embedding(given)
    assert [len(wave) for wave in utterances(given)] == given.samples
    ours, padded = step(), rival.step_of(given, theirs)([(0, 1, 2)])
    for mine, other in zip(ours, padded, strict=True):
        torch.testing.assert_close(torch.from_numpy(mine), torch.from_numpy(other), atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize(
    "words, complaint",
    [
        (["--range", "5", "2"], "--range wants"),
        (["--total", "inf"], "--total a number"),
        (["--seed", "-1"], "--seed not negative"),
        (["--out", "."], "is a folder; name the file"),
        (["--size", "huge"], "invalid choice"),
    ],
)
def test_complaints(words, complaint, capsys):
    with pytest.raises(SystemExit):
        main(["embed", *words])
    assert complaint in capsys.readouterr().err
