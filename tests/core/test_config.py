"""Recipes: what a user may write, and which sentence each mistake gets."""

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from speechssl.core.config import apply, dump_toml, explain, flat_values, parse_overrides, read_toml, split_overrides
from speechssl.core.errors import InputError
from speechssl.objectives import OBJECTIVES


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
    limit: float | None = None
    layer: int | Literal["auto"] = "auto"
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


def load(tmp_path: Path, text: str, *overrides: str) -> Recipe:
    """Write a recipe and load it, then the overrides."""
    path = tmp_path / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return override(apply(Recipe(), read_toml(path), str(path)), *overrides)


def override(recipe: Recipe, *overrides: str) -> Recipe:
    """The recipe after words of the command line."""
    return apply(recipe, parse_overrides(recipe, overrides), "the command line")


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
        ("[section]\nxyz = 1", r"no key section\.xyz; known: rate, sizes, pair, name, kind, limit, layer, flag"),
        ("section = 3", r"section = 3 should be a section"),
        ("[section]\nrate = '1e-4'", r"section\.rate = '1e-4' must be a number"),
        ("[section]\nrate = nan", r"section\.rate = nan must be a number"),
        ("[section]\nrate = true", r"section\.rate = True must be a number"),
        ("steps = true", r"steps = True must be a whole number"),
        ("[section]\nflag = 1", r"section\.flag = 1 must be true or false"),
        ("[section]\nname = 1", r"section\.name = 1 must be text"),
        ("[section]\nkind = 'c'", r"section\.kind = 'c' must be one of a, b"),
        ("[section]\nsizes = 3", r"section\.sizes = 3 must be a list of whole numbers"),
        ("[section]\nsizes = [1, 'x']", r"section\.sizes\[1\] = 'x' must be a whole number"),
        ("[section]\npair = [1.0]", r"section\.pair = \[1\.0\] must be a list of 2 numbers"),
        ("[section]\nrate = 3", r"section\.rate = 3\.0 is larger than the number of sizes"),
        ("steps =\nrate = 1", r"is not valid TOML.*line 1"),
    ],
)
def test_mistakes_in_a_file_are_reported_with_file_key_and_remedy(tmp_path, text, complaint):
    with pytest.raises(InputError, match=complaint) as error:
        load(tmp_path, text)
    assert "recipe.toml" in str(error.value)


@pytest.mark.parametrize(
    "words, complaint",
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
def test_mistakes_on_the_command_line(words, complaint):
    with pytest.raises(InputError, match=complaint):
        override(Recipe(), *words.split())


def test_values_that_only_fit_together_are_set_together(tmp_path):
    assert load(tmp_path, "[section]\nrate = 3\nsizes = [1, 2, 3]\n").section.rate == 3
    overrides = ["--section.rate", "4", "--section.sizes", "1,2,3,4"]
    assert override(Recipe(), *overrides).section.sizes == (1, 2, 3, 4)


@pytest.mark.parametrize(
    "text, complaint",
    [
        ("[section]\nrate = 1e999", r"section\.rate = inf must be a number"),
        (f"[section]\nrate = {'9' * 400}", r"section\.rate = 9{100} \.\.\. must be a number"),
        (f"steps = {'9' * 400}", r"steps = 9{100} \.\.\. must be a whole number"),
        (f"steps = {'9' * 5000}", r"not valid TOML: .*5000 digits$"),
        (f"steps = 0x{'f' * 5000}", r"steps = a number of thousands of digits must be a whole number"),
        (f"x = {'[' * 3000}{']' * 3000}", r"nested too deeply"),
        (f"[{'.'.join('a' * 3000)}]", r"nested too deeply"),
        (f"steps = {'[' * 90}{']' * 90}", r"steps = \[{90}\]{10} \.\.\. must be a whole number"),
        ("[section]\nlimit = 'x'", r"section\.limit = 'x' must be a number or none"),
        ("[section]\nlayer = 1.5", r"section\.layer = 1\.5 must be a whole number or one of auto"),
        ("[section]\nkind = ['a']", r"section\.kind = \['a'\] must be one of a, b"),
    ],
    ids=lambda text: text[:30],
)
def test_no_value_of_a_file_ends_in_a_traceback(tmp_path, text, complaint):
    with pytest.raises(InputError, match=complaint) as error:
        load(tmp_path, text)
    assert "recipe.toml" in str(error.value)
    assert len(str(error.value)) < 300 + len(str(tmp_path))


@pytest.mark.parametrize("content", [None, b"steps = '\xff'", "folder"], ids=["missing", "not utf-8", "folder"])
def test_unreadable_files(tmp_path, content):
    if content == "folder":
        (tmp_path / "x.toml").mkdir()
    elif content is not None:
        (tmp_path / "x.toml").write_bytes(content)
    with pytest.raises(InputError, match=r"the recipe .*x\.toml"):
        read_toml(tmp_path / "x.toml")


def test_optional_values_and_values_that_are_chosen_automatically(tmp_path):
    recipe = load(tmp_path, "[section]\nlimit = 2\nlayer = 3\n")
    assert (recipe.section.limit, recipe.section.layer) == (2.0, 3)
    recipe = override(recipe, "--section.limit", "none", "--section.layer", "auto")
    assert (recipe.section.limit, recipe.section.layer) == (None, "auto")
    recipe = override(recipe, "--section.limit", "0.5", "--section.layer=7")
    assert (recipe.section.limit, recipe.section.layer) == (0.5, 7)


def test_values_change_the_recipe_that_is_given_not_the_defaults_of_its_class():
    base = Recipe(steps=3, section=Section(sizes=(1, 2, 3)))
    assert override(base, "--section.rate", "2.5") == Recipe(steps=3, section=Section(rate=2.5, sizes=(1, 2, 3)))


def test_keys_that_are_stated_and_values_that_hold(tmp_path):
    (tmp_path / "x.toml").write_text("steps = 5\n[section.inner]\nwidth = 4\n")
    assert read_toml(tmp_path / "x.toml") == {"steps": 5, "section.inner.width": 4}
    values = flat_values(Recipe())
    assert values["section.pair"] == (0.9, 0.98)
    assert {"steps", "section.limit", "section.inner.width"} < values.keys()


@pytest.mark.parametrize("cls", [Recipe, *(objective.Recipe for objective in OBJECTIVES.values())])
def test_what_is_written_is_what_is_read(tmp_path, cls):
    recipe = cls()
    if cls is Recipe:
        name = 'quote " slash \\ tab \t line \n DEL \x7f ü 🎤'
        section = Section(rate=-1e22, sizes=(), pair=(1e-30, 2), name=name, kind="b", flag=True, inner=Inner(width=-1))
        recipe = Recipe(steps=10**12, section=section)
    path = tmp_path / "resolved.toml"
    path.write_text(dump_toml(recipe), encoding="utf-8", newline="")
    assert apply(cls(), read_toml(path), str(path)) == recipe


def test_split_overrides_leaves_the_other_arguments_in_order():
    rest, overrides = split_overrides(
        ["--optim.lr", "-1e-4", "r.toml", "--model.width=8", "--out", "runs/x.y", "--resume"]
    )
    assert rest == ["r.toml", "--out", "runs/x.y", "--resume"]
    assert overrides == ["--optim.lr", "-1e-4", "--model.width=8"]


def test_help_shows_every_key_with_value_choices_and_docstring():
    text = explain(Recipe(section=Section(sizes=(4, 5))))
    for line in ("  steps 10\n", "--section.sizes 4,5", "--section.name ''", "(a | b)", "--section.limit none"):
        assert line in text
    assert "\n[section]  The second level.\n" in text
    assert "--section.inner.width 3\n        How wide, over two lines." in text


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
def test_every_key_of_every_objective_is_explained(objective):
    lines = explain(objective.Recipe()).splitlines()
    for key, note in itertools.pairwise(lines):
        assert not key.startswith("  --") or note.startswith("        "), f"{key} has no docstring"
