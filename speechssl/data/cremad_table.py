"""What CREMA-D's authors publish of each clip without its sound: size, checksum, and how listeners judged the voice.

cremad.npz holds, for the 7,442 names, the MD5 and bytes of the wav of github.com/CheyneyComputerScience/CREMA-D (1658cd34) and
the votes of those who heard the voice only, by emotion in the order of EMOTIONS (summed up from its finishedResponses).
Open Database License 1.0 (opendatacommons.org/licenses/odbl/1.0); Cao et al. 2014, "CREMA-D: Crowd-sourced Emotional Multimodal
Actors Dataset".
"""

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from speechssl.core.errors import InputError
from speechssl.sound import audio

TWO_NAMES = {"1040_ITH_SAD_XX": "1040_ITH_SAD_X"}  # as others call it -> as the file is called
SLACK = 0.1  # seconds by which the length of a copy in another encoding may differ
HEADER, BYTES_A_SECOND = 44, 32_000  # of the wavs
SHOWN = 3


class Table(NamedTuple):
    """rows: name -> row. md5_N: hexadecimal. bytes_N. votes_NE."""

    rows: dict[str, int]
    md5_N: list[str]
    bytes_N: np.ndarray
    votes_NE: np.ndarray


@cache
def table() -> Table:
    """The published facts."""
    with np.load(Path(__file__).with_name("cremad.npz"), allow_pickle=False) as file:
        names, md5, sizes, votes = (file[key] for key in ("names", "md5", "bytes", "votes"))
    rows = {str(name): row for row, name in enumerate(names)}
    rows |= {other: rows[name] for other, name in TWO_NAMES.items()}
    return Table(rows, [bytes(one).hex() for one in md5], sizes, votes)


def votes_of(name: str) -> np.ndarray:
    """Listeners' votes for each emotion (E,), zeros for an unknown name."""
    known = table()
    return known.votes_NE[known.rows[name]] if name in known.rows else np.zeros_like(known.votes_NE[0])


def listeners(names: Sequence[str], intended: Sequence[int]) -> tuple[float, float]:
    """How well those who heard the voices did: (the share of the clips of which most votes are for the intended emotion, a tie
    counted wrong; the share of all votes)."""
    votes_NE, y_N = np.stack([votes_of(name) for name in names]).astype(int), np.array(intended)
    rows_N = np.arange(len(y_N))
    alone_N = (votes_NE == votes_NE.max(axis=1, keepdims=True)).sum(axis=1) == 1
    majority = float(((votes_NE.argmax(axis=1) == y_N) & alone_N).mean())
    return majority, float(votes_NE[rows_N, y_N].sum() / max(1, votes_NE.sum()))


def verdict(name: str, path: Path) -> str:
    """What a file of that name is: "" for the published wav; else a copy of another clip, a copy in another encoding, one that is
    changed, or one that cannot be read."""
    known = table()
    if name not in known.rows:
        return "names that CREMA-D does not have"
    row = known.rows[name]
    if path.suffix.lower() == ".wav":
        digest = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        if digest == known.md5_N[row]:
            return ""
        if digest in known.md5_N:
            return "wavs that are the recording of another clip"
    seconds = (int(known.bytes_N[row]) - HEADER) / BYTES_A_SECOND
    try:
        found = audio.info(path).duration
    except InputError:
        return "files that cannot be read"
    if abs(found - seconds) > SLACK:
        return "files that are longer or shorter than the published ones"
    return "copies in another encoding, or with other samples, as long as the published ones"


def faults(files: Mapping[str, Path]) -> list[str]:
    """A sentence for each kind of fault among the files by clip name, with the first of them."""
    found: dict[str, list[str]] = {}
    for name, path in files.items():
        if kind := verdict(name, path):
            found.setdefault(kind, []).append(path.name)
    whole = len(files) - sum(map(len, found.values()))
    notes = [f"{whole} of {len(files)} files are byte for byte the published ones"] if found else []
    for kind, names in found.items():
        notes.append(f"{len(names)} {kind}: {', '.join(names[:SHOWN])}{' ...' * (len(names) > SHOWN)}")
    return notes
