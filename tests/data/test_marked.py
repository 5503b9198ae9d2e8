"""The column `split`: which rows a run takes, and what it says about the others."""

import pytest

from speechssl.core.errors import InputError
from speechssl.data.marked import DEV, NONE, TEST, TRAIN, part_of, read_parts
from tests.conftest import write_table

MARKS = {
    TRAIN: ("train", "Training", "TR", "train-clean-100", "train_960"),
    DEV: ("dev", "valid", "Validation", "val", "devel", "development", "dev-other", "dev93"),
    TEST: ("test", "testing", "test-clean", "eval", "eval92", "evaluation"),
    NONE: ("", "unlabeled", "validated", "trainer", "3", "чтение", "fold1"),
}


@pytest.mark.parametrize("part", MARKS)
def test_marks_are_known_by_their_first_word(part):
    assert {mark: part_of(mark) for mark in MARKS[part]} == dict.fromkeys(MARKS[part], part)


def marked(path, **counts: int):
    """A table with as many rows of each mark; "unmarked" is none."""
    marks = [mark for mark, count in counts.items() for _ in range(count)]
    rows = [
        {
            "id": f"{path.stem}{n}",
            "path": "a",
            "split": "" if mark == "unmarked" else mark,
            "language": "fr" if n % 2 else "de",
        }
        for n, mark in enumerate(marks)
    ]
    return write_table(path, *rows)


CASES = {  # marks of --train, of --valid -> how many rows train and validate, and the end of what is said
    "nothing is marked": ({"unmarked": 3}, {}, 3, None, None),
    "a single part": ({"train": 3}, {"dev": 2}, 3, 2, None),
    "the rest validates": (
        {"train": 3, "dev": 2, "test": 1},
        {},
        3,
        2,
        "2 marked dev validate, 1 are left out",
    ),
    "--valid is given": ({"train": 3, "dev": 2, "test": 1}, {"dev": 4}, 3, 4, "3 are trained on, 3 are left out"),
    "no mark is as good as train": (
        {"train": 3, "unmarked": 2, "test": 1},
        {},
        5,
        None,
        "5 are trained on, 1 are left out",
    ),
    "all of dev": ({"dev": 3}, {}, 3, None, "all 3 rows are marked dev in the column split, and are trained on"),
    "--valid has parts": ({"train": 3}, {"train": 3, "val": 2, "test": 2}, 3, 2, "the 2 marked dev validate"),
    "--valid is a test": ({"train": 3}, {"test": 2}, 3, 2, "a test that chooses the checkpoint is no test any more"),
}


@pytest.mark.parametrize("name", CASES)
def test_rows_of_a_run(name, tmp_path):
    first, second, trained, validated, said = CASES[name]
    told: list[str] = []
    valid = [marked(tmp_path / "valid.tsv", **second)] if second else []
    rows, checked = read_parts([marked(tmp_path / "all.tsv", **first)], valid, (), told.append)
    assert (len(rows), None if checked is None else len(checked)) == (trained, validated)
    assert not {part_of(mark) for mark in rows.column("split")} & ({TEST} if name == "all of dev" else {DEV, TEST})
    assert len(told) == (said is not None) and (said is None or told[0].endswith(said))


@pytest.mark.parametrize("marks", [{"test": 2}, {"test": 2, "dev": 1}, {"eval": 1}])
def test_training_on_a_test_is_an_error(marks, tmp_path):
    table = marked(tmp_path / "all.tsv", **marks)
    with pytest.raises(InputError, match=r"all\.tsv: no row is marked train.*; give other rows, or clear"):
        read_parts([table], (), (), print)


def test_conditions_on_the_split_are_for_training_others_for_validation_too(tmp_path):
    table = marked(tmp_path / "all.tsv", train=4, dev=4)
    rows, checked = read_parts([table], [table], ["split=train,language=fr"], lambda _: None)
    assert checked is not None
    assert (len(rows), set(rows.column("language")), set(rows.column("split"))) == (2, {"fr"}, {"train"})
    assert (len(checked), set(checked.column("language")), set(checked.column("split"))) == (2, {"fr"}, {"dev"})
