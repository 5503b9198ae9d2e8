"""Files take their place whole or not at all."""

import errno

import pytest

from speechssl.core.errors import InputError
from speechssl.core.files import output_file, output_folder, replacing


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


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"is a folder; name the file to write, such as .*e.parquet"):
        output_file(tmp_path, "e.parquet")
    with pytest.raises(InputError, match=r"cannot be made .*choose another --out"):
        output_file(tmp_path / "file" / "x", "x")
    with pytest.raises(InputError, match="cannot be made"):
        output_folder(tmp_path / "file")
    assert output_file(tmp_path / "a" / "b" / "x", "x").parent.is_dir()
