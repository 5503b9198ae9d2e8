"""Recipes: a TOML file, then `--section.key value` overrides, become frozen dataclasses; a misspelt key is an error.

A recipe class is a frozen keyword-only dataclass whose defaults are complete. Its fields are int, float, bool, str,
tuples of these, Literal, or further such dataclasses (the sections). Ranges are checked by each class's __post_init__.
"""

import ast
import difflib
import inspect
import itertools
import json
import textwrap
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from speechssl.core.errors import InputError

T = TypeVar("T")
COMMAND_LINE = "the command line"


def parse_overrides(recipe: Any, overrides: Sequence[str]) -> dict[str, Any]:
    """["--optim.lr", "1e-4"] -> {"optim.lr": 1e-4}, by the types of the recipe's fields."""
    kinds = dict(leaves(recipe))
    return {key: from_text(text, kinds.get(key, str)) for key, text in pairs(overrides)}


def stated_values(values: dict[str, Any]) -> dict[str, Any]:
    """A TOML file's tables as {dotted key: value}."""
    return dict(flatten(values))


def flat_values(recipe: Any, prefix: str = "") -> dict[str, Any]:
    """Every value of a recipe by its dotted key."""
    found: dict[str, Any] = {}
    for field in fields(recipe):
        value, key = getattr(recipe, field.name), prefix + field.name
        found |= flat_values(value, key + ".") if is_dataclass(value) else {key: value}
    return found


def split_overrides(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """(the other arguments, the recipe overrides): an override is `--section.key value` or `--section.key=value`."""
    rest, overrides = [], []
    words = iter(argv)
    for word in words:
        name, equals, _ = word.partition("=")
        if not (name.startswith("--") and "." in name):
            rest.append(word)
            continue
        overrides.append(word)
        if not equals:
            overrides += [value for value in [next(words, None)] if value is not None]
    return rest, overrides


def pairs(overrides: Sequence[str]) -> Iterator[tuple[str, str]]:
    """["--a.b", "1", "--c.d=2"] -> ("a.b", "1"), ("c.d", "2")."""
    words = iter(overrides)
    for word in words:
        name, equals, value = word.partition("=")
        if not (name.startswith("--") and "." in name):
            raise InputError(f"{word!r} is not understood; recipe values are given as --section.key value")
        if not equals:
            value = next(words, "--")
            if value.startswith("--"):
                raise InputError(f"{name} needs a value: {name} value")
        yield name[2:], value


def read_toml(path: Path) -> dict[str, Any]:
    """The file as nested dictionaries."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"the recipe {path} does not exist; recipes/ holds some to start from") from None
    except OSError as error:
        raise InputError(f"the recipe {path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"the recipe {path} is not valid TOML: {error}") from None


def flatten(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """{"a": {"b": 1}} -> ("a.b", 1). An empty table stays, so that its name is checked too."""
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def leaves(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, type) of every value in a recipe."""
    kinds = get_type_hints(type(config))
    for field in fields(config):
        part = getattr(config, field.name)
        if is_dataclass(part):
            yield from leaves(part, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, kinds[field.name]


def apply(recipe: T, values: dict[str, Any], source: str) -> T:
    """`recipe` with the dotted keys of `values` replaced, all at once, so that __post_init__ sees the final state."""
    kinds = dict(leaves(recipe))
    sections = {key[:dot] for key in kinds for dot, letter in enumerate(key) if letter == "."}
    checked = {}
    for key, value in values.items():
        if key in kinds:
            checked[key] = coerce(value, kinds[key], key, source)
        elif key not in sections:
            raise InputError(f"{source}: there is no key {key}; {suggestion(key, list(kinds), sections)}")
        elif value != {}:
            raise InputError(f"{source}: {key} = {value!r} should be a section with keys of its own, such as [{key}]")
    try:
        return rebuild(recipe, checked)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None


def rebuild(config: T, values: dict[str, Any], prefix: str = "") -> T:
    """A nested dataclass with some of its leaves replaced."""
    changes = {}
    for field in fields(config):  # type: ignore[arg-type]
        part, key = getattr(config, field.name), prefix + field.name
        if is_dataclass(part):
            changes[field.name] = rebuild(part, values, key + ".")
        elif key in values:
            changes[field.name] = values[key]
    return replace(config, **changes)  # type: ignore[type-var]


def suggestion(key: str, known: list[str], sections: set[str]) -> str:
    """What the writer of an unknown key probably meant: a like name in its section, elsewhere, or the list of names."""
    section, _, name = key.rpartition(".")
    mine = {other.rpartition(".")[2]: other for other in known if other.rpartition(".")[0] == section}
    everywhere = {other.rpartition(".")[2]: other for other in known}
    for names in (mine, {s: s for s in sections}, everywhere):
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
        if near:
            return f"did you mean {names[near[0]]}?"
    return f"known: {', '.join(mine or sorted(sections))}"


def from_text(text: str, kind: Any) -> Any:
    """A command-line word as the value TOML would have held; what does not fit stays text, for `coerce` to refuse."""
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    if get_origin(kind) is Literal:
        return {str(choice): choice for choice in get_args(kind)}.get(text, text)
    try:
        if kind in (int, float):
            return kind(text)
        if get_origin(kind) is tuple:
            return tomllib.loads(f"value = {text if text.startswith('[') else f'[{text}]'}")["value"]
    except ValueError:  # TOMLDecodeError is one
        pass
    return text


def coerce(value: Any, kind: Any, key: str, source: str) -> Any:
    """A value as the type that a field wants; whole numbers pass as floats and lists as tuples."""
    if get_origin(kind) is Literal:
        if value in get_args(kind):
            return value
    elif get_origin(kind) is tuple:
        kinds = get_args(kind)
        if isinstance(value, (list, tuple)) and (kinds[-1] is ... or len(kinds) == len(value)):
            items = kinds[:1] * len(value) if kinds[-1] is ... else kinds
            return tuple(coerce(v, k, f"{key}[{i}]", source) for i, (v, k) in enumerate(zip(value, items, strict=True)))
    elif kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        if value == value:  # not NaN, which would pass every range check
            return float(value)
    elif isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    raise InputError(f"{source}: {key} = {value!r} must be {in_words(kind)}")


def in_words(kind: Any, plural: bool = False) -> str:
    """A type as a user would call it."""
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    if get_origin(kind) is tuple:
        first, *others = get_args(kind)
        size = "" if ... in others else f"{len(others) + 1} "
        return f"a list of {size}{in_words(first, plural=True)}"
    names = {int: "whole number", float: "number", str: "text"}
    if kind not in names:
        return "true or false" if kind is bool else str(kind)
    return f"{names[kind]}s" if plural else f"a {names[kind]}"


def to_toml(value: Any) -> str:
    """One value as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace(
            "\x7f", "\\u007f"
        )  # JSON's escapes are TOML's, but for DEL
    if isinstance(value, tuple):
        return "[" + ", ".join(map(to_toml, value)) + "]"
    return repr(value)


def dump_toml(config: Any, prefix: str = "") -> str:
    """A recipe with every value written out; `load_recipe` of it gives an equal recipe."""
    parts = {field.name: getattr(config, field.name) for field in fields(config)}
    lines = [f"{name} = {to_toml(value)}" for name, value in parts.items() if not is_dataclass(value)]
    blocks = ["\n".join([*([f"[{prefix}]"] if prefix else []), *lines]) + "\n"] if lines else []
    blocks += [dump_toml(value, f"{prefix}.{name}".lstrip(".")) for name, value in parts.items() if is_dataclass(value)]
    return "\n".join(blocks)


def explain(config: Any, prefix: str = "") -> str:
    """Every key of a recipe with its value, its choices and its docstring: the second half of `--help`."""
    kinds, notes = get_type_hints(type(config)), attribute_docs(type(config))
    head = f"\n[{prefix}]  {(inspect.getdoc(type(config)) or '').splitlines()[0]}" if prefix else ""
    lines, sections = [], []
    for field in fields(config):
        value, key = getattr(config, field.name), f"{prefix}.{field.name}".lstrip(".")
        if is_dataclass(value):
            sections.append(explain(value, key))
            continue
        shown = (
            ",".join(map(to_toml, value))
            if isinstance(value, tuple)
            else value
            if isinstance(value, str)
            else to_toml(value)
        )
        lines.append(f"  --{key} {shown or repr('')}")
        note = notes.get(field.name, "")
        if get_origin(kinds[field.name]) is Literal:
            note = f"({' | '.join(map(str, get_args(kinds[field.name])))}) {note}"
        lines.append(textwrap.fill(note, 110, initial_indent=" " * 8, subsequent_indent=" " * 8))
    return "\n".join([*([head, *lines] if lines else []), *sections])


def attribute_docs(cls: type) -> dict[str, str]:
    """The string literal that follows each field of a dataclass in its source."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0].body  # type: ignore[attr-defined]
    docs = {}
    for node, following in itertools.pairwise(body):
        if isinstance(node, ast.AnnAssign) and isinstance(following, ast.Expr):
            docs[node.target.id] = " ".join(ast.literal_eval(following.value).split())  # type: ignore[attr-defined]
    return docs
