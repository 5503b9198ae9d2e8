"""Known corpus trees: one reader each, from a folder to utterances whose audio nobody has opened yet.

A reader is a generator of Utterance; `CORPORA` says how each tree is recognised.
"""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from speechssl.audio import EXTENSIONS
from speechssl.data.cremad import read_crema_d
from speechssl.data.manifest import Utterance
from speechssl.errors import InputError

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
RAVDESS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
EMODB = dict(W="anger", L="boredom", E="disgust", A="fear", F="happiness", T="sadness", N="neutral")
SAVEE = dict(a="anger", d="disgust", f="fear", h="happiness", n="neutral", sa="sadness", su="surprise")
NEMO = "anger|fear|happiness|neutral|sadness|surprised|surprise"
PATTERNS = {
    "ravdess": re.compile(r"\d\d-\d\d-(\d\d)-\d\d-\d\d-\d\d-(\d\d)"),
    "crema-d": re.compile(r"(\d{4})_[A-Z]{3}_([A-Z]{3})_[A-Z]{2}"),
    "emodb": re.compile(r"(\d\d)[ab]\d\d([WLEAFTN])[a-z]"),
    "fsdd": re.compile(r"(\d)_([a-z]+)_\d+"),
    "savee": re.compile(r"(?:([A-Z]{2})_)?(sa|su|[adfhn])\d\d"),
    "tess": re.compile(r"([OY]AF)_[A-Za-z]+_(angry|disgust|fear|happy|neutral|ps|sad)"),
    "nemo": re.compile(rf"([A-Z]+\d*)_({NEMO})_\d+", re.IGNORECASE),
}


def files_below(folder: Path) -> Iterator[Path]:
    """Every file below; links to folders are followed, but no folder is entered twice."""
    entered = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        folders.sort()
        if os.path.realpath(place) in entered:
            folders.clear()
            continue
        entered.add(os.path.realpath(place))
        yield from (Path(place, name) for name in names)


def audio_files(folder: Path) -> list[Path]:
    """Every file below with an audio ending, sorted; broken links too, so that they are told."""
    return sorted(path for path in files_below(folder) if path.suffix.lower() in EXTENSIONS)


def read_text(path: Path) -> str:
    """A text file; each byte that is no UTF-8 becomes U+FFFD, for which `prepare` rejects the row."""
    return path.read_text(encoding="utf-8-sig", errors="replace")


def identity(path: Path, folder: Path) -> str:
    """The path below the corpus, without its ending."""
    return path.relative_to(folder).with_suffix("").as_posix()


def read_savee(folder: Path) -> Iterator[Utterance]:
    """DC_sa03.wav, or DC/sa03.wav: speaker, emotion, number."""
    for row in named(folder, "savee", lambda m: {"label": SAVEE[m[2]], "speaker": m[1] or ""}):
        yield row if row.speaker else replace(row, speaker=Path(row.path).parent.name)


def read_tess(folder: Path) -> Iterator[Utterance]:
    """OAF_back_angry.wav: older or younger speaker, word, emotion ("ps": pleasant surprise)."""
    return named(folder, "tess", lambda m: {"label": "surprise" if m[2] == "ps" else m[2], "speaker": m[1]})


def read_nemo(folder: Path) -> Iterator[Utterance]:
    """nEMO's AB0_anger_12.wav: speaker, emotion, sentence."""
    return named(folder, "nemo", lambda m: {"label": m[2].lower(), "speaker": m[1]})


def named(folder: Path, corpus: str, tell: Callable[[re.Match], dict[str, Any]]) -> Iterator[Utterance]:
    """A corpus whose file names carry the labels; files of other names come without."""
    for path in audio_files(folder):
        match = PATTERNS[corpus].fullmatch(path.stem)
        yield Utterance(id=identity(path, folder), path=str(path), **(tell(match) if match else {}))


def read_ravdess(folder: Path) -> Iterator[Utterance]:
    """03-01-06-01-02-01-12.wav: third number the emotion, last one the actor."""
    return named(folder, "ravdess", lambda m: {"label": RAVDESS[(int(m[1]) - 1) % 8], "speaker": m[2]})


def read_emodb(folder: Path) -> Iterator[Utterance]:
    """03a01Fa.wav: speaker, sentence, emotion, version."""
    return named(folder, "emodb", lambda m: {"label": EMODB[m[2]], "speaker": m[1]})


def read_fsdd(folder: Path) -> Iterator[Utterance]:
    """7_theo_12.wav: digit, speaker, number of the recording."""
    return named(folder, "fsdd", lambda m: {"label": m[1], "speaker": m[2], "text": DIGITS[int(m[1])]})


def read_librispeech(folder: Path) -> Iterator[Utterance]:
    """speaker/chapter/speaker-chapter-number.flac with one .trans.txt a chapter; the split is the folder above."""
    texts: dict[str, str] = {}
    for file in files_below(folder):
        if file.name.endswith(".trans.txt"):
            pairs = (line.partition(" ") for line in read_text(file).split("\n"))
            texts |= {name: text.strip() for name, _, text in pairs}
    for path in audio_files(folder):
        split = path.parents[2].name if len(path.relative_to(folder).parts) > 3 else ""
        speaker = path.stem.split("-")[0]
        yield Utterance(id=path.stem, path=str(path), speaker=speaker, text=texts.get(path.stem, ""), split=split)


def read_common_voice(folder: Path) -> Iterator[Utterance]:
    """clips/ beside train.tsv, dev.tsv and test.tsv (else validated.tsv)."""
    tables = [folder / f"{split}.tsv" for split in ("train", "dev", "test")]
    tables = [table for table in tables if table.is_file()] or [folder / "validated.tsv"]
    if not tables[0].is_file():
        raise InputError(f"{folder} has neither train.tsv nor validated.tsv beside clips/; try --corpus folder")
    for table in tables:
        head, *lines = [line.split("\t") for line in read_text(table).split("\n")]
        for cells in lines:
            row = dict(zip(head, cells, strict=False))
            if not row.get("path"):
                continue  # the empty line at the end
            path = folder / "clips" / row["path"]
            yield Utterance(
                id=Path(row["path"]).stem,
                path=str(path if path.suffix else path.with_suffix(".mp3")),
                speaker=row.get("client_id", "")[:16],
                text=row.get("sentence", ""),
                split=table.stem,
            )


def looks_like_common_voice(folder: Path) -> bool:
    """clips/ and a table of sentences; a manifest of ours beside a folder of that name is none."""
    tables = [folder / f"{split}.tsv" for split in ("train", "dev", "test", "validated")]
    heads = (set(read_text(table).partition("\n")[0].split("\t")) for table in tables if table.is_file())
    return (folder / "clips").is_dir() and any(head >= {"path", "sentence"} for head in heads)


def read_folder(folder: Path) -> Iterator[Utterance]:
    """Any folder: the speaker is the parent folder; a .txt of the same name beside the audio is its transcript."""
    for path in audio_files(folder):
        text = path.with_suffix(".txt")
        yield Utterance(
            id=identity(path, folder) + path.suffix,
            path=str(path),
            speaker="" if path.parent == folder else path.parent.relative_to(folder).as_posix(),
            text=read_text(text).strip() if text.is_file() else "",
        )


def looks_named(corpus: str) -> Callable[[Path], bool]:
    """Whether nearly all audio files of a folder carry a corpus's kind of name."""

    def detect(folder: Path) -> bool:
        files = audio_files(folder)
        return len(files) > 2 and sum(bool(PATTERNS[corpus].fullmatch(p.stem)) for p in files) > 0.9 * len(files)

    return detect


CORPORA: dict[str, tuple[Callable[[Path], bool], Callable[[Path], Iterator[Utterance]]]] = {
    "librispeech": (lambda folder: any(p.name.endswith(".trans.txt") for p in files_below(folder)), read_librispeech),
    "common-voice": (looks_like_common_voice, read_common_voice),
    "ravdess": (looks_named("ravdess"), read_ravdess),
    "crema-d": (looks_named("crema-d"), read_crema_d),
    "emodb": (looks_named("emodb"), read_emodb),
    "fsdd": (looks_named("fsdd"), read_fsdd),
    "savee": (looks_named("savee"), read_savee),
    "tess": (looks_named("tess"), read_tess),
    "nemo": (looks_named("nemo"), read_nemo),
    "folder": (lambda folder: True, read_folder),
}


def detect(folder: Path) -> str:
    """The name of the first corpus whose tree this looks like."""
    return next(name for name, (looks, _) in CORPORA.items() if looks(folder))
