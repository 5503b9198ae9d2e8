"""Recipes: a TOML file, then `--section.key value` overrides, change the defaults of a frozen dataclass.

A recipe class is a frozen keyword-only dataclass whose defaults are complete. Its fields are int, float, bool, str, tuples of
these, Literal, `X | None` with the default None, or further such dataclasses (the sections), each followed by a docstring:
its help. Ranges are checked by the __post_init__ of each class. Values are addressed by dotted keys such as "optim.lr".
"""

import ast
import contextlib
import difflib
import functools
import inspect
import itertools
import json
import sys
import textwrap
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from speechssl.core.errors import InputError

T = TypeVar("T")
COMMAND_LINE = "the command line"


def read_toml(path: Path) -> dict[str, Any]:
    """The values of a TOML file by dotted key."""
    try:
        return dict(flatten(tomllib.loads(path.read_text(encoding="utf-8"))))
    except FileNotFoundError:
        raise InputError(f"the recipe {path} does not exist; recipes/ holds some to start from") from None
    except OSError as error:
        raise InputError(f"the recipe {path} cannot be read: {error.strerror}") from None
    except RecursionError:
        raise InputError(f"the recipe {path} is not valid TOML: brackets or keys are nested too deeply") from None
    except ValueError as error:  # bad TOML, bad UTF-8, or a number with more digits than Python reads
        raise InputError(f"the recipe {path} is not valid TOML: {str(error).partition(';')[0]}") from None


def flatten(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """{"a": {"b": 1}} -> ("a.b", 1). An empty table stays, so that its name is checked too."""
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


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
            overrides.extend(itertools.islice(words, 1))
    return rest, overrides


def parse_overrides(recipe: Any, overrides: Sequence[str]) -> dict[str, Any]:
    """["--optim.lr", "1e-4", "--train.steps=2"] -> {"optim.lr": 1e-4, "train.steps": 2}, by the types of the recipe's fields."""
    kinds = {leaf.key: leaf.kind for leaf in leaves(recipe)}
    values = {}
    words = iter(overrides)
    for word in words:
        name, equals, text = word.partition("=")
        if not (name.startswith("--") and "." in name):
            raise InputError(f"{word!r} is not understood; recipe values are given as --section.key value")
        if not equals:
            text = next(words, "--")
            if text.startswith("--"):
                raise InputError(f"{name} needs a value: {name} value")
        key = name.removeprefix("--")
        values[key] = from_text(text, kinds.get(key, str))
    return values


class Leaf(NamedTuple):
    """One value of a recipe: its dotted key, its type, and the section's dataclass that explains it."""

    key: str
    kind: Any
    value: Any
    owner: type


def leaves(config: Any, prefix: str = "") -> Iterator[Leaf]:
    """All values of a recipe; those of a section come before its subsections."""
    kinds = get_type_hints(type(config))
    parts = {field.name: getattr(config, field.name) for field in fields(config)}
    for name, value in parts.items():
        if not is_dataclass(value):
            yield Leaf(prefix + name, kinds[name], value, type(config))
    for name, value in parts.items():
        if is_dataclass(value):
            yield from leaves(value, f"{prefix}{name}.")


def flat_values(recipe: Any) -> dict[str, Any]:
    """Every value of a recipe by its dotted key."""
    return {leaf.key: leaf.value for leaf in leaves(recipe)}


def apply(recipe: T, values: dict[str, Any], source: str) -> T:
    """`recipe` with the values of some dotted keys replaced, all at once, so that __post_init__ sees them together.

    InputError names `source` (the file or the command line), the key, the value and what would be right.
    """
    known = {leaf.key: leaf.kind for leaf in leaves(recipe)}
    sections = {key[:dot] for key in known for dot, letter in enumerate(key) if letter == "."}
    checked = {}
    for key, value in values.items():
        if key in known:
            checked[key] = coerce(value, known[key], key, source)
        elif key not in sections:
            raise InputError(f"{source}: there is no key {key}; {suggestion(key, list(known), sections)}")
        elif value != {}:
            raise InputError(f"{source}: {key} = {shown(value)} should be a section with keys of its own: [{key}]")
    try:
        return rebuild(recipe, checked)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None


def rebuild(config: T, values: dict[str, Any], prefix: str = "") -> T:
    """A nested dataclass with some of its values replaced."""
    changes = {}
    for field in fields(config):  # type: ignore[arg-type]
        part, key = getattr(config, field.name), prefix + field.name
        if is_dataclass(part):
            changes[field.name] = rebuild(part, values, key + ".")
        elif key in values:
            changes[field.name] = values[key]
    return replace(config, **changes)  # type: ignore[type-var]


def suggestion(key: str, known: Iterable[str], sections: Iterable[str]) -> str:
    """What an unknown key was probably meant to be, or the keys of its section."""
    section, _, name = key.rpartition(".")
    siblings = [other for other in known if other.rpartition(".")[0] == section]
    names = {other.rpartition(".")[2]: other for other in (*known, *sections, *siblings)}  # siblings win over namesakes
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if near:
        return f"did you mean {names[near[0]]}?"
    return f"known: {', '.join(sibling.rpartition('.')[2] for sibling in siblings) or ', '.join(sorted(sections))}"


def from_text(text: str, kind: Any) -> Any:
    """A word of the command line as the value that TOML would hold. Text that does not fit stays text: `coerce` refuses it."""
    origin, options = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        values = [from_text(text, option) for option in options]
        return next((value for value in values if value != text), text)
    if origin is Literal:
        return next((choice for choice in options if str(choice) == text), text)
    if kind is NoneType and text == "none":
        return None
    if kind is bool and text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        if kind in (int, float):
            return kind(text)
        if origin is tuple:
            return tomllib.loads(f"value = {text if text.startswith('[') else f'[{text}]'}")["value"]
    except (ValueError, RecursionError):  # TOMLDecodeError is a ValueError
        pass
    return text


def coerce(value: Any, kind: Any, key: str, source: str) -> Any:
    """A value as the type that a field wants; whole numbers pass as floats and lists as tuples."""
    origin, options = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        for option in options:
            with contextlib.suppress(InputError):
                return coerce(value, option, key, source)
    elif origin is Literal:
        if value in options:
            return value
    elif origin is tuple:
        kinds = options
        if options[-1] is ... and isinstance(value, (list, tuple)):
            kinds = options[:1] * len(value)
        if isinstance(value, (list, tuple)) and len(kinds) == len(value):
            return tuple(coerce(v, k, f"{key}[{i}]", source) for i, (v, k) in enumerate(zip(value, kinds, strict=True)))
    elif kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        if abs(value) <= sys.float_info.max:  # neither infinite nor NaN, which would pass every check of a range
            return float(value)
    elif kind is int and isinstance(value, int) and not isinstance(value, bool):
        if abs(value) < 2**63:
            return value
    elif kind not in (int, float) and isinstance(value, kind):
        return value
    raise InputError(f"{source}: {key} = {shown(value)} must be {in_words(kind)}")


def in_words(kind: Any, plural: bool = False) -> str:
    """A type as a user would call it."""
    origin, options = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return " or ".join(in_words(option) for option in options)
    if origin is Literal:
        return f"one of {', '.join(map(str, options))}"
    if origin is tuple:
        size = "" if options[-1] is ... else f"{len(options)} "
        return f"a list of {size}{in_words(options[0], plural=True)}"
    names = {int: "whole number", float: "number"}
    if kind in names:
        return f"{names[kind]}s" if plural else f"a {names[kind]}"
    return {bool: "true or false", str: "text", NoneType: "none"}.get(kind, str(kind))


def shown(value: Any) -> str:
    """A value for a message; a file may hold numbers of thousands of digits."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= 100 else f"{text[:100]} ..."


def to_toml(value: Any) -> str:
    """One value as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):  # JSON's escapes are TOML's, except for DEL
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, tuple):
        return "[" + ", ".join(map(to_toml, value)) + "]"
    return repr(value)


def dump_toml(config: Any) -> str:
    """A recipe with every value but None written out; read and applied to the defaults, it gives an equal recipe."""
    lines, section = [], ""
    for key, _, value, _ in leaves(config):
        where, _, name = key.rpartition(".")
        if where != section:
            lines += ["", f"[{where}]"]
        if value is not None:
            lines.append(f"{name} = {to_toml(value)}")
        section = where
    return "\n".join(lines).lstrip("\n") + "\n"


def explain(config: Any) -> str:
    """Every key of a recipe with its value, its choices and its docstring: the second half of `--help`."""
    lines, section = [], ""
    for key, kind, value, owner in leaves(config):
        where, _, name = key.rpartition(".")
        if where != section:
            lines += ["", f"[{where}]  {(inspect.getdoc(owner) or '').splitlines()[0]}"]
        section = where
        note = attribute_docs(owner).get(name, "")
        if get_origin(kind) is Literal:
            note = f"({' | '.join(map(str, get_args(kind)))}) {note}"
        lines.append(f"  {'--' if where else ''}{key} {on_command_line(value)}")  # only keys of sections are overridden
        lines.append(textwrap.fill(note, 110, initial_indent=" " * 8, subsequent_indent=" " * 8))
    return "\n".join(lines)


def on_command_line(value: Any) -> str:
    """A value as an override would give it."""
    if isinstance(value, tuple):
        return ",".join(map(to_toml, value))
    if isinstance(value, str):
        return value or "''"
    return "none" if value is None else to_toml(value)


@functools.cache
def attribute_docs(cls: type) -> dict[str, str]:
    """The string literal that follows each field of a dataclass in its source, or in that of the class that it extends."""
    docs = dict(attribute_docs(cls.__base__)) if is_dataclass(cls.__base__) else {}
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0].body  # type: ignore[attr-defined]
    for node, following in itertools.pairwise(body):
        if isinstance(node, ast.AnnAssign) and isinstance(following, ast.Expr):
            docs[node.target.id] = " ".join(ast.literal_eval(following.value).split())  # type: ignore[attr-defined]
    return docs
