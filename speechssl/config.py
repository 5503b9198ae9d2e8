"""Recipes: a TOML file and `--section.key value` overrides become frozen dataclasses; a misspelt key is an error.

An override is read as a TOML value (and as a string where that fails), so both go through the same checks.
"""

import ast
import difflib
import inspect
import textwrap
import tomllib
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from speechssl.errors import InputError

T = TypeVar("T")


def load_recipe(cls: type[T], path: Path | None, overrides: Sequence[str] = ()) -> T:
    """The recipe in `path` (None: the defaults) with overrides such as ["--optim.lr", "1e-4"] on top."""
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InputError(f"the recipe {path} does not exist; recipes/ holds some to start from") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InputError(f"{path} is not valid TOML: {error}") from None
    for key, text in pairs(overrides):
        *sections, name = key.split(".")
        place = values
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = as_toml(text)
    return build(cls, values, str(path or "the command line"))


def pairs(overrides: Sequence[str]) -> list[tuple[str, str]]:
    """["--a.b", "1", "--c.d=2"] -> [("a.b", "1"), ("c.d", "2")]."""
    found, rest = [], list(overrides)
    while rest:
        flag = rest.pop(0)
        if not flag.startswith("--") or "." not in flag.partition("=")[0]:
            raise InputError(f"{flag!r} is not understood; recipe values are given as --section.key value")
        key, equals, value = flag[2:].partition("=")
        if not equals:
            if not rest:
                raise InputError(f"{flag} needs a value")
            value = rest.pop(0)
        found.append((key, value))
    return found


def as_toml(text: str) -> Any:
    """A command-line value as TOML would read it; what TOML cannot read is a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def build(cls: type[T], values: dict[str, Any], source: str, prefix: str = "") -> T:
    """Nested dataclasses from nested dictionaries, checked key by key."""
    hints = get_type_hints(cls)
    known = {field.name: field for field in fields(cls)}  # type: ignore[arg-type]
    arguments = {}
    for name, value in values.items():
        key = prefix + name
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
            hint = f"did you mean {prefix}{near[0]}?" if near else f"known: {', '.join(known)}"
            raise InputError(f"{source}: there is no key {key!r}; {hint}")
        if is_dataclass(hints[name]):
            if not isinstance(value, dict):
                raise InputError(f"{source}: {key} = {value!r} should be a section with keys of its own, [{key}]")
            default = default_of(known[name])
            value = {**{f.name: getattr(default, f.name) for f in fields(default)}, **value}
            arguments[name] = build(hints[name], value, source, key + ".")  # type: ignore[arg-type]
        else:
            arguments[name] = coerce(value, hints[name], key, source)
    return cls(**arguments)


def default_of(field: Any) -> Any:
    """The default value of a dataclass field."""
    return field.default_factory() if callable(field.default_factory) else field.default


def coerce(value: Any, kind: Any, key: str, source: str) -> Any:
    """A value as the type that a field wants; whole numbers pass as floats and lists as tuples."""
    if get_origin(kind) is Literal:
        if value in get_args(kind):
            return value
        raise InputError(f"{source}: {key} = {value!r} must be one of {', '.join(map(repr, get_args(kind)))}")
    if get_origin(kind) is tuple:
        item = get_args(kind)[0]
        if isinstance(value, (list, tuple)):
            return tuple(coerce(v, item, key, source) for v in value)
    elif kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    elif isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    raise InputError(f"{source}: {key} = {value!r} has the wrong type; it must be {type_name(kind)}")


def type_name(kind: Any) -> str:
    """A type in words."""
    if get_origin(kind) is tuple:
        return f"a list of {type_name(get_args(kind)[0])}"
    return {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}.get(kind, str(kind))


def to_toml(value: Any) -> str:
    """One value as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, tuple):
        return "[" + ", ".join(map(to_toml, value)) + "]"
    return repr(value)


def dump_toml(config: Any) -> str:
    """A recipe with every value written out; `load_recipe` of it gives the same recipe."""
    sections = []
    for section in fields(config):
        part = getattr(config, section.name)
        lines = [f"{field.name} = {to_toml(getattr(part, field.name))}" for field in fields(part)]
        sections.append("\n".join([f"[{section.name}]", *lines]) + "\n")
    return "\n".join(sections)


def explain(cls: type) -> str:
    """Every key of a recipe with its default and its docstring: the second half of `--help`."""
    lines = []
    for section in fields(cls):
        default = default_of(section)
        lines.append(f"\n[{section.name}]  {(inspect.getdoc(type(default)) or '').splitlines()[0]}")
        notes = attribute_docs(type(default))
        for field in fields(default):
            head = f"  --{section.name}.{field.name} {to_toml(getattr(default, field.name))}"
            lines += [head, textwrap.fill(notes.get(field.name, ""), 100, initial_indent=" " * 8, subsequent_indent=" " * 8)]
    return "\n".join(lines)


def attribute_docs(cls: type) -> dict[str, str]:
    """The string literal that follows each field of a dataclass in its source."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0].body  # type: ignore[attr-defined]
    docs = {}
    for node, following in zip(body, body[1:], strict=False):
        if isinstance(node, ast.AnnAssign) and isinstance(following, ast.Expr):
            docs[node.target.id] = ast.literal_eval(following.value)  # type: ignore[attr-defined]
    return docs
