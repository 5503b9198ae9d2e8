"""Recipes: what a user may write, and what each slip of the pen is told."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from speechssl.core.config import (
    COMMAND_LINE,
    apply,
    dump_toml,
    explain,
    parse_overrides,
    read_toml,
    split_overrides,
    stated_values,
)
from speechssl.core.errors import InputError
from speechssl.objectives import OBJECTIVES
from speechssl.train.recipe import parse_recipe

RECIPES = sorted((Path(__file__).resolve().parents[2] / "recipes").rglob("*.toml"))


@dataclass(frozen=True, kw_only=True)
class Inner:
    """The third level."""

    width: int = 3
    """How wide, over
    two lines."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """The second level."""

    rate: float = 0.5
    """A rate."""
    sizes: tuple[int, ...] = (1, 2)
    pair: tuple[float, float] = (0.9, 0.98)
    name: str = ""
    kind: Literal["a", "b"] = "a"
    flag: bool = False
    inner: Inner = field(default_factory=Inner)

    def __post_init__(self) -> None:
        if self.rate > len(self.sizes):
            raise InputError(f"section.rate = {self.rate} is larger than the number of sizes")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All shapes that a recipe may take."""

    steps: int = 10
    """Updates."""
    section: Section = field(default_factory=lambda: Section(rate=0.25))


def load_recipe(recipe: Recipe, path: Path | None, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe with the values of a file, then of the command line."""
    if path is not None:
        recipe = apply(recipe, stated_values(read_toml(path)), str(path))
    return apply(recipe, parse_overrides(recipe, overrides), COMMAND_LINE)


def load(tmp_path: Path, text: str, *overrides: str) -> Recipe:
    """Write a recipe and load it."""
    path = tmp_path / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return load_recipe(Recipe(), path, overrides)


def test_a_file_changes_only_what_it_names(tmp_path):
    recipe = load(tmp_path, "steps = 5\n[section]\nsizes = [7, 8, 9]\n[section.inner]\nwidth = 4\n")
    assert recipe == Recipe(steps=5, section=Section(rate=0.25, sizes=(7, 8, 9), inner=Inner(width=4)))


def test_overrides_win_and_are_read_by_the_field_s_type(tmp_path):
    overrides = "--section.rate 1 --section.sizes 4,5 --section.pair=[0.5,1] --section.name 12 --section.flag True"
    recipe = load(
        tmp_path, "[section]\nrate = 0.1\n", *overrides.split(), "--section.kind", "b", "--section.inner.width=-2"
    )
    section = Section(rate=1.0, sizes=(4, 5), pair=(0.5, 1.0), name="12", kind="b", flag=True, inner=Inner(width=-2))
    assert recipe == Recipe(section=section)
    assert isinstance(recipe.section.rate, float)


def test_whole_numbers_pass_as_floats_but_not_the_reverse(tmp_path):
    assert load(tmp_path, "[section]\nrate = 1\n").section.rate == 1.0
    with pytest.raises(InputError, match=r"recipe\.toml: steps = 5\.0 must be a whole number"):
        load(tmp_path, "steps = 5.0")


@pytest.mark.parametrize(
    "text, complaint",
    [
        ("stepps = 3", r"there is no key stepps; did you mean steps\?"),
        ("[sectoin]\nrate = 1", r"no key sectoin\.rate; did you mean section\.rate\?"),
        ("[sectoin]", r"no key sectoin; did you mean section\?"),
        ("rate = 1", r"no key rate; did you mean section\.rate\?"),
        ("[section]\nraet = 1", r"no key section\.raet; did you mean section\.rate\?"),
        ("[section.inner]\nwidht = 1", r"did you mean section\.inner\.width\?"),
        ("[section]\nxyz = 1", r"no key section\.xyz; known: rate, sizes, pair, name, kind, flag"),
        ("section = 3", r"section = 3 should be a section"),
        ("[section]\nrate = '1e-4'", r"section\.rate = '1e-4' must be a number"),
        ("[section]\nrate = nan", r"section\.rate = nan must be a number"),
        ("[section]\nrate = true", r"section\.rate = True must be a number"),
        ("steps = true", r"steps = True must be a whole number"),
        ("[section]\nflag = 1", r"section\.flag = 1 must be true or false"),
        ("[section]\nname = 1", r"section\.name = 1 must be a text"),
        ("[section]\nkind = 'c'", r"section\.kind = 'c' must be one of a, b"),
        ("[section]\nsizes = 3", r"section\.sizes = 3 must be a list of whole numbers"),
        ("[section]\nsizes = [1, 'x']", r"section\.sizes\[1\] = 'x' must be a whole number"),
        ("[section]\npair = [1.0]", r"section\.pair = \[1\.0\] must be a list of 2 numbers"),
        ("[section]\nrate = 3", r"section\.rate = 3\.0 is larger than the number of sizes"),
        ("steps =\nrate = 1", r"is not valid TOML.*line 1"),
    ],
)
def test_slips_in_a_file_are_told_with_file_key_and_remedy(tmp_path, text, complaint):
    with pytest.raises(InputError, match=complaint) as error:
        load(tmp_path, text)
    assert "recipe.toml" in str(error.value)


@pytest.mark.parametrize(
    "override, complaint",
    [
        ("--section.raet 1", r"the command line: there is no key section\.raet; did you mean section\.rate\?"),
        ("--section.rate fast", r"the command line: section\.rate = 'fast' must be a number"),
        ("--section.sizes 1,x", r"section\.sizes = '1,x' must be a list of whole numbers"),
        ("--section.flag maybe", r"section\.flag = 'maybe' must be true or false"),
        ("--section.rate", r"--section\.rate needs a value"),
        ("--section.rate --section.flag true", r"--section\.rate needs a value"),
        ("--section.rate.x 3", r"no key section\.rate\.x"),
        ("section.rate 3", r"'section\.rate' is not understood"),
    ],
)
def test_slips_on_the_command_line(override, complaint):
    with pytest.raises(InputError, match=complaint):
        load_recipe(Recipe(), None, override.split())


def test_values_that_only_fit_together_are_set_together(tmp_path):
    assert load(tmp_path, "[section]\nrate = 3\nsizes = [1, 2, 3]\n").section.rate == 3
    overrides = ["--section.rate", "4", "--section.sizes", "1,2,3,4"]
    assert load_recipe(Recipe(), None, overrides).section.sizes == (1, 2, 3, 4)


@pytest.mark.parametrize("content", [None, b"steps = '\xff'"], ids=["missing", "not utf-8"])
def test_unreadable_files(tmp_path, content):
    if content is not None:
        (tmp_path / "x.toml").write_bytes(content)
    with pytest.raises(InputError, match=r"the recipe .*x\.toml"):
        load_recipe(Recipe(), tmp_path / "x.toml")


NAME = 'quote " slash \\ tab \t line \n DEL \x7f ü 🎤'
FULL = Recipe(
    steps=10**12,
    section=Section(rate=-1e22, sizes=(), pair=(1e-30, 2), name=NAME, kind="b", flag=True, inner=Inner(width=-1)),
)


@pytest.mark.parametrize(
    "recipe", [FULL, *(objective.Recipe() for objective in OBJECTIVES.values())], ids=["all shapes", *OBJECTIVES]
)
def test_dump_and_load_round_trip(tmp_path, recipe):
    path = tmp_path / "resolved.toml"
    path.write_text(dump_toml(recipe), encoding="utf-8", newline="")
    assert load_recipe(type(recipe)(), path) == recipe


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_shipped_recipe_loads(path):
    errors = []
    for verb in ("pretrain", "finetune"):
        try:
            parse_recipe(verb, path)
        except InputError as error:
            errors.append(error)
    assert len(errors) < 2, errors


def test_split_overrides_leaves_the_other_arguments_in_order():
    rest, overrides = split_overrides(
        ["--optim.lr", "-1e-4", "r.toml", "--model.width=8", "--out", "runs/x.y", "--resume"]
    )
    assert rest == ["r.toml", "--out", "runs/x.y", "--resume"]
    assert overrides == ["--optim.lr", "-1e-4", "--model.width=8"]


def test_help_shows_every_key_with_value_choices_and_docstring():
    text = explain(Recipe(section=Section(sizes=(4, 5))))
    for line in ("--steps 10", "--section.sizes 4,5", "--section.name ''", "(a | b)", "[section]  The second level."):
        assert line in text
    assert "--section.inner.width 3\n        How wide, over two lines." in text


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_every_key_of_the_real_recipes_is_explained(kind):
    lines = explain(OBJECTIVES[kind].Recipe()).splitlines()
    for key, note in itertools.pairwise(lines):
        assert not key.startswith("  --") or note.startswith("        "), f"{key} has no docstring"
