"""Find files, and write files so that neither a kill nor a power cut leaves half of one."""

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from speechssl.core.errors import InputError


def files_below(folder: Path) -> Iterator[Path]:
    """Every file below a folder that may be somebody's; see entries_below. InputError for an unreadable folder."""
    yield from (path for path, why in entries_below(folder) if not why)


def entries_below(folder: Path) -> Iterator[tuple[Path, str]]:
    """Every file below a folder, and why it is passed over ("": it is not), folders in order, each entered once.

    Passed over are hidden folders (git-annex keeps a second copy of every file in .git), the metadata files of macOS, links that
    lead back to a folder, and pipes, sockets and devices, which would hang. Broken links count as files, so that they are
    reported. InputError for an unreadable folder.
    """
    entered, waiting = set(), [str(folder)]
    while waiting:
        place = waiting.pop()
        if entered and os.path.basename(place).startswith("."):
            yield Path(place), "hidden folders"
            continue
        if (real := os.path.realpath(place)) in entered:
            yield Path(place), "links to folders that are read anyway"
            continue
        entered.add(real)
        try:
            with os.scandir(place) as listing:
                entries = list(listing)
        except OSError as error:
            raise InputError(
                f"the folder {place} cannot be read ({error.strerror}); get permission to read it, or move it elsewhere"
            ) from None
        folders = [entry.path for entry in entries if is_kind(entry.is_dir)]
        yield from ((Path(entry.path), why_passed(entry)) for entry in entries if not is_kind(entry.is_dir))
        waiting += sorted(folders, reverse=True)


def is_kind(question: Callable[[], bool]) -> bool:
    """The answer of a directory entry; False for a link that leads to itself."""
    try:
        return question()
    except OSError:
        return False


def why_passed(entry: os.DirEntry) -> str:
    """Why a file is passed over; "" if it is not."""
    if entry.name.startswith("._") or entry.name == ".DS_Store":
        return "notes of macOS (._ and .DS_Store)"
    if is_kind(entry.is_file):
        return ""
    try:
        entry.stat()
    except OSError:
        return ""  # a broken link
    return "pipes, sockets and devices"


def output_folder(path: Path) -> Path:
    """Make the folder `path` where it is missing. InputError if it cannot be made or written to."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the folder {path} cannot be made ({error.strerror}); choose another --out") from None
    if not os.access(path, os.W_OK):
        raise InputError(f"nothing can be written into the folder {path}; choose another --out")
    return path


def output_file(path: Path, example: str) -> Path:
    """Make the folder that the file `path` will lie in. InputError if `path` is a folder or has another ending than `example`."""
    if path.is_dir():
        raise InputError(f"{path} is a folder; name the file to write, such as {path / example}")
    wanted = Path(example).suffix
    if wanted and path.suffix != wanted:
        raise InputError(f"{path} would be a {wanted} file; name it so, such as {path.with_suffix(wanted)}")
    output_folder(path.parent)
    return path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the path of a draft, which replaces `path` at the end of the block; if the block fails, `path` stays as it was.

    The draft reaches the disk before it gets its name, so a power cut leaves the old file or the new one. Its name holds
    the process id: two processes that write the same file do not mix. InputError for a full disk.
    """
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with writing(path):
            yield draft
            flush(draft)
            draft.replace(path)
            flush(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk, where the system offers that."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # some network file systems cannot do it for folders
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def writing(path: Path, *kinds: type[Exception]) -> Iterator[None]:
    """Turn an OSError while `path` is written into an InputError that names it. kinds: further exceptions to turn."""
    try:
        yield
    except (OSError, *kinds) as error:
        raise InputError(
            f"cannot write {path} ({getattr(error, 'strerror', None) or error}); "
            "free some space or rights, or choose another --out"
        ) from None
