"""Files that take their place in one step, so that nobody ever reads half of one."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from speechssl.errors import InputError


def output_file(path: Path, example: str) -> Path:
    """`path`, with its folder made; InputError if it is a folder itself, for which `example` is the remedy."""
    if path.is_dir():
        raise InputError(f"{path} is a folder; name the file to write, such as {path / example}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the folder of {path} cannot be made ({error.strerror}); choose another --out") from None
    return path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A draft to write, which takes the place of `path` in the end; when that fails, `path` stays as it was.

    The draft's name is this process's own: two processes that write the same file do not mix. InputError for a full disk.
    """
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        yield draft
        draft.replace(path)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"cannot write {path} ({reason}); free some space or rights, or choose another --out"
        ) from None
    finally:
        draft.unlink(missing_ok=True)
