"""CREMA-D as it is found on disks: with git-lfs pointers, clips as .wav, .mp3 and .flv, and files that others leave out."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from speechssl.core.errors import InputError
from speechssl.core.files import files_below
from speechssl.data.cremad_table import faults, listeners, votes_of
from speechssl.data.manifest import Utterance

EMOTIONS = {"ANG": "anger", "DIS": "disgust", "FEA": "fear", "HAP": "happy", "NEU": "neutral", "SAD": "sad"}
CLIPS, ACTORS = 7_442, range(1001, 1092)
FORMATS = (".wav", ".flac", ".ogg", ".opus", ".mp3")  # the best copy of a clip first
CREMA_D_NAME = rf"(\d{{4}})_([A-Z]{{3}})_({'|'.join(EMOTIONS)})_([A-Z]{{1,2}})"  # actor, sentence, emotion, level
LEFT_OUT = (  # by TFDS, SERAB, HEAR and EVAR; the last one has two names
    *("1006_TIE_NEU_XX", "1013_WSI_DIS_XX", "1017_IWW_FEA_XX"),
    *("1040_ITH_SAD_XX", "1040_ITH_SAD_X"),
)
SENTENCES = "IEO|TIE|IOM|IWW|TAI|MTI|IWL|ITH|DFA|ITS|TSI|WSI"
CREMA_D_SURE = (
    rf"(100[1-9]|10[1-8]\d|109[01])_({SENTENCES})_({'|'.join(EMOTIONS)})_(XX|LO|MD|HI|X)"  # what it really has
)
POINTER = b"version https://git-lfs"


def is_pointer(path: str | Path) -> bool:
    """Whether a file is the placeholder that git-lfs leaves until the content is fetched."""
    if not os.path.isfile(path):  # a named pipe would block for ever
        return False
    try:
        with open(path, "rb") as file:
            return file.read(40).startswith(POINTER)
    except OSError:
        return False


def copies(paths: Iterable[Path]) -> dict[str, dict[str, Path]]:
    """Clip name -> ending -> file, for every file with a CREMA-D name, video included; audio is preferred to pointers."""
    found: dict[str, dict[str, Path]] = {}
    for path in sorted(paths):
        if re.fullmatch(CREMA_D_NAME, path.stem) and path.suffix.lower() in (*FORMATS, ".flv"):
            known = found.setdefault(path.stem, {})
            if path.suffix.lower() not in known or is_pointer(known[path.suffix.lower()]):
                known[path.suffix.lower()] = path
    return found


def best(paths: Sequence[Path]) -> Path:
    """The first copy of a clip that is no pointer, if there is one."""
    return next((path for path in paths if not is_pointer(path)), paths[0])


def heard_by_people(stems: Sequence[str]) -> str:
    """How well listeners told the emotions of some clips, as a sentence."""
    majority, single = listeners(stems, [list(EMOTIONS).index(stem.split("_")[2]) for stem in stems])
    return (
        f"people who heard these voices: the majority names the intended emotion of {majority:.1%} of the clips (ties counted "
        f"wrong), a single vote {single:.1%}"
    )


def read_crema_d(paths: Sequence[Path], folder: Path) -> Iterator[Utterance]:
    """The clips, named as in 1001_DFA_ANG_XX.wav: actor, sentence, emotion, level; with the votes of those who heard the voice.
    One copy of each, audio before pointers."""
    del folder  # names say it all
    for stem, files in copies(paths).items():
        audible = [files[ending] for ending in FORMATS if ending in files]
        if not audible:
            continue
        path = best(audible)
        speaker, sentence, emotion, level = stem.split("_")
        votes = zip(EMOTIONS.values(), votes_of(stem).tolist(), strict=True)
        extra = {"prompt": sentence, "level": level} | {f"votes_{name}": str(count) for name, count in votes}
        yield Utterance(id=stem, path=str(path), speaker=speaker, label=EMOTIONS[emotion], extra=extra)


def missing(folder: Path) -> list[str]:
    """What a copy of CREMA-D lacks, one sentence per fault. InputError if it holds no audio at all."""
    found = copies(files_below(folder))
    audible = {stem: [files[ending] for ending in FORMATS if ending in files] for stem, files in found.items()}
    pointers = [stem for stem, paths in audible.items() if paths and all(map(is_pointer, paths))]
    video = [stem for stem, paths in audible.items() if not paths]
    usable = len(found) - len(pointers) - len(video)
    if not usable:
        problem = "no clip with a CREMA-D name"
        if pointers:
            problem = f"{len(pointers)} git-lfs pointers; run `git lfs pull` in it"
        raise InputError(f"{folder} holds {problem}, and no audio")
    notes = []
    if pointers:
        notes.append(f"{len(pointers)} clips are git-lfs pointers, not audio: run `git lfs pull` in {folder}")
    if video:
        notes.append(f"{len(video)} clips exist as .flv video only, which is not decoded: take AudioWAV or AudioMP3")
    if usable < CLIPS:
        present = {stem[:4] for stem in found}
        absent = [str(actor) for actor in ACTORS if str(actor) not in present]
        shown = f", {len(absent)} actors entirely: {', '.join(absent[:5])}" if absent else ""
        notes.append(f"{CLIPS - usable} of CREMA-D's {CLIPS} clips are missing{shown}{' ...' * (len(absent) > 5)}")
    kept = [stem for stem in LEFT_OUT if stem in found]
    if kept:
        notes.append(f"present, though TFDS, SERAB, HEAR and EVAR leave them out: {', '.join(kept)}")
    notes += faults({stem: best(paths) for stem, paths in audible.items() if paths and not all(map(is_pointer, paths))})
    several = sum(len(paths) > 1 for paths in audible.values())
    if several:
        notes.append(f"{several} clips exist in several formats; the first of {' '.join(FORMATS)} is used")
    return notes
