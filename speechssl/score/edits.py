"""Where a hypothesis departs from its reference, word by word and character by character; jiwer aligns."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import NamedTuple

import jiwer

from speechssl.text.scripts import counted

KINDS = {"equal": "C", "substitute": "S", "delete": "D", "insert": "I"}  # the letters of NIST's sclite


class Step(NamedTuple):
    """One place of an alignment: a unit of each side, "" where a side has none. kind: C correct, S substituted, D deleted,
    I inserted."""

    kind: str
    reference: str
    hypothesis: str


@dataclass(frozen=True, kw_only=True)
class Edits:
    """How many units of the reference are correct, substituted and deleted, and how many were inserted."""

    correct: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

    @property
    def errors(self) -> int:
        """All three kinds."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def units(self) -> int:
        """Those of the reference, by which errors are divided."""
        return self.correct + self.substitutions + self.deletions

    def __str__(self) -> str:
        return f"{self.substitutions} substituted, {self.deletions} deleted, {self.insertions} inserted of {self.units}"


@dataclass(frozen=True, kw_only=True)
class Scored:
    """An utterance with its texts as they are compared. words: their alignment. wrong: the steps of the characters that differ.
    An empty reference counts as nothing, whatever was heard."""

    id: str
    speaker: str
    reference: str
    hypothesis: str
    words: list[Step]
    word_edits: Edits
    wrong: list[Step]
    character_edits: Edits


def score_all(
    ids: Sequence[str],
    speakers: Sequence[str],
    references: Sequence[str],
    hypotheses: Sequence[str],
    normal: Callable[[str], str],
) -> list[Scored]:
    """Every utterance, in order, both texts normalised in the same way and counted as in speechssl.text.scripts."""
    texts = zip(map(normal, references), map(normal, hypotheses), strict=True)
    return [score(name, speaker, *pair) for name, speaker, pair in zip(ids, speakers, texts, strict=True)]


def score(name: str, speaker: str, reference: str, hypothesis: str) -> Scored:
    """One utterance of normalised texts."""
    words: list[Step] = []
    characters: list[Step] = []
    if reference.strip():
        pair = counted(reference, hypothesis)
        words, characters = (
            steps_of(jiwer.process_words(*pair.words)),
            steps_of(jiwer.process_characters(*pair.characters)),
        )
    return Scored(
        id=name,
        speaker=speaker,
        reference=reference,
        hypothesis=hypothesis,
        words=words,
        word_edits=edits_of(words),
        wrong=[step for step in characters if step.kind != "C"],
        character_edits=edits_of(characters),
    )


def steps_of(output: jiwer.WordOutput | jiwer.CharacterOutput) -> list[Step]:
    """The alignment of one pair, unit by unit. Of several that cost the same it is the one that jiwer takes."""
    (reference,), (hypothesis,) = output.references, output.hypotheses
    steps: list[Step] = []
    for chunk in output.alignments[0]:
        said, heard = (
            reference[chunk.ref_start_idx : chunk.ref_end_idx],
            hypothesis[chunk.hyp_start_idx : chunk.hyp_end_idx],
        )
        steps += [Step(KINDS[chunk.type], *pair) for pair in zip_longest(said, heard, fillvalue="")]
    return steps


def edits_of(steps: Iterable[Step]) -> Edits:
    """The counts of an alignment."""
    counts = Counter(step.kind for step in steps)
    return Edits(correct=counts["C"], substitutions=counts["S"], deletions=counts["D"], insertions=counts["I"])


def total(edits: Sequence[Edits]) -> Edits:
    """The sum of counts."""
    names = ("correct", "substitutions", "deletions", "insertions")
    return Edits(**{name: sum(getattr(one, name) for one in edits) for name in names})


def visible(unit: str) -> str:
    """A unit that can be seen: none as a dot, a space as its symbol."""
    return unit.replace(" ", "␣") or "·"


def most_confused(steps: Iterable[Step], most: int) -> list[tuple[str, str, int]]:
    """The commonest errors as (reference, hypothesis, count); one side is "" for what was inserted or deleted."""
    counts = Counter((step.reference, step.hypothesis) for step in steps if step.kind != "C")
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [(*pair, count) for pair, count in ranked[:most]]
