"""Entry point: parse the arguments of a verb, print help, and end with one sentence and exit code 2 on bad input."""

import argparse
import difflib
import errno
import importlib
import inspect
import io
import os
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin

from speechssl.core.config import explain, split_overrides
from speechssl.core.errors import InputError
from speechssl.core.memory import forget_shapes, keep_freed_memory
from speechssl.verbs import VERBS

HELP = """\
usage: speechssl VERB ...        (speechssl VERB --help explains one)

Learn speech representations from unlabeled audio, and use them.

verbs:
{verbs}

a project from start to end:
  speechssl prepare FOLDER --out all.tsv
  speechssl pretrain recipes/small/pretrain.toml --train all.tsv --out runs/mine
  speechssl finetune auto --init runs/mine --train labelled.tsv --valid dev.tsv --out runs/ctc
  speechssl evaluate runs/ctc test.tsv
  speechssl transcribe runs/ctc clip.wav
  speechssl embed runs/mine all.tsv --out e.parquet
  speechssl probe e.parquet --label label --group speaker
  speechssl benchmark byol-s --data RAVDESS/ --out bench
  torchrun --nproc_per_node=8 -m speechssl pretrain ...     (several GPUs: the same command, the same numbers)
"""


def main(argv: list[str] | None = None) -> None:
    """Run a verb; bad input ends with one sentence on stderr and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names and transcripts that the terminal cannot show
    try:
        try:
            dispatch(sys.argv[1:] if argv is None else argv)
        finally:
            if sys.stdout is not None:  # None: the parent process closed it
                sys.stdout.flush()
    except InputError as error:
        fail(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # closed by the reader, e.g. `head`
        assert sys.stdout is not None
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the flush at exit must not fail too
        sys.exit(141)
    except (OSError, ImportError) as error:
        if while_importing_torch(error):
            fail(f"a compiled library cannot be loaded ({error}); reinstall torch and torchaudio together with pip")
        if isinstance(error, ImportError):
            raise
        fail(reason(error))


def dispatch(argv: list[str]) -> None:
    """Find the verb and run it."""
    name = argv[0] if argv else "--help"
    if name in ("-h", "--help", "help"):
        verbs = "\n".join(f"  {name:<11} {inspect.getdoc(verb)}" for name, verb in VERBS.items())
        print(HELP.format(verbs=verbs))
        sys.exit(0 if argv else 2)
    if name == "--version":
        from speechssl import __version__

        print(f"speechssl {__version__}")
        return
    if name not in VERBS:
        raise InputError(f"there is no verb {name}{did_you_mean(name, VERBS)}; the verbs: {', '.join(VERBS)}")
    keep_freed_memory()
    forget_shapes()  # before anything imports torch
    VERBS[name](**parse(name, argv[1:]))


def parse(name: str, argv: Sequence[str]) -> dict[str, Any]:
    """The arguments of a verb as keywords: those that `argv` gives, the verb's signature holds the defaults."""
    parser = Parser(name)
    if not parser.takes_overrides:
        parser.check_flags(argv)
        return vars(parser.parse_args(argv))
    rest, overrides = split_overrides(argv)
    if {"-h", "--help"} & set(rest):
        parser.print_help()
        print(recipe_help(name, rest, overrides))
        sys.exit(0)
    parser.check_flags(rest)
    return {**vars(parser.parse_args(rest)), "overrides": overrides}


class Parser(argparse.ArgumentParser):
    """Parser of one verb, built from its signature (see verbs.py); errors are InputErrors that name the nearest flag."""

    def __init__(self, name: str) -> None:
        super().__init__(prog=f"speechssl {name}", description=inspect.getdoc(VERBS[name]), allow_abbrev=False)
        parameters = dict(inspect.signature(VERBS[name]).parameters)
        self.takes_overrides = parameters.pop("overrides", None) is not None
        for parameter in parameters.values():
            self.add_parameter(parameter)
        if self.takes_overrides:
            self.usage = self.format_usage().removeprefix("usage: ").strip() + " [--section.key value ...]"

    def add_parameter(self, parameter: inspect.Parameter) -> None:
        """Add the argument of one parameter of a verb. Defaults stay with the verb, here they are only printed."""
        kind, note, *tables = get_args(parameter.annotation)
        is_flag = parameter.kind is parameter.KEYWORD_ONLY
        name = f"--{parameter.name.replace('_', '-')}" if is_flag else parameter.name
        options: dict[str, Any] = {"default": argparse.SUPPRESS}
        if get_origin(kind) is Sequence:
            kind, options["nargs"] = get_args(kind)[0], "+"
            options["action"] = "extend"  # a flag that is given twice adds to what it was given before
        if kind is bool:
            options["action"] = "store_true"
        elif get_origin(kind) is Literal:
            options["choices"] = get_args(kind)
        elif tables:
            options |= {"choices": Keys(tables[0], parameter.default), "metavar": "NAME"}
            note += ": %(choices)s"
        else:
            options["type"] = {Path | None: Path, float | None: float, int | None: int}.get(kind, kind)
        if is_flag and parameter.default is parameter.empty:
            options["required"] = True
        elif parameter.default not in (parameter.empty, None, False, "", ()):
            values = parameter.default if isinstance(parameter.default, tuple) else (parameter.default,)
            note += f" (default: {' '.join(map(str, values))})".replace("%", "%%")
        self.add_argument(name, help=note, **options)

    def check_flags(self, argv: Sequence[str]) -> None:
        """InputError for the first unknown flag; argparse would first report what is missing because of it."""
        known = [flag for flag in self._option_string_actions if flag.startswith("--")]
        for word in argv:
            if word == "--":
                break
            flag = word.partition("=")[0]
            if flag.startswith("--") and flag not in known:
                self.error(f"there is no {flag}{did_you_mean(flag, known)}")

    def error(self, message: str) -> NoReturn:
        """Raise InputError instead of printing the usage."""
        raise InputError(f"{message}; see `{self.prog} --help`")


class Keys:
    """The keys of the table "module:NAME" and `default`; imported only when a value is checked or help is printed."""

    def __init__(self, table: str, default: Any) -> None:
        self.table, self.default = table, default

    def __iter__(self) -> Iterator[str]:
        module, _, name = self.table.partition(":")
        keys = list(getattr(importlib.import_module(module), name))
        return iter(keys if self.default in (*keys, inspect.Parameter.empty) else [self.default, *keys])


def recipe_help(verb: str, words: Sequence[str], overrides: Sequence[str]) -> str:
    """Every key of the recipe named in `words` with its value there, or of the default recipe."""
    from speechssl.train.recipe import named_recipe, parse_recipe

    path = next((Path(word) for word in words if word.endswith(".toml") or named_recipe(word)), None)
    values = f"in {path}" if path else "by default; name a RECIPE.toml before --help to see its values"
    recipe = parse_recipe(verb, path, overrides, scratch="--from-scratch" in words)
    return f"\nrecipe keys and their values {values}:\n{explain(recipe)}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The known word nearest to a misspelt one, as the end of a sentence."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f", did you mean {near[0]}?" if near else ""


def while_importing_torch(error: BaseException) -> bool:
    """Whether the error was raised by the import of torch or torchaudio, as when their builds do not fit together."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        package = str(frame.f_globals.get("__name__")).partition(".")[0]
        if package in ("torch", "torchaudio") and frame.f_code.co_name == "<module>":
            return True
    return False


def reason(error: OSError) -> str:
    """What the system says about a file or a disk."""
    if error.strerror is None:
        return str(error) or type(error).__name__
    remedy = "; free some space and run the same command again" if error.errno == errno.ENOSPC else ""
    return f"{error.filename or 'the output'}: {error.strerror}{remedy}"


def fail(sentence: str) -> NoReturn:
    """Print one line that says what is wrong, and exit with code 2."""
    print(f"error: {' '.join(sentence.split())}", file=sys.stderr)
    sys.exit(2)
