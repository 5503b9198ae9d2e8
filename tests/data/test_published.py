"""Folders as strangers have them: headers in plain text files, corpora as published, files of other programs."""

import pytest

from tests.data.test_folders import SPITE, WANT, clips, put, texts


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("head", ["file\ttext", "Datei\tText"])
def test_a_text_file_whose_first_line_names_the_columns_is_a_table(head, encoding, tmp_path):
    clips(tmp_path, "a.wav", "b.wav")
    lines = [head, f"a.wav\t{WANT}", f"b.wav\t{SPITE}"]
    (tmp_path / "list.txt").write_text("\r\n".join(lines), encoding=encoding)
    assert texts(tmp_path) == {"a.wav": WANT, "b.wav": SPITE}


def test_the_first_line_of_a_table_is_never_a_row(tmp_path):
    """Half of its recordings are missing, so that the others may look like a list without column names."""
    clips(tmp_path, "a.wav")
    put(tmp_path / "t.csv", "path,text", f"a.wav,{WANT}", f"b.wav,{SPITE}")
    assert texts(tmp_path) == {"a.wav": WANT, "b.wav": SPITE}


def test_a_list_whose_first_recording_is_missing_is_a_list(tmp_path):
    clips(tmp_path, "a2.wav", "a3.wav")
    put(tmp_path / "list.txt", "a1.wav|one two", f"a2.wav|{WANT}", f"a3.wav|{SPITE}")
    assert texts(tmp_path) == {"a1.wav": "one two", "a2.wav": WANT, "a3.wav": SPITE}
