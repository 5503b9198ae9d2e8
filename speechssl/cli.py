"""The command line: arguments, help and complaints of the verbs in `verbs.py`."""

import argparse
import difflib
import errno
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from speechssl.core.config import explain, split_overrides
from speechssl.core.errors import InputError
from speechssl.core.memory import forget_shapes, keep_freed_memory
from speechssl.verbs import VERBS

RECIPES = ("pretrain", "finetune")
TRAIN_USAGE = {
    "pretrain": "[--init MODEL] [--resume] [--from-scratch] [--section.key value ...]",
    "finetune": "--init MODEL [--resume] [--from-scratch] [--section.key value ...]",
}
LADDER = """\
the journey:
  speechssl prepare FOLDER --out all.tsv
  speechssl pretrain recipes/small/pretrain.toml --train all.tsv --out runs/mine
  speechssl finetune recipes/small/finetune.toml --init runs/mine --train labelled.tsv --valid dev.tsv --out runs/ctc
  speechssl evaluate runs/ctc test.tsv
  speechssl transcribe runs/ctc clip.wav
  speechssl embed runs/mine all.tsv --out e.parquet && speechssl probe e.parquet --label label --group speaker
  speechssl embed byol-s clip.wav --out e.parquet && speechssl benchmark byol-s --data RAVDESS/ --out bench
  speechssl bench pretrain --against transformers
  torchrun --nproc_per_node=8 -m speechssl pretrain ...     (several GPUs: the same command, the same numbers)
"""


class Parser(argparse.ArgumentParser):
    """argparse whose complaints are InputErrors that name the nearest flag."""

    def error(self, message: str) -> NoReturn:
        """Complain in the way of the rest of the package."""
        raise InputError(f"{message}; see `{self.prog} --help`")

    def check_flags(self, argv: Sequence[str]) -> None:
        """InputError for the first unknown flag, before argparse can stumble over what its absence causes."""
        known = [flag for flag in self._option_string_actions if flag.startswith("--")]
        for word in argv[: argv.index("--")] if "--" in argv else argv:
            flag = word.partition("=")[0]
            if flag.startswith("--") and flag not in known:
                self.error(f"there is no {flag}{did_you_mean(flag, known)}")


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """The known word nearest to a misspelt one, as the end of a sentence."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f", did you mean {near[0]}?" if near else ""


def general_help() -> str:
    """What `speechssl --help` says."""
    verbs = "\n".join(f"  {name:<11} {(function.__doc__ or '').rstrip('.')}" for name, (_, function) in VERBS.items())
    return f"""\
usage: speechssl VERB ...        (speechssl VERB --help explains one)

Learn speech representations from unlabeled audio, and use them.

verbs:
{verbs}

{LADDER}"""


def parse(verb: str, argv: Sequence[str]) -> argparse.Namespace:
    """The arguments of a verb; for the verbs that train, `recipe` is the recipe itself, overrides included."""
    arguments, function = VERBS[verb]
    trains = verb in RECIPES
    parser = Parser(
        prog=f"speechssl {verb}",
        usage=f"%(prog)s RECIPE.toml --train TSV [--valid TSV] --out RUN {TRAIN_USAGE[verb]}" if trains else None,
        description=function.__doc__,
        allow_abbrev=False,
    )
    arguments(parser)
    if not trains:
        parser.check_flags(argv)
        return parser.parse_args(argv)
    rest, overrides = split_overrides(argv)
    if {"-h", "--help"} & set(rest):
        parser.print_help()
        print(recipe_help(verb, next((Path(word) for word in rest if word.endswith(".toml")), None)))
        sys.exit(0)
    parser.check_flags(rest)
    args = parser.parse_args(rest)
    from speechssl.train.recipe import parse_recipe

    run = args.out if args.resume and (args.out / "recipe.toml").exists() else None
    args.recipe = parse_recipe(verb, args.recipe, overrides, scratch=args.scratch, init=args.init is not None, run=run)
    return args


def recipe_help(verb: str, path: Path | None) -> str:
    """Every key of the recipe at `path` with its value there, or with its default."""
    from speechssl.train.recipe import parse_recipe

    values = (
        f"in {path}" if path else "by default (the paper's BASE); name a RECIPE.toml before --help to see its values"
    )
    return f"\nrecipe keys and their values {values}:\n{explain(parse_recipe(verb, path))}"


def main(argv: list[str] | None = None) -> None:
    """Run a verb; what the user can mend ends as one sentence and exit code 2."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        for stream in (
            sys.stdout,
            sys.stderr,
        ):  # a name or transcript that the terminal cannot show is no reason to end
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        try:
            dispatch(argv)
        finally:
            if sys.stdout is not None:  # closed by whoever started this
                sys.stdout.flush()
    except InputError as error:
        fail(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # the reader, such as `head`, has had enough; keep the interpreter from flushing again
        assert sys.stdout is not None
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        if error.errno is None:  # not a file or a disk: the dynamic loader, of a torchaudio built for another torch
            fail(f"a compiled library cannot be loaded ({error}); reinstall torch and torchaudio together with pip")
        remedy = "; free some space and run the same command again" if error.errno == errno.ENOSPC else ""
        fail(f"{error.filename or 'the output'}: {error.strerror}{remedy}")


def dispatch(argv: list[str]) -> None:
    """Find the verb and run it."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(general_help())
        sys.exit(0 if argv else 2)
    if argv[0] == "--version":
        from speechssl import __version__

        print(f"speechssl {__version__}")
        return
    if argv[0] not in VERBS:
        raise InputError(
            f"there is no verb {argv[0]}{did_you_mean(argv[0], list(VERBS))}; the verbs: {', '.join(VERBS)}"
        )
    args = parse(argv[0], argv[1:])
    keep_freed_memory()
    forget_shapes()
    VERBS[argv[0]][1](args)


def fail(sentence: str) -> NoReturn:
    """Say what is wrong, and exit with code 2."""
    print(f"error: {sentence}", file=sys.stderr)
    sys.exit(2)
