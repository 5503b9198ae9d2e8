"""How well a classifier tells the classes of labelled clips, with intervals over speakers, confusions and calibration."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from speechssl.core import dist
from speechssl.core.errors import InputError
from speechssl.core.files import output_folder, replacing
from speechssl.data.sources import rows_of
from speechssl.objectives.targets import TARGETS, cells
from speechssl.score.calibration import Calibration, calibration_of
from speechssl.score.metrics import Score, Truth, percent, score_of
from speechssl.use.classify import WRITERS, Answer, answers, table_row

SHARES = (1.0, 0.9, 0.8, 0.5)  # of the clips, the surest ones


@dataclass(frozen=True, kw_only=True)
class ClassScores:
    """score: accuracy, UAR and intervals. f1: the mean over classes. surest: (share of the clips, least confidence, accuracy)."""

    model: str
    clips: int
    classes: list[str]
    grouped_by: str
    score: Score
    f1: float
    calibration: Calibration
    surest: list[tuple[float, float, float]]

    def __str__(self) -> str:
        score = self.score
        lines = [
            f"{self.model}: {self.clips} clips, {len(self.classes)} classes; in %, 95 % bootstrap over {self.grouped_by}",
            f"  accuracy {percent(score.accuracy, score.accuracy_interval)}",
            f"  UAR {percent(score.uar, score.uar_interval)}, chance {100 / len(self.classes):.1f}; macro F1 {100 * self.f1:.1f}",
            f"  {self.calibration}",
        ]
        for share, least, right in self.surest[1:]:
            some = f"the surest {100 * share:.0f} % of the clips (confidence {least:.2f} and more)"
            lines.append(f"  {some}: {100 * right:.1f} right")
        wrong = [
            (count, self.classes[i], self.classes[j])
            for i, row in enumerate(score.confusion)
            for j, count in enumerate(row)
            if i != j and count
        ]
        for count, truth, guess in sorted(wrong, reverse=True)[:5]:
            lines.append(f"  {truth} taken for {guess}: {count} times")
        return "\n".join(lines)


def evaluate_classes(
    model: Any, manifest: Path, *, where: str | Sequence[str] = "", out: Path | None = None
) -> ClassScores:
    """Score a classifier on the labelled rows of a table or folder; `out` gets scores.json and predictions.tsv. The labels stand
    in the column(s) of the model's training; votes count as the class that has most of them. InputError for a label that the
    model does not know, and for audio that cannot be read."""
    model.require_classes()
    rows, classes = rows_of([manifest], where), model.classes
    columns, target = model.recorded("label") or ["label"], TARGETS.get(model.recorded("target") or "class")
    if target is None or not target.problem.startswith("single"):
        raise InputError(f"{model.source} gives a clip any number of labels; evaluate scores classifiers of one class")
    meant = [target.encode(cells(row, columns), classes) for row in rows]
    keep = [i for i, target_C in enumerate(meant) if target_C is not None]
    if not keep:
        raise InputError(f"{manifest}: no row has a label in the column(s) {', '.join(columns)}")
    if len(keep) < len(rows):
        dist.report(f"evaluate: {len(rows) - len(keep)} of {len(rows)} rows have no label and are left out")
    rows = rows.select(keep)
    y_N = np.array([int(np.argmax(meant[i])) for i in keep])  # type: ignore[arg-type]
    found = list(answers(model, rows, "evaluate"))
    for result in found:
        if isinstance(result.value, InputError):
            raise result.value
    probs_NC = np.stack([result.value for result in found])
    speakers = np.array(rows.column("speaker"))
    grouped = len(set(speakers.tolist()) - {""}) > 1
    clusters = speakers if grouped else np.arange(len(rows))
    truth = Truth(classes=np.array(classes), y_N=y_N, groups_N=speakers, clusters_N=clusters, seed=1)
    guess_N = probs_NC.argmax(axis=1)
    confidence_N, right_N = probs_NC.max(axis=1), guess_N == y_N
    score = score_of("fine-tuned", truth, [guess_N])
    scores = ClassScores(
        model=str(model.source),
        clips=len(rows),
        classes=list(classes),
        grouped_by=f"{len(set(speakers.tolist()))} speakers" if grouped else "clips",
        score=score,
        f1=macro_f1(np.array(score.confusion)),
        calibration=calibration_of([*zip(confidence_N.tolist(), right_N.tolist(), strict=True)], counted="clips"),
        surest=coverage(confidence_N, right_N),
    )
    if out is not None:
        output_folder(out)
        lines = [table_row(Answer(r.row, r.row.start, r.row.duration, r.value), model, 0.0) for r in found]
        numbers = (json.dumps(asdict(scores), ensure_ascii=False, indent=1) + "\n").encode()
        for name, text in (("predictions.tsv", WRITERS[".tsv"](lines)), ("scores.json", numbers)):
            with replacing(out / name) as draft:
                draft.write_bytes(text)
    return scores


def macro_f1(confusion_CC: np.ndarray) -> float:
    """The mean over the classes that occur of 2 hits / (true + predicted)."""
    hits_C, both_C = confusion_CC.diagonal(), confusion_CC.sum(axis=0) + confusion_CC.sum(axis=1)
    occurs_C = confusion_CC.sum(axis=1) > 0
    return float((2 * hits_C / np.maximum(both_C, 1))[occurs_C].mean())


def coverage(confidence_N: np.ndarray, right_N: np.ndarray) -> list[tuple[float, float, float]]:
    """(share of the clips, their least confidence, their accuracy) of the surest clips, for each of SHARES."""
    order_N = np.argsort(-confidence_N, kind="stable")
    found = []
    for share in SHARES:
        chosen = order_N[: max(1, round(share * len(order_N)))]
        found.append((share, float(confidence_N[chosen].min()), float(right_N[chosen].mean())))
    return found
