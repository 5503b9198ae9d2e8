"""What the verbs do with language models: estimate one from text or transcripts, and decode with one."""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from speechssl.core import progress
from speechssl.core.errors import InputError
from speechssl.core.lines import read_lines
from speechssl.data.columns import Reading
from speechssl.data.marked import read_parts
from speechssl.data.tables import READERS, begin
from speechssl.text.build_lm import Built, build
from speechssl.text.lexicon import parse_hot, read_lexicon
from speechssl.text.ngram import UNKNOWN, LanguageModel, open_lm
from speechssl.text.normalise import FIXED, Normaliser
from speechssl.text.search import Search

DEFAULTS = {"lm_weight": Search.lm_weight, "word_score": Search.word_score}  # of a model that was not tuned


def build_lm(
    texts: Sequence[Path],
    out: Path,
    *,
    where: Sequence[str] = (),
    order: int = 4,
    units: str = "words",
    normaliser: str = "basic",
    language: str = "",
    encoding: str = "",
) -> Built:
    """Estimate a model of the lines of text files, a sentence each, and of the transcripts of tables, but for those of rows
    marked dev or test. normaliser, language: how they are spelled, which must be as the recogniser was trained on."""
    normal = Normaliser(name=normaliser, language=language)
    lines = (normal(line) for text in texts for line in lines_of(Path(text), where, encoding))
    return build(lines, out, order=order, units=units)


def lines_of(source: Path, where: Sequence[str], encoding: str) -> Iterator[str]:
    """The lines of a text file, or the transcripts of a table. InputError if it does not exist."""
    if not source.exists():
        raise InputError(
            f"{source} does not exist; give text with a sentence in each line, or a table with transcripts"
        )
    start = begin(source, Reading(encoding=encoding))
    if source.is_dir() or any(known.fits(start) for known in READERS.values()):
        rows, _ = read_parts([source], (), where, lambda note: print(note, file=sys.stderr))
        yield from rows.cells("text")
    else:
        yield from read_lines(source, encoding)


def tuned_file(lm: Path) -> Path:
    """Where `tune-lm` writes the weights of a language model."""
    return lm.with_name(f"{lm.name}.json")


def search_of(
    lm: Path | None,
    *,
    lexicon: Path | None = None,
    hot_words: Sequence[str] = (),
    decoder: str = "auto",
    beam: int = 100,
    lm_weight: float | None = None,
    word_score: float | None = None,
    n_best: int = 1,
) -> Search | None:
    """The search that the arguments of a verb ask for; None for greedy decoding. Weights that are not given are those of
    `tune-lm`, else DEFAULTS. InputError for files that cannot be used, and for greedy decoding with a model."""
    if lm is None and (lm_weight is not None or word_score is not None):
        raise InputError("--lm-weight and --word-score are those of a language model; name it with --lm")
    asked = lm is not None or lexicon is not None or bool(hot_words) or n_best > 1
    if decoder == "auto":
        decoder = "beam" if asked else "greedy"
    if decoder == "greedy" and not asked:
        return None
    given = {"lm_weight": lm_weight, "word_score": word_score}
    weights = DEFAULTS | (tuned(lm) if lm else {}) | {name: value for name, value in given.items() if value is not None}
    return Search(
        decoder=decoder,
        beam=beam,
        lm=opened(lm) if lm else None,
        lexicon=read_lexicon(lexicon) if lexicon else None,
        hot=parse_hot(hot_words),
        n_best=n_best,
        **weights,
    )


def opened(lm: Path) -> LanguageModel:
    """A language model, with a note if its vocabulary is closed."""
    found = open_lm(lm)
    if not found.knows(UNKNOWN):
        progress.write(
            f"{lm} has no <unk>: words that it does not know cost 99 powers of ten, so they are hardly ever found"
        )
    return found


def tuned(lm: Path) -> dict[str, float]:
    """The weights that `tune-lm` found for a language model; {} if it was not tuned. InputError for a file of another kind."""
    file = tuned_file(lm)
    if not file.exists():
        return {}
    try:
        values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return {name: float(values[name]) for name in DEFAULTS}
    except (ValueError, LookupError, TypeError):
        raise InputError(f"{file} does not hold {' and '.join(DEFAULTS)}; remove it, or run tune-lm again") from None


def normaliser_of(model: Any, name: str, given: dict[str, str]) -> Normaliser:
    """The normaliser for scoring: what is given, else what the model's training recorded. auto: basic; but none for phones that
    basic would split, lose or confuse, such as ts.h or SAMPA's @ and S, and upper for a vocabulary of capitals, where ß is SS."""
    recorded = model.recorded("text")
    known = recorded if isinstance(recorded, dict) and name not in FIXED else {}
    known = {key: known[key] for key in ("language", "digits", "points") if isinstance(known.get(key), str)}
    given = {key: value for key, value in given.items() if value != "trained"}
    if name != "auto":
        return Normaliser(name=name, **(known | given))
    symbols = list(filter(None, map(model.tokenizer.symbol, model.tokenizer.tokens)))
    if not model.tokenizer.writing.phones:
        return Normaliser(name="upper" if "".join(symbols).isupper() else "basic", **(known | given))
    basic = Normaliser(**(known | given))
    words = [word for symbol in symbols for word in basic(symbol).split() or [""]]
    return basic if len(set(words) - {""}) == len(words) == len(symbols) else Normaliser(name="none")
