"""Known corpora: from a folder to its utterances, of which no audio is opened here. A reader is a generator of Utterance."""

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from speechssl.core.errors import InputError
from speechssl.core.files import files_below, read_text, text_beside
from speechssl.data.columns import Reading
from speechssl.data.cremad import CREMA_D_NAME, read_crema_d
from speechssl.data.manifest import Manifest, Utterance
from speechssl.data.tables import is_table, read_manifest
from speechssl.sound.audio import EXTENSIONS, FOREIGN

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
    sure: regular expression of `folder/name`, by which the corpus is recognised where `name` is so common that a
    folder of somebody else may match it; "" if `name` is unmistakable.
    """

    name: str
    columns: Callable[[re.Match, Path], dict[str, Any]]
    sure: str = ""


NAMED = {
    # 03-01-06-01-02-01-12: second number speech or song (songs get no label), third the emotion, last the actor
    "ravdess": Named(
        r"\d\d-(0[12])-(0[1-8])-\d\d-\d\d-\d\d-(\d\d)",
        lambda m, _: {"label": RAVDESS[int(m[2]) - 1] if m[1] == "01" else "", "speaker": m[3]},
        sure=r".*/0[1-3]-0[12]-0[1-8]-0[12]-0[12]-0[12]-\d\d",  # a date with a time has as many numbers
    ),
    # 03a01Fa: speaker, sentence, emotion, version
    "emodb": Named(
        r"(\d\d)[ab]\d\d([WLEAFTN])[a-z]",
        lambda m, _: {"label": EMODB[m[2]], "speaker": m[1]},
        sure=r".*/(03|08|09|1[0-6])(a0[12457]|b0[1239]|b10)[WLEAFTN][a-z]",  # its ten speakers and ten sentences
    ),
    # 7_theo_12: digit, speaker, number of the recording
    "fsdd": Named(
        r"(\d)_([a-z]+)_\d+",
        lambda m, _: {"label": m[1], "speaker": m[2], "text": DIGITS[int(m[1])]},
        sure=r".*/\d_(george|jackson|lucas|nicolas|theo|yweweler)_\d+",
    ),
    # DC_sa03, or sa03 in the folder DC: speaker, emotion, number
    "savee": Named(
        r"(?:([A-Z]{2})_)?(sa|su|[adfhn])\d\d",
        lambda m, path: {"label": SAVEE[m[2]], "speaker": m[1] or path.parent.name},
        sure=r"(.*/(DC|JE|JK|KL)_|(DC|JE|JK|KL)/)(sa|su|[adfhn])\d\d",
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
    # F01A01 in the folder female: speaker, emotion, number
    "shemo": Named(
        r"([FM]\d\d)([ANHSWF])\d\d",
        lambda m, _: {"label": SHEMO[m[2]], "speaker": m[1]},
        sure=r"(female/F|male/M)\d\d[ANHSWF]\d\d",
    ),
}


def audio_files(folder: Path) -> list[Path]:
    """Every file below with an audio ending, sorted; broken links and undecodable formats too, so that they are reported."""
    return sorted(path for path in files_below(folder) if path.suffix.lower() in (*EXTENSIONS, *FOREIGN))


def identity(path: Path, folder: Path) -> str:
    """The path below the folder, without its ending."""
    return path.relative_to(folder).with_suffix("").as_posix()


def read_named(corpus: str, folder: Path) -> Iterator[Utterance]:
    """A corpus of `NAMED`. Files of other names come without labels; a transcript beside the audio wins over the name's."""
    known = NAMED[corpus]
    for path in audio_files(folder):
        match = re.fullmatch(known.name, path.stem)
        columns = known.columns(match, path) if match else {}
        columns["text"] = text_beside(path) or columns.get("text", "")
        yield Utterance(id=identity(path, folder), path=str(path), **columns)


def read_pattern(pattern: str, folder: Path) -> Iterator[Utterance]:
    """Any folder, with columns from the names of its files.

    pattern: regular expression that is searched for in each path below the folder, without its ending; its named groups
    are columns. A transcript beside the audio is read where the pattern has no group for it. InputError for an expression
    that is not valid, or whose groups are not columns.
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
    for path in audio_files(folder):
        name = identity(path, folder)
        match = known.search(name)
        columns: dict[str, Any] = match.groupdict("") if match else {}
        if "text" not in known.groupindex:
            columns["text"] = text_beside(path)
        yield Utterance(id=name + path.suffix, path=str(path), **columns)


def class_level(paths: list[Path], folder: Path) -> int | None:
    """The level of folders below `folder` that holds the classes: the only one at which the paths differ (0: the first).

    None if they differ at no level. InputError if they differ at several, because nothing says which one is the class.
    """
    folders = [path.relative_to(folder).parts[:-1] for path in paths]
    levels = []  # the names at each level; "" where a file lies above it
    for level in range(max(map(len, folders), default=0)):
        levels.append(sorted({parts[level] if level < len(parts) else "" for parts in folders}))
    differing = [level for level, names in enumerate(levels) if len(names) > 1]
    if not differing:
        return None
    if len(differing) == 1:
        return differing[0]
    examples = []
    for level in differing:
        names = ", ".join(name or "-" for name in levels[level][:4])
        examples.append(f"level {level + 1}: {names} ...")
    first = differing[0]
    above = f"^([^/]+/){{{first}}}" if first else "^"
    raise InputError(
        f"{folder} has folders in folders ({'; '.join(examples)}), and no file name shows which one is the class; say so: "
        f"--pattern '{above}(?P<speaker>[^/]+)/(?P<label>[^/]+)/' takes level {first + 1} for speakers and the next for labels"
    )


def read_librispeech(folder: Path) -> Iterator[Utterance]:
    """LibriSpeech: speaker/chapter/speaker-chapter-number.flac, one .trans.txt per chapter; the split is the folder above."""
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
    """Common Voice: clips/ beside train.tsv, dev.tsv and test.tsv, else validated.tsv."""
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


def looks_like_librispeech(files: list[Path]) -> bool:
    """Whether a chapter's 84-121.trans.txt lies beside a clip of it, 84-121-0000.flac."""
    chapters = {path.with_name(path.name.removesuffix(".trans.txt")) for path in files if ".trans.txt" in path.name}
    return any(path.with_name(path.stem.rpartition("-")[0]) in chapters for path in files if "-" in path.stem)


def looks_like_common_voice(folder: Path) -> bool:
    """Whether there are clips/ and a table with the columns path and sentence; our own manifests have no sentence."""
    tables = [folder / f"{split}.tsv" for split in ("train", "dev", "test", "validated")]
    heads = (set(read_text(table).partition("\n")[0].split("\t")) for table in tables if table.is_file())
    return (folder / "clips").is_dir() and any(head >= {"path", "sentence"} for head in heads)


def read_folder(folder: Path) -> Iterator[Utterance]:
    """Any folder: the speaker is the parent folder; a .txt of the same name beside the audio is its transcript."""
    for path in audio_files(folder):
        yield Utterance(
            id=identity(path, folder) + path.suffix,
            path=str(path),
            speaker="" if path.parent == folder else path.parent.relative_to(folder).as_posix(),
            text=text_beside(path),
        )


CORPORA: dict[str, Callable[[Path], Iterator[Utterance]]] = {
    "librispeech": read_librispeech,
    "common-voice": read_common_voice,
    "crema-d": read_crema_d,
    **{corpus: partial(read_named, corpus) for corpus in NAMED},
    "folder": read_folder,
}


def detect(folder: Path) -> str:
    """Name the corpus that a folder holds: by its tables, else by file names if four in five can hardly be of anything else.

    "folder" if none is recognised.
    """
    files = list(files_below(folder))
    if looks_like_librispeech(files):
        return "librispeech"
    if looks_like_common_voice(folder):
        return "common-voice"
    audible = [path for path in files if path.suffix.lower() in EXTENSIONS and not path.name.startswith(".")]
    names = [f"{path.parent.name}/{path.stem}" for path in audible]
    patterns = {corpus: known.sure or f".*/{known.name}" for corpus, known in NAMED.items()}
    for corpus, pattern in {"crema-d": f".*/{CREMA_D_NAME}", **patterns}.items():
        if len(names) > 2 and sum(bool(re.fullmatch(pattern, name)) for name in names) > 0.8 * len(names):
            return corpus
    return "folder"


def find_rows(
    source: Path, corpus: str = "auto", pattern: str = "", reading: Reading | None = None
) -> tuple[Manifest, str]:
    """The rows of a manifest or a folder, and what it is: "manifest", "pattern" or the name of a corpus.

    corpus: "auto" or a key of CORPORA. pattern: see read_pattern. reading: how tables are read. InputError for a source without
    audio, an unknown corpus, or a pattern where there are no file names to read.
    """
    if not source.exists():
        raise InputError(f"{source} does not exist; give a folder of audio or a manifest")
    if corpus != "auto" and corpus not in CORPORA:
        raise InputError(f"there is no corpus reader {corpus!r}; choose one of {', '.join(CORPORA)}")
    if pattern and source.is_file():
        raise InputError(
            f"--pattern says what the names in a folder mean, and {source} is a manifest; fill in its columns"
        )
    if pattern and corpus not in ("auto", "folder"):
        raise InputError(
            "--pattern says what the names in a folder mean; leave it out, or the name of a corpus that is given beside it"
        )
    if source.is_file() or is_table(source):
        return read_manifest(source, reading=reading), "manifest"
    if reading and (reading.columns or reading.encoding):
        raise InputError(
            f"--columns and --encoding say how a table is read, and {source} is a folder of audio; name the table in it"
        )
    if pattern:
        rows, name = Manifest.of(read_pattern(pattern, source)), "pattern"
    else:
        name = detect(source) if corpus == "auto" else corpus
        rows = Manifest.of(CORPORA[name](source))
    if not len(rows):
        raise InputError(f"{source} holds no audio; looked for files ending in {' '.join(EXTENSIONS)}")
    return rows, name
