"""Files take their place whole or not at all."""

import contextlib
import errno
import os
import socket

import pytest

from speechssl.core.errors import InputError
from speechssl.core.files import entries_below, files_below, output_file, output_folder, replacing


def test_the_file_is_replaced_at_the_end(tmp_path):
    path = tmp_path / "x"
    path.write_text("old")
    with replacing(path) as draft:
        draft.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyError("bug")], ids=repr)
def test_what_goes_wrong_leaves_the_old_file_and_no_draft(error, tmp_path):
    path = tmp_path / "x"
    path.write_text("old")

    def fill() -> None:
        with replacing(path) as draft:
            draft.write_text("half")
            raise error

    full = isinstance(error, OSError)
    with pytest.raises(
        InputError if full else KeyError, match=r"x \(No space left on device\); free" if full else "bug"
    ):
        fill()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_draft_is_on_the_disk_before_it_gets_its_name_and_the_name_after(tmp_path, monkeypatch):
    """After a power cut a file that was renamed before it was flushed has its name and no content."""
    path, seen, fsync = tmp_path / "x", [], os.fsync

    def watched(descriptor: int) -> None:
        flushed = os.fstat(descriptor)
        name = next(p.name for p in (tmp_path, *tmp_path.iterdir()) if p.stat().st_ino == flushed.st_ino)
        seen.append((name, flushed.st_size if name != tmp_path.name else None, path.exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    with replacing(path) as draft:
        draft.write_text("new")
    assert seen == [(draft.name, 3, False), (tmp_path.name, None, True)]


@pytest.mark.parametrize("code, refused", [(errno.EIO, True), (errno.EINVAL, False)])
def test_a_disk_that_fails_to_flush(code, refused, tmp_path, monkeypatch):
    """A file that is not on the disk keeps its old content; a system that cannot flush writes it all the same."""
    path = tmp_path / "x"
    path.write_text("old")

    def fail(_descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(InputError, match="Input/output error") if refused else contextlib.nullcontext():
        with replacing(path) as draft:
            draft.write_text("new")
    assert path.read_text() == ("old" if refused else "new")
    assert list(tmp_path.iterdir()) == [path]


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"is a folder; name the file to write, such as .*e.parquet"):
        output_file(tmp_path, "e.parquet")
    with pytest.raises(InputError, match=r"cannot be made .*choose another --out"):
        output_file(tmp_path / "file" / "x", "x")
    with pytest.raises(InputError, match="cannot be made"):
        output_folder(tmp_path / "file")
    assert output_file(tmp_path / "a" / "b" / "x", "x").parent.is_dir()


def test_what_blocks_or_belongs_to_the_system_is_passed_over_and_named(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    for name in ("x.wav", "a/y.wav", "a/b/z.wav", "a/._y.wav", ".DS_Store"):
        (tmp_path / name).write_text(name)
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "gone.wav").symlink_to("nowhere.wav")
    (tmp_path / "loop.wav").symlink_to("loop.wav")
    (tmp_path / "zero.wav").symlink_to("/dev/zero")
    (tmp_path / "a" / "b" / "up").symlink_to("../..")
    with socket.socket(socket.AF_UNIX) as listener, contextlib.chdir(tmp_path):
        listener.bind("socket.wav")
    found = {str(path.relative_to(tmp_path)): why for path, why in entries_below(tmp_path)}
    assert {str(path.relative_to(tmp_path)) for path in files_below(tmp_path)} == {
        *("x.wav", "a/y.wav", "a/b/z.wav", "gone.wav", "loop.wav")
    }
    assert {name: why for name, why in found.items() if why} == {
        "pipe.wav": "pipes, sockets and devices",
        "zero.wav": "pipes, sockets and devices",
        "socket.wav": "pipes, sockets and devices",
        "a/._y.wav": "notes of macOS (._ and .DS_Store)",
        ".DS_Store": "notes of macOS (._ and .DS_Store)",
        "a/b/up": "links to folders that are read anyway",
    }


def test_a_folder_that_cannot_be_read_is_told(tmp_path, monkeypatch):
    def refuse(_place):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(InputError, match=r"cannot be read \(Permission denied\); get permission"):
        list(files_below(tmp_path))
