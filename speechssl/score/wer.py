"""Word and character error rate with a bootstrap interval; jiwer aligns."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import jiwer
import numpy as np

from speechssl.core.errors import InputError
from speechssl.text.normalise import Normaliser
from speechssl.text.scripts import counted, spaceless, units

GREEDY = "greedy CTC, no language model"


@dataclass(frozen=True, kw_only=True)
class Rate:
    """An error rate over a corpus (errors / reference units) with its 95 % interval, as fractions."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}]"


@dataclass(frozen=True, kw_only=True)
class ErrorRates:
    """wer, cer: over the whole corpus. clusters: what the bootstrap draws. worst: (word errors, id, reference, hypothesis), the
    largest first. scripts: those of the references that write no spaces between words; what is said of a word is then said of
    one of their letters. headline: wer, or cer where most letters are of such a script.
    phones: whether the words are phones. decoding: how the hypotheses were found."""

    wer: Rate
    cer: Rate
    utterances: int
    empty: int
    clusters: str
    normaliser: str
    worst: list[tuple[int, str, str, str]]
    scripts: list[str]
    headline: str
    phones: bool = False
    decoding: str = GREEDY

    def __str__(self) -> str:
        rates = [f"WER {self.wer}", f"CER {self.cer}"]
        lines = [
            "   ".join(rates if self.headline == "wer" else reversed(rates)),
            f"  {self.utterances} utterances; 95 % bootstrap over {self.clusters}; {self.decoding}; "
            f"normaliser {self.normaliser!r}",
        ]
        if self.phones:
            lines.append("  the words are phones, so WER is the phone error rate (PER)")
        if self.scripts:
            lines.append(
                f"  {' and '.join(self.scripts)}: no spaces between words, so spaces beside its letters do not count, and WER "
                "takes each letter for a word (with words of other scripts: the mixed error rate)"
            )
        if self.empty:
            lines.append(f"  {self.empty} utterances with an empty reference are not counted")
        if self.worst and self.worst[0][0]:
            lines.append("  worst utterances (word errors, id):")
        for errors, name, reference, hypothesis in self.worst:
            if errors:
                lines += [f"    {errors:3d}  {name}", f"         ref: {reference}", f"         hyp: {hypothesis}"]
        return "\n".join(lines)


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
    texts = zip(map(normal, references), map(normal, hypotheses), strict=True)
    rows = [(name, *pair, speaker) for name, pair, speaker in zip(names, texts, spoken_by, strict=True)]
    kept = [row for row in rows if row[1].strip()]
    if not kept:
        raise InputError("no reference has a word; scoring needs transcripts (column `text`)")
    names, refs, hyps, spoken_by = zip(*kept, strict=True)
    pairs = [counted(reference, hypothesis) for reference, hypothesis in zip(refs, hyps, strict=True)]
    words = [errors_of(jiwer.process_words(*pair.words)) for pair in pairs]
    characters = [errors_of(jiwer.process_characters(*pair.characters)) for pair in pairs]
    groups, clusters = bootstrap_groups(spoken_by)
    scripts = sum((Counter(spaceless(text)) for text in refs), Counter())
    order = sorted(range(len(kept)), key=lambda i: -words[i][0])[:worst]
    return ErrorRates(
        wer=bootstrap(np.array(words), groups, seed),
        cer=bootstrap(np.array(characters), groups, seed),
        utterances=len(kept),
        empty=len(rows) - len(kept),
        clusters=clusters,
        normaliser=str(normal),
        worst=[(words[i][0], names[i], refs[i], hyps[i]) for i in order],
        scripts=[name for name, _ in scripts.most_common()],
        phones=phones,
        decoding=decoding,
        headline="cer" if scripts.total() > 0.5 * sum(len(unit) for text in refs for unit in units(text)) else "wer",
    )


def bootstrap_groups(speakers: Sequence[str]) -> tuple[np.ndarray, str]:
    """The group of each utterance for the bootstrap, numbered from 0, and what these groups are."""
    if len(set(speakers) - {""}) < 5:
        return np.arange(len(speakers)), "utterances"
    unknown = sum(not speaker for speaker in speakers)
    names = [(speaker, -1) if speaker else ("", index) for index, speaker in enumerate(speakers)]
    numbers = {name: number for number, name in enumerate(sorted(set(names)))}
    groups = np.array([numbers[name] for name in names])
    return groups, f"speakers, and {unknown} utterances without a speaker" if unknown else "speakers"


def errors_of(output: jiwer.WordOutput | jiwer.CharacterOutput) -> tuple[int, int]:
    """(errors, units of the reference) of one alignment."""
    errors = output.substitutions + output.deletions + output.insertions
    return errors, output.hits + output.substitutions + output.deletions


def bootstrap(counts_N2: np.ndarray, groups_N: np.ndarray, seed: int, resamples: int = 1000) -> Rate:
    """Total errors / total units, and the 2.5 and 97.5 percentiles over resampled groups."""
    sums_G2 = np.stack([np.bincount(groups_N, weights=column) for column in counts_N2.T], axis=1)
    picks_RG = np.random.default_rng(seed).integers(0, len(sums_G2), size=(resamples, len(sums_G2)))
    totals_R2 = sums_G2[picks_RG].sum(axis=1)
    rates_R = totals_R2[:, 0] / np.maximum(totals_R2[:, 1], 1)
    low, high = np.percentile(rates_R, [2.5, 97.5])
    total = sums_G2.sum(axis=0)
    return Rate(value=float(total[0] / total[1]), low=float(low), high=float(high))
