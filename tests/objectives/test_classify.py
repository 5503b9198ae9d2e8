"""Classifiers against transformers and formulas in numpy: loss, gradients, weights, errors, and what is written."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score

import speechssl
from speechssl.core.config import apply
from speechssl.core.errors import InputError
from speechssl.data.loader import MicroBatches
from speechssl.data.manifest import Manifest, Utterance
from speechssl.data.tables import read_manifest
from speechssl.interop import source
from speechssl.models import families
from speechssl.objectives.classify import Classify, Recipe
from speechssl.objectives.protocol import TRAINING, VALIDATION
from speechssl.use.classify import Answer, table_row
from tests.conftest import digits, one_step, write_table

PLAIN = {
    "objective.smoothing": 0.0,
    "objective.class_weights": "none",
    "objective.mask_prob": 0.0,
    "model.hidden_dropout": 0.0,
    "model.final_dropout": 0.0,
    "model.width": 12,
}


def rows_of(count: int = 12, **changes: object) -> Manifest:
    """Spoken digits; changes: functions of the row number, for further or other columns."""
    rows = []
    for i, row in enumerate(digits(count)):
        own = {name: str(change(i)) for name, change in changes.items()}  # type: ignore[operator]
        known = {key: value for key, value in (row | own).items() if key in Utterance.__dataclass_fields__}
        extra = {key: value for key, value in own.items() if key not in known}
        rows.append(Utterance(**known, extra=extra))  # type: ignore[arg-type]
    return Manifest.of(rows)


def built(start: Path | str, rows: Manifest, part: str = TRAINING, **changes: object) -> tuple[Classify, object]:
    """The objective around a network, and the rows as one micro-batch."""
    recipe = apply(Recipe(), PLAIN | {key.replace("__", "."): value for key, value in changes.items()}, "the test")
    objective = Classify.build(recipe, source.read(start), [rows])
    rows = objective.usable(rows, TRAINING)
    if part == VALIDATION:
        objective.usable(rows, VALIDATION)
    data = MicroBatches(rows, objective, 0.0, 1)
    return objective, objective.collate([data.item(row, 0) for row in rows])


@pytest.mark.parametrize("weighted", [False, True])
def test_loss_and_gradients_are_those_of_transformers(weighted, pretrained_folder, tmp_path):
    transformers = pytest.importorskip("transformers")
    rows = rows_of()
    objective, batch = built(pretrained_folder, rows, model__weighted=weighted, objective__feature_grad=1.0)
    families.save(tmp_path / "m", objective.model, None, {})
    theirs = transformers.AutoModelForAudioClassification.from_pretrained(tmp_path / "m")
    assert theirs.config.id2label == dict(enumerate(objective.classes))
    own = one_step(objective, batch)
    total = 0.0
    for row in rows:
        wave = speechssl.sound.audio.load(row.path)
        label = torch.tensor([objective.classes.index(row.label)])
        total = total + theirs(torch.from_numpy(wave)[None], labels=label).loss
    torch.testing.assert_close(own.loss, total, atol=1e-4, rtol=1e-5)
    own.loss.backward()
    total.backward()
    names = dict(theirs.named_parameters())
    largest = max(parameter.grad.abs().max() for parameter in names.values() if parameter.grad is not None)
    for name, parameter in objective.model.named_parameters():
        if names[name].grad is not None:
            own_grad, their_grad = parameter.grad, names[name].grad
            allowed = 5e-3 * their_grad.abs().max() + 1e-5 * largest  # a bias of the keys has none but for rounding
            assert (own_grad - their_grad).abs().max() <= allowed, name


def test_weights_and_smoothing_follow_the_formula(pretrained_folder):
    rows = rows_of(12, label=lambda i: "ab"[i % 4 == 0])
    how = {"objective__class_weights": "balanced", "objective__smoothing": 0.2}
    objective, batch = built(pretrained_folder, rows, **how)
    log_p = torch.log_softmax(objective.model(batch.audio), dim=1).detach().double().numpy()
    y = np.array([objective.classes.index(label) for label in rows.column("label")])
    weights = len(y) / (2 * np.bincount(y))
    expected = sum(-w * (0.8 * p[c] + 0.1 * p.sum()) for p, c, w in zip(log_p, y, weights[y], strict=True))
    assert one_step(objective, batch).loss.item() == pytest.approx(expected, rel=1e-5)
    assert weights[y].mean() == pytest.approx(1)


def test_votes_are_soft_labels_and_empty_rows_are_left_out(pretrained_folder, capsys):
    rows = rows_of(12, A=lambda i: i % 3, B=lambda i: 2 * (i % 2), C=lambda i: 0)
    objective, batch = built(pretrained_folder, rows, objective__label="A,B,C", objective__target="votes")
    silent = sum(i % 3 == 0 and i % 2 == 0 for i in range(12))
    assert len(batch.targets_BC) == 12 - silent
    assert f"{silent} of 12 rows have no label" in capsys.readouterr().err
    votes = np.array([[i % 3, 2 * (i % 2), 0] for i in range(12) if i % 3 or i % 2], float)
    torch.testing.assert_close(
        batch.targets_BC.double().numpy(), votes / votes.sum(1, keepdims=True), atol=1e-6, rtol=0
    )
    log_p = torch.log_softmax(objective.model(batch.audio), dim=1)
    expected = -(batch.targets_BC * log_p).sum()
    torch.testing.assert_close(one_step(objective, batch).loss, expected)
    with pytest.raises(InputError, match=r"row .*: the votes .* not all numbers"):
        built(
            pretrained_folder,
            rows_of(4, A=lambda i: "x", B=lambda i: 1),
            objective__label="A, B",
            objective__target="votes",
        )


def test_several_labels_are_judged_one_by_one(pretrained_folder):
    rows = rows_of(8, label=lambda i: ["loud;fast", "loud", "fast;sad", "sad"][i % 4])
    objective, batch = built(pretrained_folder, rows, objective__target="labels")
    assert objective.classes == ["fast", "loud", "sad"]
    named = [label.split(";") for label in rows.column("label")]
    assert batch.targets_BC.tolist() == [[float(name in own) for name in objective.classes] for own in named]
    logits = objective.model(batch.audio)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, batch.targets_BC, reduction="sum") / 3
    torch.testing.assert_close(one_step(objective, batch).loss, expected)


def test_the_score_is_one_minus_uar_however_the_clips_are_cut(pretrained_folder):
    rows = rows_of(20, label=lambda i: "abc"[0 if i < 11 else 1 + i % 2])
    objective, batch = built(pretrained_folder, rows, VALIDATION)
    torch.nn.init.normal_(objective.model.classifier.weight, std=300.0)
    objective.eval()
    guess = objective.model(batch.audio).argmax(dim=1).numpy()
    y = np.array([objective.classes.index(label) for label in rows.column("label")])
    data = MicroBatches(rows, objective, 0.0, 1)
    sums = np.zeros(2)
    for part in (range(7), range(7, 9), range(9, 20)):
        step = one_step(objective, objective.collate([data.item(rows[i], 0) for i in part]))
        sums += [float(value) for value in step.sums["uar_error"]]
    assert len(set(guess.tolist())) > 1
    assert sums[0] / sums[1] == pytest.approx(1 - balanced_accuracy_score(y, guess), abs=1e-6)


def test_mixup_is_the_convex_combination_and_a_function_of_the_epoch(pretrained_folder):
    rows = rows_of()
    objective, _ = built(pretrained_folder, rows, objective__mixup=0.4)
    item = MicroBatches(rows, objective, 0.0, 1).item(rows[0], 0)
    mixed = objective.mixed(item)
    share = float(mixed.labels @ item.labels)
    assert 0.5 <= share <= 1
    assert mixed.labels.sum() == pytest.approx(1)
    assert len(mixed.wave_S) == len(item.wave_S)
    other = mixed.wave_S - share * item.wave_S
    loads = [speechssl.sound.audio.load(row.path)[: len(other)] for row in rows]
    assert min(np.abs(other[: len(w)] - (1 - share) * w).max() for w in loads) < 1e-6 or share == 1
    np.testing.assert_array_equal(objective.mixed(item).wave_S, mixed.wave_S)
    assert not np.array_equal(objective.mixed(replace(item, epoch=1)).wave_S, mixed.wave_S)


def test_byol_s_learns_clip_by_clip(tmp_path):
    rows = rows_of(6)
    objective, batch = built("byol-s", rows)
    before = {name: value.clone() for name, value in objective.model.named_buffers()}
    alone = [objective.model(objective.model.stream([speechssl.sound.audio.load(row.path)])) for row in rows]
    torch.testing.assert_close(objective.model(batch.audio), torch.cat(alone))
    one_step(objective, batch).loss.backward()
    assert all(torch.equal(value, before[name]) for name, value in objective.model.named_buffers())
    assert objective.model.encoder.features[0].weight.grad is not None
    families.save(tmp_path / "m", objective.model, None, {})
    again = speechssl.load(tmp_path / "m")
    assert again.classes == objective.classes
    probs = again.classify(rows[0].path)
    expected = torch.softmax(
        objective.eval().model(objective.model.stream([speechssl.sound.audio.load(rows[0].path)])), 1
    )
    np.testing.assert_allclose(list(probs.values()), expected[0].detach().numpy(), atol=1e-6)
    np.testing.assert_allclose(again.embed(rows[0].path), speechssl.load("byol-s").embed(rows[0].path), atol=1e-6)


def test_random_weights_of_byol_s_take_their_statistics_from_the_data():
    rows, recipe = rows_of(6), apply(Recipe(), PLAIN, "the test")
    objective = Classify.build(recipe, source.read("byol-s").without_weights(), [rows])
    data = MicroBatches(objective.usable(rows, TRAINING), objective, 0.0, 1)
    objective.initialise(lambda: objective.collate([data.item(row, 0) for row in rows]))
    norm = objective.model.encoder.features[1]
    assert float(objective.model.mel_stats[1]) > 1
    assert float((norm.running_mean - 0).abs().max()) > 0
    assert not norm.training


def test_a_classifier_that_learns_on_keeps_its_classes_by_name(pretrained_folder, tmp_path, capsys):
    objective, _ = built(pretrained_folder, rows_of(8, label=lambda i: "abc"[i % 3]))
    families.save(tmp_path / "m", objective.model, None, {})
    more, _ = built(tmp_path / "m", rows_of(8, label=lambda i: "xcb"[i % 3]))
    weight, old = more.model.classifier.weight, objective.model.classifier.weight
    assert more.classes == ["b", "c", "x"]
    torch.testing.assert_close(weight[:2], old[1:])
    assert "2 of 3 classes keep the weights" in capsys.readouterr().err
    torch.testing.assert_close(more.model.projector.weight, objective.model.projector.weight)


@pytest.mark.parametrize(("layers", "learning"), [(0, []), (1, ["encoder.layers.1."])])
def test_only_the_top_layers_and_the_head_learn(layers, learning, pretrained_folder):
    objective, batch = built(pretrained_folder, rows_of(4), objective__train_layers=layers)
    one_step(objective, batch).loss.backward()
    for name, parameter in objective.model.named_parameters():
        wanted = not name.startswith("wav2vec2.") or any(part in name for part in learning)
        assert parameter.requires_grad == wanted, name


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"objective__label": "mood"}, "no column 'mood'"),
        ({"objective__label": "split"}, "1 class"),
        ({"objective__label": "label,text"}, "objective.target = votes"),
        ({"objective__train_layers": 9}, "the network has 2"),
    ],
)
def test_columns_that_cannot_be_learned_are_refused(changes, said, pretrained_folder):
    with pytest.raises(InputError, match=said):
        built(pretrained_folder, rows_of(), **changes)


def test_a_class_of_the_validation_that_training_lacks_is_refused(pretrained_folder):
    objective, _ = built(pretrained_folder, rows_of(8, label=lambda i: "ab"[i % 2]))
    with pytest.raises(InputError, match=r"validation data, row .*: the class 'z' is not among a, b"):
        objective.usable(rows_of(8, label=lambda i: "az"[i % 2]), VALIDATION)


def test_speakers_on_both_sides_are_reported(pretrained_folder, capsys):
    rows = rows_of()
    Classify.build(apply(Recipe(), PLAIN, "the test"), source.read(pretrained_folder), [rows, rows])
    assert "are in both training and validation" in capsys.readouterr().err


def test_the_verbs_from_training_to_scores(pretrained_folder, tmp_path, monkeypatch):
    from speechssl import cli

    monkeypatch.chdir(tmp_path)
    write_table(Path("x.tsv"), *digits(20))
    Path("c.toml").write_text(
        'kind = "classify"\n[model]\nwidth = 8\n[data]\nbatch_seconds = 4.0\nmicro_seconds = 4.0\nworkers = 0\n'
    )
    run = ["--train", "x.tsv", "--valid", "x.tsv", "--out", "r", "--train.steps", "3", "--train.log_every", "1"]
    cli.main(["finetune", "c.toml", "--init", str(pretrained_folder), "--label", "label", "--group", "speaker", *run])
    cli.main(["classify", "r", "x.tsv", "--out", "c.parquet"])
    import pyarrow.parquet as pq

    table = pq.read_table("c.parquet").to_pylist()
    model, rows = speechssl.load("r"), read_manifest(Path("x.tsv"))
    for line, row in zip(table, rows, strict=True):
        probs = model.classify(row.path)
        assert line["class"] == max(probs, key=probs.__getitem__)
        assert [line[f"p({name})"] for name in probs] == pytest.approx(list(probs.values()), abs=1e-4)
    cli.main(["evaluate", "r", "x.tsv", "--out", "e"])
    scores = json.loads(Path("e/scores.json").read_text())
    right = sum(line["class"] == line["label"] for line in table) / len(table)
    assert scores["score"]["accuracy"] == pytest.approx(right)
    cli.main(["classify", "r", "x.tsv", "--unknown-below", "1.0", "--out", "u.csv"])
    assert all(line.split(",")[7] == "unknown" for line in Path("u.csv").read_text().splitlines()[1:])
    cli.main(["classify", "r", str(rows[0].path), "--every", "0.1", "--out", "t.tsv"])
    times = [line.split("\t")[2] for line in Path("t.tsv").read_text().splitlines()[1:]]
    assert times == [f"{i / 10:.1f}" for i in range(len(times))]
    with pytest.raises(InputError, match="no classifier"):
        speechssl.load("byol-s").classify(rows[0].path)


def test_a_clip_with_several_labels_names_those_that_are_likelier_than_not(pretrained_folder, tmp_path):
    rows = rows_of(8, label=lambda i: ["loud;fast", "loud", "fast;sad", "sad"][i % 4])
    objective, _ = built(pretrained_folder, rows, objective__target="labels")
    families.save(tmp_path / "m", objective.model, None, {})
    model = speechssl.load(tmp_path / "m")
    answer = Answer(rows[0], 0.0, 1.0, np.array([0.9, 0.2, 0.6]))
    assert table_row(answer, model, 0.0)["class"] == "fast;sad"
    assert table_row(answer._replace(probs_C=np.array([0.1, 0.2, 0.3])), model, 0.0)["class"] == ""
