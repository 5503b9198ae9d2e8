"""Known corpus trees: from a folder to utterances whose audio nobody has opened yet. A reader is a generator of Utterance."""

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from speechssl.core.errors import InputError
from speechssl.core.files import files_below
from speechssl.data.cremad import CREMA_D_NAME, read_crema_d
from speechssl.data.manifest import Manifest, Utterance, read_manifest
from speechssl.sound.audio import EXTENSIONS, FOREIGN

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
RAVDESS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
EMODB = dict(W="anger", L="boredom", E="disgust", A="fear", F="happiness", T="sadness", N="neutral")
SAVEE = dict(a="anger", d="disgust", f="fear", h="happiness", n="neutral", sa="sadness", su="surprise")
EMOVO = dict(dis="disgust", gio="joy", neu="neutral", pau="fear", rab="anger", sor="surprise", tri="sadness")
SHEMO = dict(A="anger", F="fear", H="happiness", N="neutral", S="sadness", W="surprise")
NEMO = "anger|fear|happiness|neutral|sadness|surprised|surprise"


class Named(NamedTuple):
    """A corpus whose file names carry the labels. name: all of it but the ending. tell: (match, path) -> what it says."""

    name: str
    tell: Callable[[re.Match, Path], dict[str, Any]]


NAMED = {
    # 03-01-06-01-02-01-12: second number speech or song (songs get no label), third the emotion, last the actor
    "ravdess": Named(
        r"\d\d-(0[12])-(0[1-8])-\d\d-\d\d-\d\d-(\d\d)",
        lambda m, _: {"label": RAVDESS[int(m[2]) - 1] if m[1] == "01" else "", "speaker": m[3]},
    ),
    # 03a01Fa: speaker, sentence, emotion, version
    "emodb": Named(r"(\d\d)[ab]\d\d([WLEAFTN])[a-z]", lambda m, _: {"label": EMODB[m[2]], "speaker": m[1]}),
    # 7_theo_12: digit, speaker, number of the recording
    "fsdd": Named(r"(\d)_([a-z]+)_\d+", lambda m, _: {"label": m[1], "speaker": m[2], "text": DIGITS[int(m[1])]}),
    # DC_sa03, or sa03 in the folder DC: speaker, emotion, number
    "savee": Named(
        r"(?:([A-Z]{2})_)?(sa|su|[adfhn])\d\d",
        lambda m, path: {"label": SAVEE[m[2]], "speaker": m[1] or path.parent.name},
    ),
    # OAF_back_angry: older or younger speaker, word, emotion (ps: pleasant surprise); the corpus has one OA_bite_neutral
    "tess": Named(
        r"([OY]A)F?_[A-Za-z]+_(angry|disgust|fear|happy|neutral|ps|sad)",
        lambda m, _: {"label": "surprise" if m[2] == "ps" else m[2], "speaker": f"{m[1]}F"},
    ),
    # AB0_anger_12: speaker, emotion, sentence
    "nemo": Named(rf"([A-Z]+\d*)_((?i:{NEMO}))_\d+", lambda m, _: {"label": m[2].lower(), "speaker": m[1]}),
    # neu-m1-b1: emotion, speaker, sentence
    "emovo": Named(rf"({'|'.join(EMOVO)})-([fm]\d)-\w+", lambda m, _: {"label": EMOVO[m[1]], "speaker": m[2]}),
    # F01A01: speaker, emotion, number
    "shemo": Named(r"([FM]\d\d)([ANHSWF])\d\d", lambda m, _: {"label": SHEMO[m[2]], "speaker": m[1]}),
}


def audio_files(folder: Path) -> list[Path]:
    """Every file below with an audio ending, sorted; broken links and formats that cannot be decoded too: they are told."""
    return sorted(path for path in files_below(folder) if path.suffix.lower() in (*EXTENSIONS, *FOREIGN))


def read_text(path: Path) -> str:
    """A text file; each byte that is no UTF-8 becomes U+FFFD, for which `prepare` rejects the row."""
    return path.read_text(encoding="utf-8-sig", errors="replace")


def identity(path: Path, folder: Path) -> str:
    """The path below the corpus, without its ending."""
    return path.relative_to(folder).with_suffix("").as_posix()


def read_named(corpus: str, folder: Path) -> Iterator[Utterance]:
    """A corpus of `NAMED`; files of other names come without labels."""
    for path in audio_files(folder):
        match = re.fullmatch(NAMED[corpus].name, path.stem)
        yield Utterance(id=identity(path, folder), path=str(path), **(NAMED[corpus].tell(match, path) if match else {}))


def read_pattern(pattern: str, folder: Path) -> Iterator[Utterance]:
    """Any folder: the named groups of a regular expression, searched for in the path below it without its ending, are columns.
    InputError for an expression that is none, or that names no column of ours."""
    try:
        known = re.compile(pattern)
    except re.error as error:
        raise InputError(f"--pattern {pattern!r} is not a regular expression ({error})") from None
    columns = {"label", "speaker", "text", "split"}
    if not known.groupindex or known.groupindex.keys() - columns:
        raise InputError(
            f"--pattern {pattern!r} must name groups, of {', '.join(sorted(columns))}: for F_01_ANGRY_3.wav it would be "
            r"'(?P<speaker>[FM]_\d+)_(?P<label>[A-Z]+)_\d+'"
        )
    for path in audio_files(folder):
        name = identity(path, folder)
        match = known.search(name)
        told: dict[str, Any] = match.groupdict("") if match else {}
        yield Utterance(id=name + path.suffix, path=str(path), **told)


def class_level(paths: list[Path], folder: Path) -> int | None:
    """Which level of folders below `folder` tells the class: the one that differs. None if none does; InputError if several do,
    since nothing says which is the class."""
    parts = [path.relative_to(folder).parts[:-1] for path in paths]
    depth = max(map(len, parts), default=0)
    levels = [sorted({(*own, *[""] * depth)[level] for own in parts}) for level in range(depth)]
    telling = [level for level, names in enumerate(levels) if len(names) > 1]
    if len(telling) > 1:
        shown = "; ".join(
            f"level {level + 1}: {', '.join(name or '-' for name in levels[level][:4])} ..." for level in telling
        )
        below = f"^([^/]+/){{{telling[0]}}}" if telling[0] else "^"
        raise InputError(
            f"{folder} has folders in folders ({shown}), and no file name tells which is the class; say it: --pattern "
            f"'{below}(?P<speaker>[^/]+)/(?P<label>[^/]+)/' takes level {telling[0] + 1} for speakers and the next for labels"
        )
    return telling[0] if telling else None


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


CORPORA: dict[str, Callable[[Path], Iterator[Utterance]]] = {
    "librispeech": read_librispeech,
    "common-voice": read_common_voice,
    "crema-d": read_crema_d,
    **{corpus: partial(read_named, corpus) for corpus in NAMED},
    "folder": read_folder,
}


def detect(folder: Path) -> str:
    """The name of the corpus whose tree this looks like; by names if they are those of four files in five."""
    files = list(files_below(folder))
    if any(path.name.endswith(".trans.txt") for path in files):
        return "librispeech"
    if looks_like_common_voice(folder):
        return "common-voice"
    stems = [path.stem for path in files if path.suffix.lower() in EXTENSIONS and not path.name.startswith(".")]
    for corpus, name in {"crema-d": CREMA_D_NAME, **{corpus: known.name for corpus, known in NAMED.items()}}.items():
        if len(stems) > 2 and sum(bool(re.fullmatch(name, stem)) for stem in stems) > 0.8 * len(stems):
            return corpus
    return "folder"


def find_rows(source: Path, corpus: str = "auto", pattern: str = "") -> tuple[Manifest, str]:
    """The rows of a manifest or a folder, and what it is: "manifest", "pattern" or the name of a corpus. InputError: nothing
    there."""
    if not source.exists():
        raise InputError(f"{source} does not exist; give a folder of audio or a manifest")
    if corpus != "auto" and corpus not in CORPORA:
        raise InputError(f"there is no corpus reader {corpus!r}; choose one of {', '.join(CORPORA)}")
    if pattern and (source.is_file() or corpus not in ("auto", "folder")):
        raise InputError(
            "--pattern tells what the names in a folder mean; give a folder, and no other name of a corpus beside it"
            if source.is_dir()
            else f"--pattern tells what the names in a folder mean, and {source} is a manifest; fill in its columns"
        )
    if source.is_file() or (source / "wav.scp").exists():
        return read_manifest(source), "manifest"
    if pattern:
        rows, name = Manifest.of(read_pattern(pattern, source)), "pattern"
    else:
        name = detect(source) if corpus == "auto" else corpus
        rows = Manifest.of(CORPORA[name](source))
    if not len(rows):
        raise InputError(f"{source} holds no audio; looked for files ending in {' '.join(EXTENSIONS)}")
    return rows, name
