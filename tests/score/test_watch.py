"""Steering by ABX: each validation measures the layers, and what embeds later finds the best one."""

import json
from pathlib import Path

import numpy as np
import pytest

import speechssl
from speechssl import cli
from speechssl.models.wav2vec2.model import Wav2Vec2Encoder
from speechssl.score.abx import Frames, Token
from speechssl.score.watch import AbxWatch, effective_rank, few, phone_purity
from tests.conftest import DATA, FEW_DIGITS, TINY_MODEL, desk_with, digits, refused, tiny, write_table

RECIPE = TINY_MODEL + FEW_DIGITS + "[train]\nsteps = 4\nlog_every = 1\nvalid_every = 2\nsave_every = 2\n"


@pytest.fixture(autouse=True)
def desk(tmp_path, monkeypatch):
    return desk_with(tmp_path, monkeypatch, r=RECIPE)


@pytest.fixture
def items(desk):
    """Digits as if they were phones: whole short recordings of two speakers, four of each digit."""
    lines = ["#file onset offset #phone prev-phone next-phone speaker"]
    for speaker in ("jackson", "theo"):
        for digit, take in np.ndindex(3, 4):
            lines.append(f"{digit}_{speaker}_{take} 0.02 0.2 {digit} a b {speaker}")
    (desk / "x.item").write_text("\n".join(lines) + "\n")
    return desk / "x.item"


def run(items, *more):
    call = ["pretrain", "r.toml", "--train", "x.tsv", "--out", "run", "--train.abx", str(items), *more]
    cli.main([*call, "--train.abx_root", str(DATA / "fsdd")])


def test_every_validation_measures_the_layers_and_the_best_is_recorded(items):
    run(items, "--train.best", "abx")
    lines = [json.loads(line) for line in open("run/log.jsonl")]
    found = [line for line in lines if line["split"] == "valid"]
    assert [line["step"] for line in found] == [2, 4]
    for line in found:
        layers = [line[f"abx_{i}"] for i in range(3)]
        assert line["abx"] == min(layers) == layers[int(line["layer"])]
        assert 1 < line["rank"] < 33 and 0 < line["purity"] <= 1
    model = speechssl.load("run/last")
    assert model.best_layer == int(found[-1]["layer"])
    clip = DATA / "fsdd" / "0_theo_0.flac"
    chosen, every = model.embed(clip), model.embed(clip, layer="all")
    np.testing.assert_allclose(chosen, every[model.best_layer], atol=1e-6)
    best = min(found, key=lambda line: line["abx"])["step"]
    assert (items.parent / "run" / "best").resolve().name == f"step-{best:08d}"


def test_the_watch_is_the_tables_measure_on_fewer_tokens(items):
    """The numbers of `speechssl abx`, as there are fewer tokens than the watch takes."""
    network = Wav2Vec2Encoder(tiny()).eval()
    watch = AbxWatch(items, DATA / "fsdd")
    found = watch(network)
    speechssl.SpeechModel(network, None, {}, "x").save("m")
    cli.main(["abx", "m", str(items), "--root", str(DATA / "fsdd"), "--out", "abx.json"])
    scores = json.load(open("abx.json"))["scores"]
    for layer in range(3):
        row = scores[f"layer {layer}"]
        assert found[f"abx_{layer}"] == pytest.approx((row["within"] + row["across"]) / 200, abs=1e-6)


def test_a_probe_steers_where_there_are_no_phones():
    """Eight clips of each digit and speaker at most; the layer that probes best is recorded."""
    write_table(Path("words.tsv"), *digits(150))
    call = [
        "pretrain",
        "r.toml",
        "--train",
        "x.tsv",
        "--out",
        "run",
        "--train.probe",
        "words.tsv",
        "--train.best",
        "probe",
    ]
    cli.main(call)
    found = [json.loads(line) for line in open("run/log.jsonl")]
    last = [line for line in found if line["split"] == "valid"][-1]
    layers = [last[f"probe_{i}"] for i in range(3)]
    assert last["probe"] == min(layers) == layers[int(last["layer"])] and 0.2 < last["probe"] < 1
    assert speechssl.load("run/last").best_layer == int(last["layer"])
    taken = few(np.array(["a"] * 20 + ["b"] * 3), np.array(["x"] * 10 + ["y"] * 13))
    assert taken == [*range(8), *range(10, 18), 20, 21, 22]


def test_effective_rank():
    rng = np.random.default_rng(0)
    assert effective_rank(rng.standard_normal((20_000, 6))) == pytest.approx(6, abs=0.01)
    assert effective_rank(np.outer(rng.standard_normal(99), rng.standard_normal(6))) == pytest.approx(1, abs=1e-3)


def test_phone_purity():
    """Two clouds, one with phone a alone, the other with a and b alike: three frames of four have their cloud's phone."""
    rng = np.random.default_rng(0)
    values_TD = np.repeat(np.eye(2), 200, axis=0) + 0.01 * rng.standard_normal((400, 2))
    tokens = [Token("f", onset, onset + 1, phone, "", "s") for onset, phone in enumerate("aaab")]
    assert phone_purity({"f": Frames(values_TD.astype(np.float32), 100, 0.0)}, tokens, 2) == pytest.approx(0.75)


def test_a_metric_that_does_not_exist(items, capsys):
    call = ["pretrain", "r.toml", "--train", "x.tsv", "--out", "run", "--train.abx", items, "--train.best", "wer"]
    said = refused(capsys, *call, "--train.abx_root", DATA / "fsdd")
    assert "train.best = 'wer' is no metric of the validation; it has abx_0" in said
    assert "gone.item is no file" in refused(capsys, *call[:-3], "gone.item", "--out", "other")
