"""Mistakes of a user, in every verb: one sentence with file, value and remedy, exit code 2, nothing left behind."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechssl import cli
from tests.conftest import CLIP, FEW_DIGITS, desk_with, digits, refused, write_table
from tests.train.test_folder import RECIPE as PRETRAIN

FINETUNE = (
    FEW_DIGITS
    + """\
[objective]
mask_prob = 0.0
channel_prob = 0.0
freeze_steps = 0
[train]
steps = 2
log_every = 1
save_every = 2
precision = "float32"
"""
)


@pytest.fixture(autouse=True)
def desk(tmp_path, monkeypatch) -> Path:
    """A working folder with two recipes and a good manifest."""
    return desk_with(tmp_path, monkeypatch, pretrain=PRETRAIN, finetune=FINETUNE)


def nan(path: Path) -> None:
    """A float wav with one NaN."""
    wave_S = soundfile.read(CLIP, dtype="float32")[0]
    wave_S[100] = np.nan
    soundfile.write(path, wave_S, 16_000, subtype="FLOAT")


FILES = {
    "gone.wav": (
        lambda path: None,
        "is missing; is the name right? If it is from a manifest, run `speechssl prepare` again",
    ),
    "empty.wav": (lambda path: path.write_bytes(b""), "is an empty file; copy it again or leave it out"),
    "text.wav": (lambda path: path.write_text("I am a text"), "cannot be decoded (Format not recognised); is it audio"),
    "cut.flac": (
        lambda path: path.write_bytes(CLIP.read_bytes()[:3000]),
        "is truncated (0 of 32720 samples); copy it again",
    ),
    "loud.wav": (
        lambda path: soundfile.write(path, 9000 * soundfile.read(CLIP)[0], 16_000, subtype="FLOAT"),
        "but audio lies within ±1; divide 16-bit values by 32768",
    ),
    "nan.wav": (nan, "holds NaN or infinite samples; it is damaged, leave it out"),
    "none.wav": (lambda path: soundfile.write(path, np.zeros(0), 16_000), "holds no audio; leave it out"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_bad_file_is_reported_by_every_verb(name, desk, ctc_folder, capsys):
    make, complaint = FILES[name]
    make(desk / name)
    bad = write_table(desk / "bad.tsv", {"path": name, "duration": 1.5, "text": "one", "speaker": "a"})
    calls = [
        ["pretrain", "pretrain.toml", "--train", bad, "--out", "run"],
        ["finetune", "finetune.toml", "--init", ctc_folder, "--train", bad, "--out", "run2"],
        ["evaluate", ctc_folder, bad],
        ["transcribe", ctc_folder, desk / name],
        ["embed", ctc_folder, bad, "--out", "e.parquet"],
    ]
    for call in calls:
        text = refused(capsys, *call)
        assert name in text and complaint in text, (call[0], text)


def test_a_bad_file_is_found_in_the_middle_of_training(desk, capsys):
    nan(desk / "nan.wav")
    bad = write_table(desk / "bad.tsv", *digits(), {"id": "x", "path": "nan.wav", "duration": 1.5})
    text = refused(capsys, "pretrain", "pretrain.toml", "--train", bad, "--out", "run", "--data.workers", "1")
    assert "nan.wav holds NaN" in text


MANIFESTS = {
    "missing column": ([{"sound": "a.wav"}], "bad.tsv has no column `path`; its first line must name the columns"),
    "duplicate ids": ([{"id": "a", "path": "1"}, {"id": "a", "path": "2"}], "have the same id 'a'; ids must differ"),
    "no durations": (
        [{"id": "a", "path": CLIP, "duration": 2}, {"id": "b", "path": CLIP}],
        "has no duration in the manifest; let `speechssl prepare MANIFEST",
    ),
    "all too short": (
        [{"path": CLIP, "duration": 0.1}],
        "no utterance is at least 0.2 s long (the longest has 0.10 s)",
    ),
    "no number": ([{"path": CLIP, "duration": "long"}], "line 2: duration = 'long' is not a number of seconds"),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_bad_manifest_is_reported_before_a_run_is_made(name, desk, capsys):
    rows, complaint = MANIFESTS[name]
    bad = write_table(desk / "bad.tsv", *rows)
    assert complaint in refused(capsys, "pretrain", "pretrain.toml", "--train", bad, "--out", "run")
    assert not Path("run").exists()


def row(text: str, **changes) -> dict[str, object]:
    """A digit with another transcript."""
    return {**digits()[0], "text": text, **changes}


TRANSCRIPTS = {
    "characters outside": (
        "naïve",
        "training data, {id}: the character 'ï' of the transcript 'naïve' is not in the vocab",
    ),
    "empty": ("", "training data: no row has a transcript; fine-tuning needs the column `text`"),
    "only punctuation": ("…!", "training data: no row has a transcript"),
    "longer than the frames": ("one two three " * 9, "every transcript is longer than its audio has frames"),
}


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_bad_transcripts(name, desk, ctc_folder, capsys):
    text, complaint = TRANSCRIPTS[name]
    bad = write_table(desk / "bad.tsv", row(text))
    call = ["finetune", "finetune.toml", "--init", ctc_folder, "--train", bad, "--out", "run"]
    said = refused(capsys, *call, "--text.vocab", ctc_folder / "vocab.json")
    assert complaint.format(id=row("")["id"]) in said
    assert not Path("run").exists()


def test_bad_transcripts_among_good_ones_are_counted(desk, ctc_folder, capsys):
    rows = [*digits(), row("", id="silent"), row("one two three " * 9, id="hasty")]
    call = ["--train", write_table(desk / "some.tsv", *rows), "--out", "run"]
    cli.main([str(word) for word in ["finetune", "finetune.toml", "--init", ctc_folder, *call]])
    said = capsys.readouterr().err
    assert f"1 of {len(rows)} utterances have no transcript and are left out" in said
    assert f"1 of {len(rows) - 1} transcripts are longer than their audio's frames" in said and "hasty" in said


def test_validation_transcripts_outside_the_vocabulary_are_reported_before_training(desk, ctc_folder, capsys):
    valid = write_table(desk / "valid.tsv", row("Zürich"))
    call = ["finetune", "finetune.toml", "--init", ctc_folder, "--train", "x.tsv", "--valid", valid, "--out", "run"]
    text = refused(capsys, *call, "--text.vocab", ctc_folder / "vocab.json")
    assert "validation data" in text and "'ü'" in text
    assert not Path("run").exists()


def test_unknown_characters_in_a_test_transcript_are_errors_to_count_not_to_stop_at(desk, ctc_folder, capsys):
    table = write_table(desk / "test.tsv", row("Пять 五"))
    cli.main(["evaluate", str(ctc_folder), str(table)])
    assert "WER" in capsys.readouterr().out


def test_every_script_can_be_learned(desk, pretrained_folder):
    """Decomposed letters, Cyrillic, Chinese and Hindi, from a file name of each; the vocabulary is made of them."""
    texts = ["cafe\u0301", "привет", "你好", "नमस्ते"]
    for text in texts:
        soundfile.write(desk / f"{text}.wav", soundfile.read(CLIP)[0], 16_000)
    rows = [{"path": f"{text}.wav", "text": text, "duration": 2.0} for text in texts]
    table = write_table(desk / "mix.tsv", *rows)
    call = ["finetune", "finetune.toml", "--init", pretrained_folder, "--train", table, "--out", "run"]
    cli.main([str(word) for word in call])
    vocab = (desk / "run" / "last" / "vocab.json").read_text(encoding="utf-8")
    assert all(f'"{c}"' in vocab for c in "éпр你好न\u094d\u0947")


def test_a_run_is_continued_only_with_its_own_vocabulary_and_objective(desk, ctc_folder, capsys):
    call = ["finetune", "finetune.toml", "--init", str(ctc_folder), "--out", "run", "--train"]
    cli.main([*call, "x.tsv"])
    other = write_table(desk / "other.tsv", *[{**r, "text": str(r["text"]).replace("o", "ö")} for r in digits()])
    text = refused(capsys, *call, other, "--resume", "--train.steps", "4")
    assert "cannot be continued: its vocabulary" in text and "vocab.json" in text
    text = refused(capsys, "pretrain", "pretrain.toml", "--train", "x.tsv", "--out", "run", "--resume")
    assert "recipe.toml: kind = 'ctc' must be one of" in text and "for `speechssl pretrain`" in text
    assert "holds another run; add --resume" in refused(capsys, *call, "x.tsv")


@pytest.mark.parametrize(
    "key, value, complaint",
    [
        ("optim.lrr", "1", "no key optim.lrr; did you mean optim.lr?"),
        ("train.steps", "many", "train.steps = 'many' must be a whole number"),
        ("train.seed", "-1", "train.seed = -1 cannot be negative"),
        ("train.device", "gpu", "there is no device 'gpu'; this machine has cpu"),
        ("optim.betas", "2,0.9", "optim.betas = [2.0, 0.9] must lie in [0, 1)"),
        ("optim.weight_decay", "-1", "optim.weight_decay"),
        ("model.hidden_size", "0", "model.hidden_size = 0 must be at least 1"),
        ("model.num_hidden_layers", "-1", "model.num_hidden_layers = -1 must be at least 1"),
        ("model.conv_stride", "0,2,2,2,2,2,2", "model.conv_stride = (0, 2, 2, 2, 2, 2, 2) must be at least 1"),
        ("objective.logit_temperature", "0", "objective.logit_temperature = 0.0 must be greater than 0"),
        ("data.min_seconds", "1000", "no utterance is at least 1000.0 s long"),
    ],
)
def test_values_that_cannot_be(key, value, complaint, capsys):
    call = ["pretrain", "pretrain.toml", "--train", "x.tsv", "--out", "run", f"--{key}", value]
    assert complaint in refused(capsys, *call)
    assert not Path("run").exists()


def test_outputs_that_would_destroy_or_cannot_be_made(desk, ctc_folder, capsys):
    calls = {
        "is a folder; name the file to write": [
            ["prepare", CLIP.parent, "--out", "."],
            ["embed", ctc_folder, CLIP, "--out", ctc_folder],
        ],
        "x.tsv cannot be made (File exists); choose another --out": [
            ["transcribe", ctc_folder, CLIP, "--out", "x.tsv"],
            ["evaluate", ctc_folder, "x.tsv", "--out", "x.tsv"],
        ],
        "would be a .parquet file; name it so, such as keep.parquet": [
            ["embed", ctc_folder, CLIP, "--out", "keep.flac"],
        ],
        "would be a .tsv file": [["prepare", CLIP.parent, "--out", "x.jsonl"]],
        "--where would leave only some rows of x.tsv": [["prepare", "x.tsv", "--out", "x.tsv", "--where", "label=1"]],
        "2 files do not fit into one srt; name a folder": [["transcribe", ctc_folder, CLIP, CLIP, "--format", "srt"]],
        "x.json exists; choose another name, nothing is overwritten": [
            ["convert", ctc_folder, "x.pth", "--to", "torchaudio"],
        ],
        "is neither a run nor an empty folder; choose another --out": [
            ["pretrain", "pretrain.toml", "--train", "x.tsv", "--out", "x.tsv"],
            ["pretrain", "pretrain.toml", "--train", "x.tsv", "--out", desk, "--resume"],
        ],
    }
    Path("x.json").write_text("mine")
    before = Path("x.tsv").read_bytes()
    for complaint, group in calls.items():
        for call in group:
            assert complaint in refused(capsys, *call)
    assert Path("x.tsv").read_bytes() == before


def test_models_that_cannot_do_it(desk, pretrained_folder, ctc_folder, capsys):
    shutil.copytree(ctc_folder, "cut")
    (desk / "cut" / "model.safetensors").write_bytes(b"half")
    for call, complaint in (
        (["transcribe", pretrained_folder, CLIP], "has no CTC head"),
        (["evaluate", pretrained_folder, "x.tsv"], "has no CTC head"),
        (["transcribe", "cut", CLIP], "cut/model.safetensors cannot be read"),
        (["embed", "cut", CLIP, "--out", "e.parquet"], "it is damaged or cut short, copy it again"),
        (["embed", "finetune.toml", CLIP, "--out", "e.parquet"], "it is not a file of torch.save"),
        (["transcribe", ctc_folder, desk], "no audio found in"),
        (["evaluate", ctc_folder, "x.tsv", "--device", "gpu"], "there is no device 'gpu'"),
        (["evaluate", ctc_folder, "x.tsv", "--normaliser", "bsic"], "invalid choice: 'bsic'"),
        (["probe", "x.tsv"], "x.tsv is not a Parquet file"),
    ):
        assert complaint in refused(capsys, *call)


def test_names_that_no_terminal_can_show_do_not_end_a_verb(desk, ctc_folder, capsys):
    strange = (b"caf\xe9.flac").decode("utf-8", "surrogateescape")
    shutil.copy(CLIP, desk / strange)
    with pytest.raises(SystemExit) as stop:
        cli.main(["transcribe", str(ctc_folder), strange, str(CLIP)])
    captured = capsys.readouterr()
    assert stop.value.code == 2
    assert "bytes that are not UTF-8; rename the file" in captured.err and str(CLIP) in captured.out
