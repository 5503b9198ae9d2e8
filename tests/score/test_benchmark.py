"""Protocols split as published, report their leaks, choose without the test clips; CREMA-D is read as downloads leave it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from speechssl import cli
from speechssl.core.errors import InputError
from speechssl.data.corpora import find_rows
from speechssl.data.cremad import LEFT_OUT, missing, read_crema_d
from speechssl.score.benchmark import benchmark
from speechssl.score.heads import HEADS, Fold, Setting, build_network, hear_settings, to_tensors
from speechssl.score.protocols import PROTOCOLS, leaks
from speechssl.score.runner import run_protocol
from speechssl.score.task import read_task
from tests.conftest import DATA
from tests.models.byols_reference import REFERENCE

ACTORS = np.array([str(actor) for actor in range(1001, 1092) for _ in range(3)])
IDS = [f"{actor}_{i % 3}" for i, actor in enumerate(ACTORS)]
SERAB_TEST = [
    *("1010", "1013", "1022", "1026", "1037", "1038", "1040", "1045", "1047", "1048"),
    *("1059", "1065", "1066", "1068", "1071", "1073", "1084", "1086", "1088"),
]
EMOTIONS = ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD")


def splits(name: str, task: str = "crema-d", speakers: np.ndarray = ACTORS, seed: int = 1):
    """A protocol's splits of three clips a speaker."""
    labels = np.array([str(i % 3) for i in range(len(speakers))])
    return PROTOCOLS[name].splits([f"{s}_{i}" for i, s in enumerate(speakers)], labels, speakers, task, seed)


def test_serab_is_the_published_split():
    (split,) = splits("serab")
    assert sorted(set(ACTORS[split.test])) == SERAB_TEST
    ravdess = np.array([f"{actor:02d}" for actor in range(1, 25)])
    assert sorted(ravdess[splits("serab", "ravdess", ravdess)[0].test]) == ["01", "04", "13", "16", "22"]
    emodb = np.array(["03", "08", "09", "10", "11", "12", "13", "14", "15", "16"])
    assert sorted(emodb[splits("serab", "emodb", emodb)[0].test]) == ["03", "12"]


@pytest.mark.parametrize("name, key", [("serab", "serab_tfds"), ("evar", "evar")])
def test_splits_are_those_of_the_public_code(name, key):
    (split,) = splits(name)
    labels = ("train", "valid" if name == "evar" else "validation", "test")
    for part, label in zip((split.train, split.valid, split.test), labels, strict=True):
        assert sorted(set(ACTORS[part])) == sorted(REFERENCE[f"cremad_{key}_{label}"])


def test_few_shots():
    """Eight clips of each class; FSDD's test is its takes 0 to 4 whatever the draw, and never in training."""
    ids = [f"{digit}_{name}_{take}" for digit in range(10) for name in ("theo", "jackson") for take in range(50)]
    labels, speakers = np.array([name[0] for name in ids]), np.array([name.split("_")[1] for name in ids])
    for seed in PROTOCOLS["maeb"].seeds:
        (split,) = PROTOCOLS["maeb"].splits(ids, labels, speakers, "other", seed)
        assert sorted(labels[split.known]) == sorted("0123456789" * 8)
        assert [ids[i] for i in split.test] == [name for name in ids if int(name.split("_")[2]) < 5]
        assert not set(split.known) & set(split.test)
        (split,) = PROTOCOLS["maeb"].splits([*ids[:-1], "x"], labels, speakers, "other", seed)
        assert sorted([*split.known, *split.test]) == list(range(len(ids)))


@pytest.mark.parametrize("name", PROTOCOLS)
def test_who_leaks(name):
    found = splits(name)
    for split in found:
        assert not set(split.known) & set(split.test)
    assert (leaks(found, ACTORS) > 0) == (name in ("hear", "emobox", "maeb")), (
        "only these leak on CREMA-D, as their flaws say"
    )
    if name in ("unseen", "loso"):
        assert sorted(np.concatenate([split.test for split in found])) == list(range(len(ACTORS)))
        for split in found:
            assert not set(ACTORS[split.train]) & set(ACTORS[split.valid])


def scored(name: str, named: dict[str, np.ndarray], labels: list[str], speakers: list[str]):
    """What a protocol gives for some matrices."""
    ids, y, groups = list(map(str, range(len(labels)))), np.array(labels), np.array(speakers)
    return run_protocol(PROTOCOLS[name], named, ids, y, groups, task="other", model="m")


def vectors(seed: int = 0, noise: float = 1.0) -> tuple[np.ndarray, list[str], list[str]]:
    """Six speakers of thirty clips: vectors of three classes, each with an offset of its speaker."""
    rng = np.random.default_rng(seed)
    labels = [c for _ in range(6) for c in "abc" * 10]
    speakers = [f"s{s}" for s in range(6) for _ in range(30)]
    x = noise * rng.normal(size=(180, 8)) + 2.5 * np.eye(8)[[ord(c) - 97 for c in labels]]
    return x + rng.normal(size=(6, 8))[[int(s[1]) for s in speakers]], labels, speakers


@pytest.mark.parametrize("name", ["unseen", "loso", "emobox"])
def test_a_score_tells_signal_from_noise(name):
    x, labels, speakers = vectors()
    noise = np.random.default_rng(5).normal(size=x.shape)
    result = scored(name, {"good": x, "noise": noise}, labels, speakers)
    good, bad = result.scores
    assert good.uar_interval[0] <= good.uar <= good.uar_interval[1]
    assert good.uar > 0.6 > 0.5 > bad.uar
    assert set(good.groups) == set(speakers)
    assert f"UAR other/{name}" in str(result)
    assert ("leak: " in str(result)) == (name == "emobox")


@pytest.mark.parametrize("name", ["logistic", "evar", "emobox"])
def test_heads_never_see_the_test_labels(name):
    """They are not even given them; and test clips change nothing about each other."""
    x, labels, _ = vectors()
    y = np.array(labels)
    choices = [(np.arange(90), np.arange(90, 120))]
    fold = Fold(x_known=x[:120], y_known=y[:120], x_test=x[120:], choices=choices)
    (together,) = HEADS[name]([fold], 1)
    (alone,) = HEADS[name]([replace(fold, x_test=x[150:])], 1)
    assert (together.chosen[30:] == alone.chosen).all()


def test_serab_shows_both_choices(monkeypatch):
    from sklearn.linear_model import LogisticRegression
    from sklearn.naive_bayes import GaussianNB

    grid = [("LR", LogisticRegression()), ("NB", GaussianNB())]
    monkeypatch.setattr("speechssl.score.heads.serab_models", lambda: iter(grid))
    x, labels, speakers = vectors()
    result = scored("serab", {"x": x}, labels, speakers)
    chosen, published = result.scores
    assert "chosen on TEST as published" in published.vectors
    assert published.accuracy >= chosen.accuracy


def crema_d(folder: Path, actors=("1001", "1002", "1003"), clips: int = 2) -> Path:
    """A tree of CREMA-D's shape with real speech under its file names."""
    speech = sorted((DATA / "fsdd").glob("*.flac"))
    for i, actor in enumerate(actors):
        for j in range(clips):
            for k, emotion in enumerate(EMOTIONS):
                wave, rate = soundfile.read(speech[(i * 12 + j * 6 + k) * 7])
                soundfile.write(folder / f"{actor}_{['IEO', 'DFA'][j]}_{emotion}_XX.wav", wave, rate)
    return folder


def test_crema_d_as_people_have_it(tmp_path):
    crema_d(tmp_path, ("1001", "1002"), clips=1)
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    (tmp_path / "1003_DFA_ANG_XX.wav").write_text(pointer)
    (tmp_path / "1001_IEO_ANG_XX.mp3").write_text(pointer)
    (tmp_path / "1002_WSI_SAD_XX.flv").write_text("video")
    (tmp_path / f"{LEFT_OUT[0]}.wav").write_bytes((tmp_path / "1001_IEO_NEU_XX.wav").read_bytes())
    rows = {row.id: row for row in read_crema_d(sorted(tmp_path.rglob("*.*")), tmp_path)}
    assert len(rows) == 12 + 1 + 1
    assert rows["1001_IEO_ANG_XX"].path.endswith(".wav")
    assert (rows["1001_IEO_ANG_XX"].speaker, rows["1001_IEO_ANG_XX"].label) == ("1001", "anger")
    notes = "; ".join(missing(tmp_path))
    for part in ("1 clips are git-lfs pointers", "1 clips exist as .flv", "7429 of CREMA-D's 7442", LEFT_OUT[0]):
        assert part in notes
    task = read_task(tmp_path, "auto", leave_out=LEFT_OUT)
    assert task.name == "crema-d"
    assert len(task.rows) == 12


def test_pointers_only_is_one_sentence(tmp_path):
    (tmp_path / "1003_DFA_ANG_XX.wav").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(InputError, match="1 git-lfs pointers; run `git lfs pull`"):
        missing(tmp_path)


@pytest.mark.parametrize(
    "names, corpus, label, speaker",
    [
        (["DC_sa01", "JE_a02", "KL_n03"], "savee", "sadness", "DC"),
        (["OAF_back_ps", "YAF_bar_sad", "OAF_base_fear"], "tess", "surprise", "OAF"),
        (["dis-f1-b1", "gio-m2-l2", "neu-m3-d1"], "emovo", "disgust", "f1"),
    ],
)
def test_emotion_corpora_are_recognised(names, corpus, label, speaker, tmp_path):
    for name in names:
        (tmp_path / f"{name}.wav").touch()
    task = read_task(tmp_path, "auto")
    assert find_rows(tmp_path)[1] == task.name == corpus
    assert (task.rows[0].label, task.rows[0].speaker) == (label, speaker)


def test_the_whole_benchmark_writes_json_and_one_page(tmp_path):
    result = benchmark("byol-s", crema_d(tmp_path), out=tmp_path / "out")
    assert [score.vectors for score in result.scores] == ["model", "random weights", "log-mel statistics"]
    saved = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    assert (saved["protocol"], saved["task"], saved["leaked"], saved["seeds"]) == (
        "unseen",
        "crema-d",
        0,
        [1, 2, 3, 4, 5],
    )
    page = (tmp_path / "out" / "benchmark.html").read_text()
    assert page.count("<figure>") == 4
    assert "<audio" in page
    assert "7406 of CREMA-D" in page
    assert "http" not in page.replace("http-equiv", ""), "nothing is loaded from elsewhere"


def test_wrong_calls_are_told(tmp_path):
    with pytest.raises(InputError, match="no protocol 'herv'; choose one of unseen"):
        benchmark("byol-s", tmp_path, protocol="herv")
    with pytest.raises(InputError, match="evar is published for crema-d only"):
        splits("evar", "ravdess")
    with pytest.raises(InputError, match=r"2 speakers are too few .* take --protocol unseen, hear or emobox"):
        splits("serab", speakers=np.array(["a", "b"]))
    with pytest.raises(InputError, match=r"1 speakers are too few .* take --protocol hear or emobox"):
        splits("unseen", speakers=np.array(["a", "a"]))
    with pytest.raises(InputError, match="1 clips have no speaker"):
        splits("loso", speakers=np.array(["a", "b", ""]))


def test_clips_that_lie_there_twice_are_heard_once(tmp_path):
    """Kaggle's RAVDESS holds every clip twice: under another protocol than ours the copy would be tested after training on it."""
    crema_d(tmp_path)
    (tmp_path / "again").mkdir()
    for path in tmp_path.glob("*.wav"):
        shutil.copy(path, tmp_path / "again")
    for name in ("03-01-01-01-01-01-01", "03-01-06-01-02-01-12", "03-01-08-02-02-02-24"):
        for folder in ("a", "b/a"):
            (tmp_path / "ravdess" / folder).mkdir(parents=True, exist_ok=True)
            (tmp_path / "ravdess" / folder / f"{name}.wav").touch()
    (tmp_path / "ravdess/a/03-01-01-01-01-01-01.mp4").touch()
    task = read_task(tmp_path / "ravdess", "auto")
    assert (task.name, len(task.rows)) == ("ravdess", 3)
    assert {Path(row.path).suffix for row in task.rows} == {".wav"}
    assert "4 clips exist twice" in task.notes[0]
    rows = read_task(tmp_path, "crema-d").rows
    assert len({row.id for row in rows}) == len(rows) == 36


def test_folders_of_classes_are_labels(tmp_path):
    for name in ("joy/1.wav", "joy/2.wav", "großer Ärger/1.wav", "großer Ärger/x.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    task = read_task(tmp_path, "auto")
    assert task.name == "other"
    assert {(row.label, row.speaker) for row in task.rows} == {("joy", ""), ("großer Ärger", "")}
    assert "the names of the folders are used" in task.notes[0]
    with pytest.raises(InputError, match=r"4 clips have no speaker.* take --protocol hear or emobox"):
        benchmark("byol-s", tmp_path, out=tmp_path / "out")


def test_a_link_to_crema_d_is_followed(tmp_path):
    (tmp_path / "far").mkdir()
    crema_d(tmp_path / "far", ("1001", "1002"), clips=1)
    (tmp_path / "near").mkdir()
    (tmp_path / "near" / "AudioWAV").symlink_to(tmp_path / "far")
    (tmp_path / "far" / "1040_ITH_SAD_X.wav").touch()
    assert len(read_task(tmp_path / "near", "auto", leave_out=LEFT_OUT).rows) == 12


def test_two_speakers_test_each_other():
    x, labels, _ = vectors()
    speakers = ["a"] * 90 + ["b"] * 90
    for name in ("unseen", "loso"):
        result = scored(name, {"x": x}, labels, speakers)
        assert result.leaked == 0
        assert "two speakers" in result.notes[0]
        assert result.scores[0].accuracy > 0.6


@pytest.mark.parametrize("name", ["unseen", "loso", "hear", "emobox", "serab"])
def test_one_clip_of_a_class_costs_that_clip_only(name, monkeypatch):
    from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
    from sklearn.linear_model import LogisticRegression

    grid = [("QDA", QuadraticDiscriminantAnalysis()), ("LR", LogisticRegression())]  # the first cannot fit one clip
    monkeypatch.setattr("speechssl.score.heads.serab_models", lambda: iter(grid))
    x, labels, speakers = vectors()
    labels = ["rare", *labels[1:]]
    result = scored(name, {"x": x}, labels, speakers)
    assert result.scores[0].accuracy > 0.6
    if name != "serab":  # its one split tests other speakers
        assert any("class 'rare'" in note for note in result.notes)
        assert result.scores[0].recall["rare"] == 0


def test_unknown_speakers_are_no_certainty():
    x, labels, _ = vectors(noise=3)
    result = scored("hear", {"x": x}, labels, [""] * 180)
    low, high = result.scores[0].uar_interval
    assert low < high
    assert result.leaked is None
    assert "bootstrap over clips" in str(result) and "leak: unknown" in str(result)


def test_hear_draws_the_published_settings():
    """Depth, normal or uniform, learning rate: what the public script prints with its seed."""
    drawn = [(len(s.hidden), s.xavier_normal, s.lr) for s in hear_settings()]
    assert drawn == [
        (1, True, 1e-4),
        (2, False, 1e-3),
        (1, True, 1e-3),
        (1, True, 3.2e-4),
        (2, True, 3.2e-4),
        (2, False, 3.2e-4),
        (2, True, 3.2e-3),
        (2, False, 3.2e-3),
    ]


def test_folders_in_folders_are_not_guessed(tmp_path):
    """As in ESD (speaker/emotion/clip) and CaFE (emotion/intensity/clip): nothing says which level is the class."""
    for speaker in ("0001", "0002"):
        for emotion in ("Angry", "Sad"):
            (tmp_path / "all" / speaker / emotion).mkdir(parents=True)
            (tmp_path / "all" / speaker / emotion / f"{speaker}_1.wav").touch()
    with pytest.raises(
        InputError, match=r"level 2: 0001, 0002 \.\.\.; level 3: Angry, Sad \.\.\..* --pattern"
    ) as refusal:
        read_task(tmp_path, "other")
    pattern = str(refusal.value).split("'")[1]
    task = read_task(tmp_path, "auto", pattern=pattern)
    assert task.name == "other"
    assert {(row.speaker, row.label) for row in task.rows} == {
        (speaker, emotion) for speaker in ("0001", "0002") for emotion in ("Angry", "Sad")
    }


def test_a_corpus_told_by_a_pattern_is_scored(tmp_path, capsys):
    """Flat names as in SUBESCO; one name is not UTF-8, one is not of the corpus."""
    clips = sorted((DATA / "fsdd").glob("*.flac"))
    for number in range(24):
        name = f"{'FM'[number % 2]}_{number % 4:02d}_X_{('ANGRY', 'SAD', 'NEUTRAL')[number % 3]}_{number}.flac"
        shutil.copy(clips[40 * number], tmp_path / name)
    shutil.copy(clips[0], tmp_path / "F_01_X_SAD_99\udced.flac")
    shutil.copy(clips[0], tmp_path / "readme.flac")
    pattern = r"(?P<speaker>[FM]_\d+)_.*_(?P<label>[A-Z]+)_\d+"
    cli.main(["benchmark", "byol-s", "--data", str(tmp_path), "--pattern", pattern, "--out", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    assert "24 clips, 3 classes, 4 speakers" in printed
    assert r"left out: " in printed and r"F_01_X_SAD_99\udced.flac" in printed
    assert r"F_01_X_SAD_99\udced.flac" in (tmp_path / "out/benchmark.html").read_text()


def test_a_real_file_is_preferred_to_a_pointer_of_the_same_name(tmp_path):
    for folder, content in (("AudioWAV", b"version https://git-lfs.github.com/spec/v1\n"), ("archive", b"RIFF")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "1001_DFA_ANG_XX.wav").write_bytes(content)
    assert [Path(row.path).parent.name for row in read_crema_d(sorted(tmp_path.rglob("*.*")), tmp_path)] == ["archive"]


def test_frames_are_averaged_after_the_first_layer():
    """EmoBox's head on clips of different lengths: linear, ReLU, mean over time, linear."""
    rng = np.random.default_rng(0)
    clips = np.empty(3, dtype=object)
    clips[:] = [rng.normal(size=(length, 5)).astype(np.float16) for length in (1, 4, 9)]
    net = build_network(Setting(hidden=(7,)), 5, 2)
    frames_ND, frames_B = to_tensors(clips)
    for ours, clip_TD in zip(net(frames_ND, frames_B), clips, strict=True):
        expected = net[2](net[0](torch.from_numpy(clip_TD).float()).relu().mean(dim=0))
        torch.testing.assert_close(ours, expected)
