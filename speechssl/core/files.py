"""Files found, and files that take their place in one step, so that nobody ever reads half of one."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from speechssl.core.errors import InputError


def files_below(folder: Path) -> Iterator[Path]:
    """Every file below; links to folders are followed, but no folder is entered twice."""

    def refuse(error: OSError) -> None:
        raise InputError(
            f"the folder {error.filename} cannot be read ({error.strerror}); give yourself the right to, or move it elsewhere"
        )

    entered = set()
    for place, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        folders.sort()
        if os.path.realpath(place) in entered:
            folders.clear()
            continue
        entered.add(os.path.realpath(place))
        yield from (Path(place, name) for name in names)


def read_text(path: Path) -> str:
    """Read a text file; bytes that are not UTF-8 become U+FFFD."""
    return path.read_text(encoding="utf-8-sig", errors="replace")


def text_beside(audio: Path) -> str:
    """The transcript in the .txt file of the same name beside an audio file; "" if there is none."""
    text = audio.with_suffix(".txt")
    return read_text(text).strip() if text.is_file() else ""


def output_folder(path: Path) -> Path:
    """`path`, made where it is missing; InputError if that cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the folder {path} cannot be made ({error.strerror}); choose another --out") from None
    if not os.access(path, os.W_OK):
        raise InputError(f"nothing can be written into the folder {path}; choose another --out")
    return path


def output_file(path: Path, example: str) -> Path:
    """`path`, with its folder made; InputError if it is a folder itself, or has another ending than `example`."""
    if path.is_dir():
        raise InputError(f"{path} is a folder; name the file to write, such as {path / example}")
    wanted = Path(example).suffix
    if wanted and path.suffix != wanted:
        raise InputError(f"{path} would be a {wanted} file; name it so, such as {path.with_suffix(wanted)}")
    output_folder(path.parent)
    return path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A draft to write, which takes the place of `path` in the end; when that fails, `path` stays as it was.

    The draft's name is this process's own: two processes that write the same file do not mix. InputError for a full disk.
    """
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with writing(path):
            yield draft
            draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


@contextlib.contextmanager
def writing(path: Path, *kinds: type[Exception]) -> Iterator[None]:
    """Whatever the system says against writing `path` becomes an InputError that names it. kinds: how else a library says so."""
    try:
        yield
    except (OSError, *kinds) as error:
        raise InputError(
            f"cannot write {path} ({getattr(error, 'strerror', None) or error}); "
            "free some space or rights, or choose another --out"
        ) from None
