"""Word and character error rate with a bootstrap interval, over a corpus and over groups of its utterances."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from speechssl.core.errors import InputError
from speechssl.score.calibration import Calibration
from speechssl.score.edits import Edits, Scored, most_confused, score_all, total, visible
from speechssl.text.normalise import Normaliser
from speechssl.text.scripts import spaceless, units

GREEDY = "greedy CTC, no language model"
CLUSTERS = 5  # of fewer speakers, or utterances of a group, an interval says nothing
CONFUSED = 20  # words, and characters
PRINTED = 8  # lines of a table


@dataclass(frozen=True, kw_only=True)
class Rate:
    """An error rate over a corpus (errors / reference units) with its 95 % interval, as fractions."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}]"


@dataclass(frozen=True, kw_only=True)
class Group:
    """The utterances that have something in common, such as their speaker. clusters: as of ErrorRates."""

    name: str
    utterances: int
    words: Edits
    characters: Edits
    wer: Rate
    cer: Rate
    clusters: str

    def shown(self, metric: str) -> str:
        """A rate, with its interval if there are enough utterances for one."""
        rate: Rate = getattr(self, metric)
        return str(rate) if self.utterances >= CLUSTERS else f"{100 * rate.value:.1f} %"


@dataclass(frozen=True, kw_only=True)
class ErrorRates:
    """wer, cer: over the whole corpus. words, characters: what they count. clusters: what the bootstrap draws. empty: utterances
    with an empty reference, in which `heard` words were recognised.

    worst: (word errors, id, reference, hypothesis), the largest first. confused_words, confused_characters: (reference,
    hypothesis, count), the commonest first; "" is none. groups: by column. scripts: those of the references that write no
    spaces between words; what is said of a word is then said of one of their letters. headline: wer, or cer where most letters
    are of such a script. phones: whether the words are phones. decoding: how the hypotheses were found.
    """

    wer: Rate
    cer: Rate
    words: Edits
    characters: Edits
    utterances: int
    empty: int
    heard: int
    clusters: str
    normaliser: str
    worst: list[tuple[int, str, str, str]]
    confused_words: list[tuple[str, str, int]]
    confused_characters: list[tuple[str, str, int]]
    scripts: list[str]
    headline: str
    phones: bool = False
    decoding: str = GREEDY
    groups: dict[str, list[Group]] = field(default_factory=dict)
    calibration: Calibration | None = None

    def __str__(self) -> str:
        lines = [self.summary(), *(f"  {note}" for note in self.notes())]
        for name, counts in (("words", self.words), ("characters", self.characters)):
            lines.append(f"  {name:10s}  {counts}")
        for column, groups in self.groups.items():
            lines += [f"  by {column}:", *self.table(groups)]
        for name, confused in (("words", self.confused_words), ("characters", self.confused_characters)):
            pairs = [f"{visible(said)} > {visible(heard)} {count}" for said, heard, count in confused[:PRINTED]]
            if pairs:
                lines.append(f"  {name} most confused (reference > hypothesis, · is none): {', '.join(pairs)}")
        if self.calibration:
            lines.append(f"  {self.calibration}")
        if self.worst and self.worst[0][0]:
            lines.append("  worst utterances (word errors, id):")
        for errors, name, reference, hypothesis in self.worst:
            if errors:
                lines += [f"    {errors:3d}  {name}", f"         ref: {reference}", f"         hyp: {hypothesis}"]
        return "\n".join(lines)

    def summary(self) -> str:
        """Both rates, the headline first."""
        rates = [f"WER {self.wer}", f"CER {self.cer}"]
        return "   ".join(rates if self.headline == "wer" else reversed(rates))

    def notes(self) -> list[str]:
        """What one must know to compare the rates with others."""
        notes = [
            f"{self.utterances} utterances; 95 % bootstrap over {self.clusters}; {self.decoding}; "
            f"normaliser {self.normaliser!r}",
        ]
        if self.phones:
            notes.append("the words are phones, so WER is the phone error rate (PER)")
        if self.scripts:
            notes.append(
                f"{' and '.join(self.scripts)}: no spaces between words, so spaces beside its letters do not count, and WER "
                "takes each letter for a word (with words of other scripts: the mixed error rate)"
            )
        if self.empty:
            notes.append(
                f"{self.empty} utterances with an empty reference are not counted; {self.heard} words were heard in them"
            )
        return notes

    def table(self, groups: Sequence[Group]) -> list[str]:
        """Some lines of groups."""
        metrics = ("wer", "cer") if self.headline == "wer" else ("cer", "wer")
        rows = [
            (one.name, f"{one.utterances} utterances", *(f"{m.upper()} {one.shown(m)}" for m in metrics))
            for one in groups
        ]
        shown = rows[:PRINTED]
        widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
        lines = ["    " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in shown]
        rest = len(rows) - len(shown)
        return [*lines, f"    ... and {rest} more; --out writes them"] if rest else lines


def error_rates(
    references: Sequence[str],
    hypotheses: Sequence[str],
    *,
    ids: Sequence[str] | None = None,
    speakers: Sequence[str] | None = None,
    normaliser: str | Normaliser = "basic",
    phones: bool = False,
    decoding: str = GREEDY,
    seed: int = 1,
    worst: int = 10,
) -> ErrorRates:
    """WER and CER of hypotheses against references, both normalised in the same way and counted as in speechssl.text.scripts.

    The interval resamples speakers if at least five are known (utterances of one speaker are not independent), else utterances.
    Utterances without a speaker ("") are resampled one by one. InputError if no reference has a word.
    """
    if len(references) != len(hypotheses):
        raise InputError(f"{len(references)} references but {len(hypotheses)} hypotheses: give one for each utterance")
    normal = Normaliser(name=normaliser) if isinstance(normaliser, str) else normaliser
    names, spoken_by = ids or [str(i) for i in range(len(references))], speakers or [""] * len(references)
    scored = score_all(names, spoken_by, references, hypotheses, normal)
    return rates_of(scored, normaliser=str(normal), phones=phones, decoding=decoding, seed=seed, worst=worst)


def rates_of(
    scored: Sequence[Scored],
    *,
    normaliser: str,
    phones: bool = False,
    decoding: str = GREEDY,
    groups: dict[str, list[Group]] | None = None,
    calibration: Calibration | None = None,
    seed: int = 1,
    worst: int = 10,
) -> ErrorRates:
    """The rates of aligned utterances, as in error_rates."""
    kept = [one for one in scored if one.words]
    if not kept:
        raise InputError("no reference has a word; scoring needs transcripts (column `text`)")
    whole = group_of("", kept, seed)
    scripts = sum((Counter(spaceless(one.reference)) for one in kept), Counter())
    letters = sum(len(unit) for one in kept for unit in units(one.reference))
    order = sorted(kept, key=lambda one: (-one.word_edits.errors, -one.character_edits.errors))[:worst]
    return ErrorRates(
        wer=whole.wer,
        cer=whole.cer,
        words=whole.words,
        characters=whole.characters,
        utterances=len(kept),
        empty=len(scored) - len(kept),
        heard=sum(len(units(one.hypothesis)) for one in scored if not one.words),
        clusters=whole.clusters,
        normaliser=normaliser,
        worst=[(one.word_edits.errors, one.id, one.reference, one.hypothesis) for one in order],
        confused_words=most_confused((step for one in kept for step in one.words), CONFUSED),
        confused_characters=most_confused((step for one in kept for step in one.wrong), CONFUSED),
        scripts=[name for name, _ in scripts.most_common()],
        headline="cer" if scripts.total() > 0.5 * letters else "wer",
        phones=phones,
        decoding=decoding,
        groups=groups or {},
        calibration=calibration,
    )


def groups_by(scored: Sequence[Scored], values: Sequence[str], seed: int = 1) -> list[Group]:
    """The rates of the utterances of each value, the worst WER first; "" is a value too. Empty references are left out."""
    members: dict[str, list[Scored]] = {}
    for one, value in zip(scored, values, strict=True):
        if one.words:
            members.setdefault(value, []).append(one)
    found = [group_of(name or "(none)", some, seed) for name, some in members.items()]
    return sorted(found, key=lambda group: (-group.wer.value, -group.cer.value, group.name))


def groups_by_length(scored: Sequence[Scored], seconds: Sequence[float], seed: int = 1) -> list[Group]:
    """The rates of four parts of the utterances, of about as many each, from the shortest to the longest."""
    seconds_N = np.array(seconds)
    known = [i for i, one in enumerate(scored) if one.words]
    edges = np.unique(np.quantile(seconds_N[known], [0.25, 0.5, 0.75]))
    part_N = np.searchsorted(edges, seconds_N)
    found = []
    for part in np.unique(part_N[known]):
        inside = [i for i in known if part_N[i] == part]
        name = f"{seconds_N[inside].min():.2f} to {seconds_N[inside].max():.2f} s"
        found.append(group_of(name, [scored[i] for i in inside], seed))
    return found


def group_of(name: str, kept: Sequence[Scored], seed: int) -> Group:
    """The rates of some utterances, of which each has a reference."""
    groups, clusters = bootstrap_groups([one.speaker for one in kept])
    words, characters = [one.word_edits for one in kept], [one.character_edits for one in kept]
    wer, cer = (
        bootstrap(np.array([(one.errors, one.units) for one in edits]), groups, seed) for edits in (words, characters)
    )
    counts = {"words": total(words), "characters": total(characters)}
    return Group(name=name, utterances=len(kept), wer=wer, cer=cer, clusters=clusters, **counts)


def bootstrap_groups(speakers: Sequence[str]) -> tuple[np.ndarray, str]:
    """The group of each utterance for the bootstrap, numbered from 0, and what these groups are."""
    if len(set(speakers) - {""}) < CLUSTERS:
        return np.arange(len(speakers)), "utterances"
    unknown = sum(not speaker for speaker in speakers)
    names = [(speaker, -1) if speaker else ("", index) for index, speaker in enumerate(speakers)]
    numbers = {name: number for number, name in enumerate(sorted(set(names)))}
    groups = np.array([numbers[name] for name in names])
    return groups, f"speakers, and {unknown} utterances without a speaker" if unknown else "speakers"


def resampled(counts_NK: np.ndarray, groups_N: np.ndarray, seed: int, resamples: int = 1000) -> np.ndarray:
    """The sums (R, K) of counts over resampled groups, each of which comes with all its utterances; the same groups for every
    column."""
    sums_GK = np.stack([np.bincount(groups_N, weights=column) for column in counts_NK.T], axis=1)
    rng, groups = np.random.default_rng(seed), len(sums_GK)
    at_once = max(1, 2**20 // groups)  # all at once would take gigabytes for many utterances
    sizes = [min(at_once, resamples - done) for done in range(0, resamples, at_once)]
    return np.concatenate([sums_GK[rng.integers(0, groups, size=(size, groups))].sum(axis=1) for size in sizes])


def bootstrap(counts_N2: np.ndarray, groups_N: np.ndarray, seed: int, resamples: int = 1000) -> Rate:
    """Total errors / total units, and the 2.5 and 97.5 percentiles over resampled groups."""
    totals_R2 = resampled(counts_N2, groups_N, seed, resamples)
    low, high = np.percentile(totals_R2[:, 0] / np.maximum(totals_R2[:, 1], 1), [2.5, 97.5])
    errors, units_ = counts_N2.sum(axis=0)
    return Rate(value=float(errors / units_), low=float(low), high=float(high))
