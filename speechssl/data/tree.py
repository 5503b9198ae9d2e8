"""The files of a folder, found by name: the transcripts beside a recording, and the recording that a table means."""

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path, PurePosixPath

from speechssl.data.marked import NAMES

SPLITS = {word: part for word, part in NAMES.items() if len(word) > 2}  # tr may be Turkish


def composed(name: str | Path) -> str:
    """A name in NFC: the same letters may be stored composed or decomposed (as macOS does)."""
    return unicodedata.normalize("NFC", str(name))


def identity(path: Path, folder: Path) -> str:
    """The path below the folder, without its ending."""
    return path.relative_to(folder).with_suffix("").as_posix()


class Tree:
    """The files below a folder. audio: those with an audio ending, sorted; others: all the rest."""

    def __init__(self, folder: Path, audio: Iterable[Path], others: Iterable[Path]) -> None:
        self.folder, self.audio = folder, list(audio)
        self.others = sorted(path for path in others if not path.name.startswith("."))
        self.below: dict[str, dict[Path, list[Path]]] = {}  # name -> folder -> the recordings so called below it

    @cached_property
    def by_name(self) -> dict[str, list[Path]]:
        """Name, with and without its ending -> the recordings so called."""
        found: dict[str, list[Path]] = defaultdict(list)
        for path in self.audio:
            for name in {composed(path.name), composed(path.stem)}:
                found[name].append(path)
        return found

    @cached_property
    def places(self) -> dict[str, Path]:
        """Absolute path -> the recording there."""
        return {composed(os.path.abspath(path)): path for path in self.audio}

    @cached_property
    def real_places(self) -> dict[str, Path]:
        """The same without links."""
        return {composed(os.path.realpath(path)): path for path in self.audio}

    def at(self, place: str | Path) -> Path | None:
        """The recording at a path, however that is written."""
        path = self.places.get(composed(os.path.abspath(place)))
        if path is None and os.path.isfile(place):
            return self.real_places.get(composed(os.path.realpath(place)))
        return path

    def recording(self, name: str, base: Path) -> Path | None:
        """The recording that `name` means in a table in the folder `base`: at that path, else the only one so called.

        The name may lack its folder or its ending, or have those of another machine. Of several recordings of that name the
        one is meant that lies below the folder above `base`, as VoxForge's wav beside etc, whose folders agree with it best, and
        then one below `base`. None if there is none, or no single one.
        """
        if not name or name in (".", "..") or "\n" in name:
            return None
        given = PurePosixPath(composed(re.sub(r"[\\/]+", "/", name)))
        if (path := self.at(base / given) or self.at(self.folder / given)) is not None:
            return path
        known = given.name if given.name in self.by_name or not is_ending(given.suffix) else given.stem
        found = self.by_name.get(known) or []
        if len(found) > 1:
            found = self.near(known, base.parent) or found
            agreeing = [(agreement(path, given), base in path.parents) for path in found]
            found = [path for path, score in zip(found, agreeing) if score == max(agreeing)]
        return found[0] if len(found) == 1 else None

    def near(self, name: str, folder: Path) -> list[Path]:
        """The recordings so called below a folder."""
        if name not in self.below:
            places = self.below[name] = defaultdict(list)
            for path in self.by_name[name]:
                for above in path.parents:
                    places[above].append(path)
        return self.below[name].get(folder, [])

    @cached_property
    def paths(self) -> set[str]:
        """The paths of the recordings."""
        return set(map(str, self.audio))

    @cached_property
    def counts(self) -> Counter[str]:
        """Folder -> how many recordings lie in it."""
        return Counter(str(path.parent) for path in self.audio)

    @cached_property
    def splits(self) -> dict[Path, str]:
        """See split_folders."""
        return split_folders(self.audio, self.folder)

    @cached_property
    def beside_audio(self) -> dict[tuple[str, str], list[Path]]:
        """(folder, name without its last endings) -> the files so called that are not audio."""
        found: dict[tuple[str, str], list[Path]] = defaultdict(list)
        for path in self.others:
            pieces = composed(path.name).split(".")
            for count in range(max(1, len(pieces) - 2), len(pieces)):  # x.normalized.txt is beside x.normalized and x
                found[composed(path.parent), ".".join(pieces[:count])].append(path)
        return found

    @cached_property
    def apart(self) -> dict[str, list[Path]]:
        """Name without ending -> the files that are not audio, of folders in which no audio lies."""
        loud = {path.parent for path in self.audio}
        found: dict[str, list[Path]] = defaultdict(list)
        for path in self.others:
            if path.parent not in loud:
                for name in {composed(path.name).partition(".")[0], composed(path.stem)}:
                    found[name].append(path)
        return found

    def beside(self, audio: Path) -> list[Path]:
        """The files called as a recording is, beside it, else in the folder that mirrors its own (wav/anna and txt/anna)."""
        folder, stem = composed(audio.parent), composed(audio.stem)
        found = [*self.beside_audio.get((folder, composed(audio.name)), ()), *self.beside_audio.get((folder, stem), ())]
        if found:
            return found
        return [
            path
            for path in self.apart.get(stem, ())
            if mirrored(path, audio) and sum(mirrored(path, other) for other in self.by_name[stem]) == 1
        ]


def is_ending(suffix: str) -> bool:
    """Whether a suffix is one of a file, not the end of a name with a full stop in it."""
    return re.fullmatch(r"\.\w{2,5}", suffix) is not None


def agreement(path: Path, given: PurePosixPath) -> int:
    """How many folders above a file are those of a given path, counted from the file up."""
    count = 0
    for mine, other in zip(map(composed, path.parts[-2::-1]), given.parts[-2::-1]):
        if mine != other:
            break
        count += 1
    return count


def mirrored(path: Path, audio: Path) -> bool:
    """Whether the folders of two files differ in one name only."""
    one, two = path.parent.parts, audio.parent.parts
    return len(one) == len(two) and sum(a != b for a, b in zip(one, two)) == 1


def split_folder(name: str) -> str:
    """The folder train-clean-100 -> "train"; "" for one of another kind."""
    return SPLITS.get("".join(re.findall("^[a-z]+", name.lower())), "")


def split_folders(paths: Iterable[Path], folder: Path) -> dict[Path, str]:
    """Recording -> its split by the folders train, dev or test above it; {} unless train and another one are there."""
    found: dict[Path, str] = {}
    for path in paths:
        names = path.relative_to(folder).parts[:-1] if folder in path.parents else ()
        splits = {split_folder(name) for name in names} - {""}
        found[path] = splits.pop() if len(splits) == 1 else ""
    several = set(found.values()) - {""}
    return found if len(several) > 1 and "train" in several else {}
