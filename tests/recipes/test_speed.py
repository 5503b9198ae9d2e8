"""recipes/speed end to end at its smallest, and the answers that are timed are the right ones."""

import json
import re

import numpy as np
import peers
import pytest
import torch
import worker
from bench import main
from system import System
from table import summary
from work import Spec, answers, utterances

from speechssl.models.wav2vec2.model import Wav2Vec2Encoder
from speechssl.use.api import SpeechModel
from speechssl.use.stream import BATCH
from tests.conftest import DATA, tiny

CLIPS = str(DATA / "librispeech_test.tsv")
SECONDS = (1.3, 4.0, 0.7, 2.2, 3.1)


def spec(task: str, **changes) -> Spec:
    given = {"task": task, "size": "tiny", "dtype": "float32", "device": "cpu", "threads": 1, "seed": 1, "data": CLIPS}
    return Spec(**given | {"seconds": SECONDS} | changes)


@pytest.mark.parametrize(
    "task, rival",
    [("pretrain", "transformers"), ("finetune", "torchaudio"), ("embed", "transformers"), ("transcribe", "torchaudio")],
)
def test_times_systems_in_turn(task, rival, tmp_path, capsys):
    sizes = ["--size", "tiny", "--total", "4", "--range", "1", "2", "--rounds", "2", "--threads", "1"]
    sizes += ["--dtype", "float32"]  # bf16 is slow on processors without instructions for it
    main([task, *sizes, "--against", rival, "--out", str(tmp_path / "b.json")])
    shown, result = capsys.readouterr().out, json.loads((tmp_path / "b.json").read_text())
    assert list(result["systems"]) == ["speechssl", rival]
    for name, row in result["systems"].items():
        assert name in shown
        assert len(row["step_seconds"]) == 2 and min(row["step_seconds"]) > 0
        assert 0 < row["share_of_peak"] < 1 and row["peak_memory_bytes"] > 2e8
        assert (row["batch"] is not None) == (name == rival), "rivals run at the batch size that they found fastest"


def test_the_summary_of_known_times():
    """Rounds are compared one by one, so that a busy machine slows both sides of a comparison."""
    ours = System(name="speechssl", process=None, errors=None, seconds=[1.0, 2.0, 4.0], peak=5.0)
    rival = System(name="rival", process=None, errors=None, seconds=[3.0, 4.0, 20.0], batch=8, peak=7.0)
    peaks = [{"torch": 40.0, "onednn": 50.0}, {"torch": 60.0, "onednn": 80.0}]
    found = summary(spec("embed"), [ours, rival], [1.0, 7.0], flops=16.0, peaks=peaks)
    assert found["matmul_peaks"] == {"torch": 60.0, "onednn": 80.0}
    assert (found["audio_seconds"], found["utterances"]) == (8.0, 2)
    assert found["systems"]["speechssl"] == {
        "audio_seconds_per_second": 4.0,
        "times": 1.0,
        "share_of_peak": 0.1,
        "peak_memory_bytes": 5.0,
        "batch": None,
        "step_seconds": [1.0, 2.0, 4.0],
    }
    row = found["systems"]["rival"]
    assert (row["audio_seconds_per_second"], row["times"], row["share_of_peak"]) == (2.0, 3.0, 0.05)


@pytest.mark.parametrize(
    "seconds, best, tried",
    [
        (
            {1: 9.0, 2: 5.0, 4: 4.0, 8: 4.1, 16: 6.0, 32: 1.0},
            4,
            [1, 2, 4, 8, 16],
        ),  # noise does not end it, a slower size does
        ({1: 9.0, 2: 5.0, 4: None, 8: 1.0}, 2, [1, 2, 4]),  # the GPU's memory does
        ({1: 3.0}, 1, [1]),
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

    assert peers.fastest(measure, list(seconds)) == best
    assert seen == tried


@pytest.mark.parametrize("system", ["transformers", "torchaudio"])
def test_a_rival_trains_on_every_utterance_whatever_its_batch_size(system):
    """The gradient of a step in batches of one is that of the whole: the same work, and the better size is a matter of speed."""
    given = spec("finetune", seconds=(2.0, 2.0, 2.0))  # one length: with padding, group norm differs by design
    gradients = []
    for groups in ([(0,), (1,), (2,)], [(0, 1, 2)]):
        torch.manual_seed(1)
        net, run = peers.network(system, given)
        for module in net.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        step = peers.finetuning(given, net, run)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.optim.AdamW, "zero_grad", lambda *_: None)
            step(groups)
        gradients.append({name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None})
    assert gradients[0]
    for name, value in gradients[0].items():
        torch.testing.assert_close(value, gradients[1][name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("system", ["speechssl", "transformers"])
def test_every_system_keeps_freed_memory(system, monkeypatch):
    calls = []
    monkeypatch.setattr(worker, "keep_freed_memory", lambda: calls.append("memory"))
    monkeypatch.setattr(worker, "forget_shapes", lambda: None)
    monkeypatch.setattr("sys.stdin", [])
    worker.work(system, spec("embed", seconds=(1.0,)), lambda **_: None)
    assert calls == ["memory"]


def test_a_folder_is_decoded_too_and_libraries_may_talk(capsys, monkeypatch):
    monkeypatch.setenv("ONEDNN_VERBOSE", "1")  # a line on stdout for every product
    folder = DATA / "librispeech_test"
    words = ["embed", "--size", "tiny", "--dtype", "float32", "--folder", str(folder), "--rounds", "1"]
    main([*words, "--against", "torchaudio"])
    shown = capsys.readouterr().out
    assert "decoding included" in shown
    assert re.search(r"torchaudio x\d+ ", shown), "the batch size that it found fastest"


@pytest.mark.parametrize("dtype, limit", [("float32", 1e-5), ("bf16", 0.02)])
def test_packed_answers_are_those_of_one_clip_at_a_time_in_order(dtype, limit, monkeypatch):
    model = SpeechModel(Wav2Vec2Encoder(tiny()).eval(), None, {}, "tiny", precision=dtype)
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
    ours = Wav2Vec2Encoder(given.config).eval()
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
        (["embed", "--folder", "tests/recipes"], "holds no audio"),
        (["embed", "--size", "huge"], "invalid choice"),
    ],
)
def test_complaints(words, complaint, capsys):
    with pytest.raises(SystemExit):
        main([*words, *([] if "--size" in words else ["--size", "tiny"])])
    assert complaint in capsys.readouterr().err
