"""`speechssl bench` end to end at its smallest, and the answers that are timed are the right ones."""

import json
import re

import numpy as np
import pytest
import torch

from speechssl.bench import peers
from speechssl.bench.work import Spec, answers, utterances
from speechssl.cli import main
from speechssl.models.wav2vec2.model import Headless
from speechssl.use.api import SpeechModel
from speechssl.use.stream import BATCH
from tests.conftest import DATA, tiny

CLIPS = str(DATA / "librispeech_test.tsv")
SECONDS = (1.3, 4.0, 0.7, 2.2, 3.1)


def spec(task: str, **changes) -> Spec:
    given = {"task": task, "size": "tiny", "dtype": "float32", "device": "cpu", "threads": 1, "seed": 1, "data": CLIPS}
    return Spec(**given | {"seconds": SECONDS} | changes)


@pytest.mark.parametrize("task", ["pretrain", "finetune", "embed", "transcribe"])
def test_times_systems_in_turn(task, tmp_path, capsys):
    rivals = ["transformers"] if task == "pretrain" else ["transformers", "torchaudio"]
    sizes = ["--size", "tiny", "--total", "4", "--range", "1", "2", "--rounds", "2", "--threads", "1"]
    main(["bench", task, *sizes, "--against", *rivals, "--out", str(tmp_path / "b.json")])
    shown, result = capsys.readouterr().out, json.loads((tmp_path / "b.json").read_text())
    assert list(result["systems"]) == ["speechssl", *rivals]
    ours = result["systems"]["speechssl"]["step_seconds"]
    for name, row in result["systems"].items():
        assert name in shown
        assert len(row["step_seconds"]) == 2 and min(row["step_seconds"]) > 0
        assert row["times"] == pytest.approx(np.median(np.divide(row["step_seconds"], ours)))
        assert 0 < row["share_of_peak"] < 1 and row["peak_memory_bytes"] > 2e8
    assert (result["systems"]["transformers"]["batch"] is not None) == (task in ("embed", "transcribe"))


def test_a_folder_is_decoded_too_and_libraries_may_talk(capsys, monkeypatch):
    monkeypatch.setenv("ONEDNN_VERBOSE", "1")  # a line on stdout for every product
    folder = DATA / "librispeech_test"
    main(["bench", "embed", "--size", "tiny", "--folder", str(folder), "--rounds", "1", "--against", "torchaudio"])
    shown = capsys.readouterr().out
    assert "decoding included" in shown
    assert re.search(r"torchaudio x\d+ ", shown), "the batch size that it found fastest"


@pytest.mark.parametrize("dtype, limit", [("float32", 1e-5), ("bf16", 0.02)])
def test_packed_answers_are_those_of_one_clip_at_a_time_in_order(dtype, limit, monkeypatch):
    model = SpeechModel(Headless(tiny()).eval(), None, {}, "tiny", precision=dtype)
    waves = utterances(spec("embed"))
    assert [round(len(wave) / 16_000, 1) for wave in waves] == list(SECONDS)
    monkeypatch.setitem(BATCH, "cpu", 6.0)
    together = answers(model, waves, True)
    for packed, wave in zip(together, waves, strict=True):
        alone = answers(model, [wave], True)[0]
        assert np.linalg.norm(packed - alone) <= limit * np.linalg.norm(alone)


def test_the_rivals_compute_the_same_network():
    """With our weights, transformers' timed step gives our embedding: what is compared is the same work."""
    given = spec("embed", seconds=(2.0,))
    net, run = peers.network("transformers", given)
    ours = Headless(given.config).eval()
    theirs = {f"wav2vec2.{name}": value for name, value in net.state_dict().items()}
    ours.load_state_dict(theirs, strict=False)
    wave = utterances(given)[0]
    mine = SpeechModel(ours, None, {}, "tiny").hidden_states([wave])[0][-1]
    net.eval()
    with torch.inference_mode():
        frames, count = run(torch.from_numpy(wave)[None], torch.tensor([len(wave)]))
    assert int(count) == len(mine)
    torch.testing.assert_close(frames[0], mine, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize(
    "words, complaint",
    [
        (["pretrain", "--against", "torchaudio"], "torchaudio has no pretrain step"),
        (["pretrain", "--folder", "x"], "--folder goes with embed and transcribe"),
        (["embed", "--data", "nowhere.tsv"], "nowhere.tsv does not exist"),
        (["embed", "--range", "5", "2"], "--range wants"),
        (["embed", "--range", "1", "inf"], "--range wants"),
        (["embed", "--total", "inf"], "--total a number"),
        (["embed", "--seed", "-1"], "--seed not negative"),
        (["embed", "--out", "."], "is a folder; name the file"),
        (["embed", "--folder", "tests/bench"], "holds no audio"),
        (["embed", "--size", "huge"], "invalid choice"),
    ],
)
def test_complaints(words, complaint, capsys):
    with pytest.raises(SystemExit):
        main(["bench", *words, *([] if "--size" in words else ["--size", "tiny"])])
    assert complaint in capsys.readouterr().err
