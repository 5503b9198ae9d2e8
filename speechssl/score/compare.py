"""Compare evaluations of the same utterances: the difference of their error rates by a paired bootstrap."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from speechssl.core.errors import InputError
from speechssl.core.files import output_file, replacing
from speechssl.core.lines import read_lines
from speechssl.score.evaluate import SCORES, UTTERANCES, Line
from speechssl.score.wer import CLUSTERS, Rate, bootstrap_groups, resampled

MOST = 10  # utterances that are listed


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What `evaluate --out` wrote into a folder. lines: of the utterances that are counted, by their ids."""

    folder: str
    scores: dict[str, Any]
    lines: dict[str, Line]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Of the evaluation `second` to `first`: their rates, second - first with a 95 % interval over the same resamples, and the
    utterances whose headline errors differ most, as (errors of second - of first, id, reference, both hypotheses)."""

    first: str
    second: str
    headline: str
    wer: tuple[float, float]
    cer: tuple[float, float]
    wer_difference: Rate
    cer_difference: Rate
    utterances: int
    clusters: str
    resamples: int
    largest: list[tuple[int, str, str, str, str]]

    def __str__(self) -> str:
        over = f"{self.utterances} utterances, paired bootstrap of {self.resamples} resamples over {self.clusters}"
        if self.clusters == "utterances":
            over += f" (fewer than {CLUSTERS} speakers are known)"
        lines = [self.verdict(), f"  {over}"]
        for name, rates, difference in (
            ("WER", self.wer, self.wer_difference),
            ("CER", self.cer, self.cer_difference),
        ):
            both = f"{100 * rates[0]:5.1f} % -> {100 * rates[1]:5.1f} %"
            low, high = 100 * difference.low, 100 * difference.high
            lines.append(f"  {name}  {both}   {100 * difference.value:+.1f} points [{low:+.1f}, {high:+.1f}]")
        if self.largest:
            unit = "word" if self.headline == "wer" else "character"
            lines.append(f"  where they differ most ({unit} errors of the second less those of the first, id):")
        for errors, name, reference, first, second in self.largest:
            lines += [f"    {errors:+4d}  {name}", f"          ref: {reference}"]
            lines += [f"          1st: {first}", f"          2nd: {second}"]
        return "\n".join(lines)

    def verdict(self) -> str:
        """One sentence: which is better, or that this test cannot tell."""
        difference = self.wer_difference if self.headline == "wer" else self.cer_difference
        points = f"{100 * abs(difference.value):.1f} points of {self.headline.upper()}"
        if difference.low > 0 or difference.high < 0:
            better, worse = (self.first, self.second) if difference.value > 0 else (self.second, self.first)
            return f"{better} is better than {worse}, by {points}."
        if not (difference.low or difference.high):
            return f"{self.first} and {self.second} make the same number of errors in every resample."
        return f"This test cannot tell which of {self.first} and {self.second} is better: {points} may be chance."


def compare(
    folders: Sequence[Path], *, resamples: int = 1000, seed: int = 1, out: Path | None = None
) -> list[Difference]:
    """The first evaluation against each of the others; `out` gets them as JSON. InputError if they are not of the same
    utterances, references, speakers and normaliser."""
    if len(folders) < 2:
        raise InputError("give at least two folders that `speechssl evaluate ... --out FOLDER` wrote")
    if resamples < 100:
        raise InputError(f"--resamples {resamples} is too few for an interval; 1000 are usual")
    if out is not None:
        output_file(out, "compare.json")
    first, *others = map(read_evaluation, folders)
    for other in others:
        refuse_other_test(first, other)
    found = [difference_of(first, other, resamples, seed) for other in others]
    if out is not None:
        text = json.dumps([asdict(one) | {"verdict": one.verdict()} for one in found], ensure_ascii=False, indent=2)
        with replacing(out) as draft:
            draft.write_text(text + "\n", "utf-8")
    return found


def read_evaluation(folder: Path) -> Evaluation:
    """An evaluation. InputError for a folder that holds none, or one that cannot be read."""
    scores, table = folder / SCORES, folder / UTTERANCES
    missing = next((file for file in (scores, table) if not file.is_file()), None)
    if missing:
        raise InputError(f"{missing} does not exist; `speechssl evaluate MODEL TABLE --out {folder}` writes it")
    head, *rows = [line.split("\t") for line in read_lines(table)] or [[]]
    wrong = 1 if tuple(head) != Line._fields else next((n for n, row in enumerate(rows, 2) if not fits(row)), None)
    if wrong:
        raise InputError(f"{table}, line {wrong}, is not what `speechssl evaluate` writes; evaluate again")
    lines = [Line(*row) for row in rows]
    try:
        known = json.loads(scores.read_text(encoding="utf-8"))
        named = {key: known[key] for key in ("normaliser", "headline")}
    except (ValueError, LookupError, TypeError):
        raise InputError(f"{scores} does not hold the scores of an evaluation; evaluate again") from None
    return Evaluation(folder=str(folder), scores=named, lines={line.id: line for line in lines if line.words})


def fits(cells: Sequence[str]) -> bool:
    """Whether cells are those of a Line: its counts are numbers, or all empty."""
    counts = cells[Line._fields.index("words") : Line._fields.index("confidence")]
    return len(cells) == len(Line._fields) and (all(map(str.isdecimal, counts)) or not any(counts))


def refuse_other_test(first: Evaluation, other: Evaluation) -> None:
    """InputError if two evaluations cannot be compared."""
    names = f"{first.folder} and {other.folder}"
    if first.scores["normaliser"] != other.scores["normaliser"]:
        raise InputError(
            f"{names} were scored with different normalisers, {first.scores['normaliser']!r} and "
            f"{other.scores['normaliser']!r}; evaluate both with the same --normaliser"
        )
    only = [[name for name in a.lines if name not in b.lines] for a, b in ((first, other), (other, first))]
    if only[0] or only[1]:
        counts = " and ".join(
            f"{len(some)} are only in {of.folder} ({', '.join(some[:3])}{', ...' if len(some) > 3 else ''})"
            for some, of in zip(only, (first, other), strict=True)
            if some
        )
        raise InputError(f"{names} are not of the same utterances: {counts}; evaluate both on the same rows")
    for name, line in first.lines.items():
        for column in ("reference", "speaker"):
            a, b = getattr(line, column), getattr(other.lines[name], column)
            if a != b:
                raise InputError(
                    f"{names} differ in the {column} of {name}: {a!r} and {b!r}; evaluate both on the same table"
                )


def difference_of(first: Evaluation, second: Evaluation, resamples: int, seed: int) -> Difference:
    """The difference of two evaluations of the same utterances. One resample takes the same speakers for both."""
    pairs = [(line, second.lines[name]) for name, line in first.lines.items()]
    counts_N8 = np.array([[*counts_of(a), *counts_of(b)] for a, b in pairs])
    groups_N, clusters = bootstrap_groups([a.speaker for a, _ in pairs])
    totals_R8 = resampled(counts_N8, groups_N, seed, resamples)

    def rates(totals_8: np.ndarray) -> np.ndarray:
        """WER and CER of the first, then of the second: (..., 4)."""
        return totals_8[..., [0, 2, 4, 6]] / totals_8[..., [1, 3, 5, 7]]

    whole_4, rates_R4 = rates(counts_N8.sum(axis=0)), rates(totals_R8)
    differences_R2 = rates_R4[:, 2:] - rates_R4[:, :2]
    low_2, high_2 = np.percentile(differences_R2, [2.5, 97.5], axis=0)
    found = [
        Rate(value=float(whole_4[2 + i] - whole_4[i]), low=float(low_2[i]), high=float(high_2[i])) for i in range(2)
    ]
    column = 0 if first.scores["headline"] == "wer" else 2
    gap_N = counts_N8[:, 4 + column] - counts_N8[:, column]
    order = islice((i for i in np.argsort(-np.abs(gap_N), kind="stable").tolist() if gap_N[i]), MOST)
    return Difference(
        first=first.folder,
        second=second.folder,
        headline=first.scores["headline"],
        wer=(float(whole_4[0]), float(whole_4[2])),
        cer=(float(whole_4[1]), float(whole_4[3])),
        wer_difference=found[0],
        cer_difference=found[1],
        utterances=len(pairs),
        clusters=clusters,
        resamples=resamples,
        largest=[(int(gap_N[i]), a.id, a.reference, a.hypothesis, b.hypothesis) for i in order for a, b in (pairs[i],)],
    )


def counts_of(line: Line) -> tuple[int, int, int, int]:
    """Word errors and words, character errors and characters of an utterance."""
    words = int(line.substitutions) + int(line.deletions) + int(line.insertions)
    return words, int(line.words), int(line.character_errors), int(line.characters)
