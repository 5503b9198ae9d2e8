"""Corpora whose file names carry the labels, and the evidence that tells one from a folder with similar names."""

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from speechssl.core.errors import InputError
from speechssl.core.lines import read_lines
from speechssl.data.manifest import Utterance

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
RAVDESS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
EMODB = dict(W="anger", L="boredom", E="disgust", A="fear", F="happiness", T="sadness", N="neutral")
SAVEE = dict(a="anger", d="disgust", f="fear", h="happiness", n="neutral", sa="sadness", su="surprise")
EMOVO = dict(dis="disgust", gio="joy", neu="neutral", pau="fear", rab="anger", sor="surprise", tri="sadness")
SHEMO = dict(A="anger", F="fear", H="happiness", N="neutral", S="sadness", W="surprise")
NEMO = "anger|fear|happiness|neutral|sadness|surprised|surprise"


class Named(NamedTuple):
    """A corpus whose file names carry the labels.

    name: regular expression of a whole file name without its ending. columns: (match, path) -> what the name says.
    sure: regular expression of `folder/name` with what only this corpus has: its speakers, sentences, numbers. Somebody
    else's names may match it too, so it must hold for all files of the form `name`, of at least `speakers` speakers
    with `labels` labels. proof: a test of the names of all files, or of a table of the corpus, that must hold as well; evidence:
    in words. says_text: whether the name says the text, which a transcript beside the recording contradicts.
    """

    name: str
    columns: Callable[[re.Match, Path], dict[str, Any]]
    sure: str
    evidence: str
    speakers: int = 3
    labels: int = 3
    proof: Callable[[Sequence[Path]], bool] = bool
    says_text: bool = False
    tables: tuple[str, ...] = ()  # files above the recordings that `columns` or the reader looks into


def is_consistent(paths: Sequence[Path]) -> bool:
    """RAVDESS has no strong intensity of neutral, and its sound files begin with 03; somebody else's seven numbers need not."""
    strong = any(re.match(r"\d\d-\d\d-01-02-", path.stem) for path in paths)
    return not strong and all(path.stem[:2] == "03" for path in paths if path.suffix.lower() == ".wav")


def has_pleasant_surprise(paths: Sequence[Path]) -> bool:
    """TESS's own code; OAF and YAF (older and younger adult female) are used by others too."""
    return any(path.stem.endswith("_ps") for path in paths)


def has_two_letter_codes(paths: Sequence[Path]) -> bool:
    """SAVEE's sa and su; a number after initials and one letter is what many people write."""
    return any(re.search(r"(sa|su)\d\d$", path.stem) for path in paths)


def nemo_table(paths: Sequence[Path]) -> Path | None:
    """nEMO's data.tsv above the samples."""
    tables = (folder / "data.tsv" for folder in list(paths[0].parents)[:2])
    heads = {table: next(read_lines(table), "").split("\t") for table in tables if table.is_file()}
    return next((table for table, head in heads.items() if {"file_id", "emotion", "speaker_id"} <= set(head)), None)


@cache
def listed_in(table: Path) -> set[str]:
    """The lines of a list of Speech Commands, word/name.wav."""
    return set(read_lines(table)) if table.is_file() else set()


def command_split(path: Path) -> str:
    """The split of a recording of Speech Commands: what neither list names is training, if there are lists."""
    dev, test = (listed_in(path.parents[1] / name) for name in ("validation_list.txt", "testing_list.txt"))
    name = f"{path.parent.name}/{path.name}"
    return "dev" if name in dev else "test" if name in test else "train" if dev or test else ""


NAMED = {
    # 03-01-06-01-02-01-12: second number speech or song (songs get no label), third the emotion, last the actor
    "ravdess": Named(
        r"\d\d-(0[12])-(0[1-8])-\d\d-\d\d-\d\d-(\d\d)",
        lambda m, _: {"label": RAVDESS[int(m[2]) - 1] if m[1] == "01" else "", "speaker": m[3]},
        sure=r".*/0[1-3]-0[12]-0[1-8]-0[12]-0[12]-0[12]-(0[1-9]|1\d|2[0-4])",
        evidence="file names are its seven numbers, all in their ranges, neutral never strong",
        proof=is_consistent,
    ),
    # 03a01Fa: speaker, sentence, emotion, version
    "emodb": Named(
        r"(\d\d)[ab]\d\d([WLEAFTN])[a-z]",
        lambda m, _: {"label": EMODB[m[2]], "speaker": m[1]},
        sure=r".*/(03|08|09|1[0-6])(a0[12457]|b0[1239]|b10)[WLEAFTN][a-z]",
        evidence="file names are speaker, sentence and emotion, only of its ten speakers and ten sentences",
    ),
    # 7_theo_12: digit, speaker, number of the recording
    "fsdd": Named(
        r"(\d)_([a-z]+)_\d+",
        lambda m, _: {"label": m[1], "speaker": m[2], "text": DIGITS[int(m[1])]},
        sure=r".*/\d_(george|jackson|lucas|nicolas|theo|yweweler)_(\d|[1-4]\d)",
        evidence="file names digit_speaker_take of its six speakers",
        says_text=True,
    ),
    # yes/0a7c2a8d_nohash_0: word, speaker, number of the recording; two lists say which are of dev and test
    "speech-commands": Named(
        r"([0-9a-f]{8})_nohash_\d+",
        lambda m, path: {
            "label": (word := path.parent.name),
            "text": word,
            "speaker": m[1],
            "split": command_split(path),
        },
        sure=r"\w+/[0-9a-f]{8}_nohash_\d+",
        evidence="file names speaker_nohash_take in folders of words",
        labels=2,
        says_text=True,
        tables=("validation_list.txt", "testing_list.txt"),
    ),
    # DC_sa03, or sa03 in the folder DC: speaker, emotion, number
    "savee": Named(
        r"(?:([A-Z]{2})_)?(sa|su|[adfhn])\d\d",
        lambda m, path: {"label": SAVEE[m[2]], "speaker": m[1] or path.parent.name},
        sure=r"(.*/(DC|JE|JK|KL)_|(DC|JE|JK|KL)/)((sa|su|[adfh])(0[1-9]|1[0-5])|n(0[1-9]|[12]\d|30))",
        evidence="its speakers DC, JE, JK, KL and its codes of emotions, sa and su among them",
        proof=has_two_letter_codes,
    ),
    # OAF_back_angry: older or younger speaker, word, emotion (ps: pleasant surprise); the corpus has one OA_bite_neutral
    "tess": Named(
        r"([OY]A)F?_[A-Za-z]+_(angry|disgust|fear|happy|neutral|ps|sad)",
        lambda m, _: {"label": "surprise" if m[2] == "ps" else m[2], "speaker": f"{m[1]}F"},
        sure=r".*/([OY]AF_[a-z]+_(angry|disgust|fear|happy|neutral|ps|sad)|OA_bite_neutral)",
        evidence="file names of its two speakers OAF and YAF with its emotions, ps among them",
        speakers=2,
        proof=has_pleasant_surprise,
    ),
    # AB0_anger_12: speaker, emotion, sentence
    "nemo": Named(
        rf"([A-Z]+\d*)_((?i:{NEMO}))_\d+",
        lambda m, _: {"label": m[2].lower(), "speaker": m[1]},
        sure=rf".*/[A-Z]+\d*_({NEMO})_\d+",
        evidence="its table data.tsv (file_id, emotion, speaker_id) and file names of that form",
        speakers=1,
        proof=lambda paths: nemo_table(paths) is not None,
        tables=("data.tsv",),
    ),
    # neu-m1-b1: emotion, speaker, sentence
    "emovo": Named(
        rf"({'|'.join(EMOVO)})-([fm]\d)-\w+",
        lambda m, _: {"label": EMOVO[m[1]], "speaker": m[2]},
        sure=rf".*/({'|'.join(EMOVO)})-[fm][1-3]-(b[1-3]|l[1-4]|n[1-5]|d[12])",
        evidence="file names emotion-speaker-sentence of its six speakers and fourteen sentences",
        speakers=2,
    ),
    # F01A01 in the folder female: speaker, emotion, number
    "shemo": Named(
        r"([FM]\d\d)([A-Z])\d\d",
        lambda m, _: {"label": SHEMO.get(m[2], ""), "speaker": m[1]},
        sure=r"(female/F|male/M)\d\d[ANHSWF]\d\d",
        evidence="folders female and male with file names of speaker, emotion and number",
    ),
}


def read_named(corpus: str, files: Sequence[Path], folder: Path) -> Iterator[Utterance]:
    """A corpus of `NAMED`. Files of other names come without labels. nEMO's table has the texts."""
    known, texts = NAMED[corpus], {}
    table = nemo_table(files) if corpus == "nemo" and files else None
    if table:
        head, *lines = (line.split("\t") for line in read_lines(table))
        rows = (dict(zip(head, cells)) for cells in lines)
        texts = {row["file_id"].removesuffix(".wav"): row.get("raw_text", "") for row in rows if row.get("file_id")}
    for path in files:
        match = re.fullmatch(known.name, path.stem)
        columns = known.columns(match, path) if match else {}
        if path.stem in texts:
            columns["text"] = texts[path.stem]
        yield Utterance(id=path.relative_to(folder).with_suffix("").as_posix(), path=str(path), **columns)


def read_pattern(pattern: str, files: Sequence[Path], folder: Path) -> Iterator[Utterance]:
    """Any folder, with columns from the names of its files.

    pattern: regular expression that is searched for in each path below the folder, without its ending; its named groups
    are columns. InputError for an expression that is not valid, or whose groups are not columns.
    """
    try:
        known = re.compile(pattern)
    except re.error as error:
        raise InputError(f"--pattern {pattern!r} is not a regular expression ({error})") from None
    allowed = {"label", "speaker", "text", "split"}
    if not known.groupindex or known.groupindex.keys() - allowed:
        raise InputError(
            f"--pattern {pattern!r} must name groups, of {', '.join(sorted(allowed))}: for F_01_ANGRY_3.wav it would be "
            r"'(?P<speaker>[FM]_\d+)_(?P<label>[A-Z]+)_\d+'"
        )
    for path in files:
        name = path.relative_to(folder).with_suffix("").as_posix()
        match = known.search(name)
        columns: dict[str, Any] = match.groupdict("") if match else {}
        yield Utterance(id=name + path.suffix, path=str(path), **columns)


def members(corpus: str, files: Sequence[Path]) -> list[Path]:
    """The files of the form of a corpus, if over four in five have it, else none."""
    found = [path for path in files if re.fullmatch(NAMED[corpus].name, path.stem)]
    return found if len(found) > 0.8 * len(files) else []


def stranger(corpus: str, files: Sequence[Path]) -> str:
    """The name of a file of the form of a corpus that it cannot have; "" if there is none."""
    names = (f"{path.parent.name}/{path.stem}" for path in files)
    return next((name.partition("/")[2] for name in names if not re.fullmatch(NAMED[corpus].sure, name)), "")


def doubts(corpus: str, files: Sequence[Path]) -> str:
    """Why files of the form of a corpus need not be it, in words; "" if the evidence is sufficient."""
    known = NAMED[corpus]
    if other := stranger(corpus, files):
        return f"{other} is none of its names"
    rows = [known.columns(match, path) for path in files if (match := re.fullmatch(known.name, path.stem))]
    for column, least in (("speaker", known.speakers), ("label", known.labels)):
        if (count := len({row[column] for row in rows})) < least:
            return f"only {count} {column}{'s' * (count != 1)}"
    return "" if known.proof(files) else f"not {known.evidence}"
