"""The command line: one table from verb to parser and function. Nothing heavy is imported before a verb is chosen."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from speechssl.errors import InputError


def prepare_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `prepare`."""
    parser.add_argument("src", type=Path, help="a folder of audio, a corpus tree, or a manifest (TSV, JSONL, Kaldi)")
    parser.add_argument("--out", type=Path, required=True, help="the manifest to write, x.tsv")
    parser.add_argument(
        "--corpus",
        default="auto",
        help="auto, librispeech, common-voice, crema-d, ravdess, emodb, fsdd or folder (default: recognised)",
    )
    parser.add_argument("--where", default="", help="keep only rows with this value, such as split=train")
    parser.add_argument("--min-seconds", type=float, default=0.1, help="reject shorter clips (default: 0.1)")
    parser.add_argument("--max-seconds", type=float, default=0.0, help="cut longer clips into equal rows (0: never)")
    parser.add_argument("--jobs", type=int, default=0, help="processes (default: one per core)")


def prepare(args: argparse.Namespace, _rest: list[str]) -> None:
    """List the usable audio of a folder in a manifest."""
    from speechssl.data.prepare import prepare

    print(prepare(**vars(args)))


def run_arguments(parser: argparse.ArgumentParser, finetune: bool) -> None:
    """Arguments that pretrain and finetune share."""
    parser.add_argument("recipe", type=Path, help="a TOML file; recipes/ holds some. Any value of it can be overridden")
    parser.add_argument("--train", type=Path, nargs="+", required=True, help="manifest(s) of the training audio")
    parser.add_argument("--valid", type=Path, nargs="+", default=[], help="manifest(s) that chooses the best checkpoint")
    parser.add_argument("--out", type=Path, required=True, help="run folder to create")
    parser.add_argument(
        "--init", type=Path, required=finetune, help="run or model folder (transformers' format) to start from"
    )
    parser.add_argument("--resume", action="store_true", help="continue the run in --out where it stopped")
    parser.add_argument(
        "--from-scratch",
        dest="scratch",
        action="store_true",
        help="take only the sizes of --init, with random weights: the baseline that pretraining must beat",
    )


def pretrain(args: argparse.Namespace, rest: list[str]) -> None:
    """Pretrain wav2vec 2.0 on unlabeled audio."""
    from speechssl.train.recipe import PretrainRecipe
    from speechssl.train.run import pretrain

    run(pretrain, PretrainRecipe, args, rest)


def finetune(args: argparse.Namespace, rest: list[str]) -> None:
    """Fine-tune a pretrained model with CTC on transcribed audio."""
    from speechssl.train.recipe import FinetuneRecipe
    from speechssl.train.run import finetune

    run(finetune, FinetuneRecipe, args, rest)


def run(verb: Callable, recipe_class: type, args: argparse.Namespace, rest: list[str]) -> None:
    """Load the recipe, train, and say where the model is."""
    from speechssl.config import load_recipe
    from speechssl.train.run import Paths, tell

    values = vars(args)
    recipe = load_recipe(recipe_class, values.pop("recipe"), rest)
    state = verb(recipe, Paths(**values))
    if state.step < recipe.train.steps:
        tell(f"stopped after update {state.step}; continue with the same command and --resume")
        sys.exit(130)
    tell(f"{args.out}: {state.step} updates, {state.seconds_heard / 3600:.2f} h of audio heard; best model: {args.out}/best")


def evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `evaluate`."""
    parser.add_argument("model", type=Path, help="a fine-tuned run or model folder")
    parser.add_argument("manifest", type=Path, help="transcribed audio")
    parser.add_argument("--where", default="", help="only rows with this value, such as split=test")
    parser.add_argument("--normaliser", default="basic", help="applied to both sides: basic, upper or none")
    parser.add_argument("--out", type=Path, help="write scores (JSON) and every hypothesis (TSV) into this folder")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")


def evaluate(args: argparse.Namespace, _rest: list[str]) -> None:
    """Word and character error rate of a model on transcribed audio."""
    from speechssl import load
    from speechssl.asr.evaluate import evaluate

    model = load(args.model, device=args.device)
    print(evaluate(model, args.manifest, where=args.where, normaliser=args.normaliser, out=args.out))


def transcribe_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `transcribe`."""
    parser.add_argument("model", type=Path, help="a fine-tuned run or model folder")
    parser.add_argument("files", type=Path, nargs="+", help="audio files of any length, rate and format")
    parser.add_argument("--format", default="txt", choices=("txt", "srt", "vtt", "json"), help="default: txt")
    parser.add_argument("--out", type=Path, help="write one file per input into this folder instead of printing")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")


def transcribe(args: argparse.Namespace, _rest: list[str]) -> None:
    """Write down what is said in audio files, with word times."""
    from speechssl import load
    from speechssl.asr.transcribe import transcribe_files

    failed = transcribe_files(load(args.model, device=args.device), args.files, style=args.format, out=args.out)
    if failed:
        sys.exit(2)


def embed_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `embed`."""
    parser.add_argument("model", type=Path, help="a run or model folder")
    parser.add_argument("sources", type=Path, nargs="+", help="a manifest, a folder, or audio files")
    parser.add_argument("--out", type=Path, required=True, help="the Parquet file to write")
    parser.add_argument("--where", default="", help="only rows with this value, such as split=test")
    parser.add_argument(
        "--layer", default="last", help="last, a number (0 = input of the first layer), all, or weighted (= all; the probe learns the weights)"
    )
    parser.add_argument("--pool", default="mean", choices=("mean", "mean+max", "none"), help="over time (none: every frame)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")


def embed(args: argparse.Namespace, _rest: list[str]) -> None:
    """Turn clips into vectors, one row of a Parquet file each."""
    from speechssl import load
    from speechssl.probe.embed import embed_to_parquet

    model = load(args.model, device=args.device)
    print(embed_to_parquet(model, args.sources, args.out, layer=args.layer, pool=args.pool, where=args.where))


def probe_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `probe`."""
    parser.add_argument("embeddings", type=Path, help="a Parquet file that `embed` wrote")
    parser.add_argument("--label", default="label", help="column to predict (default: label)")
    parser.add_argument("--group", default="speaker", help="column that folds must not share (default: speaker)")
    parser.add_argument("--folds", type=int, default=5, help="at most this many folds (default: 5)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the bootstrap (default: 1)")
    parser.add_argument("--out", type=Path, help="write the result as JSON too")


def probe(args: argparse.Namespace, _rest: list[str]) -> None:
    """Accuracy and UAR of a linear classifier on embeddings, over folds of unseen speakers."""
    from speechssl.probe.linear import probe

    print(probe(args.embeddings, label=args.label, group=args.group, folds=args.folds, seed=args.seed, out=args.out))


def demo_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `demo`."""
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for everything the demo makes (default: demo)")
    parser.add_argument("--minutes", type=float, default=8.0, help="rough length on 2 cores (default: 8)")


def demo(args: argparse.Namespace, _rest: list[str]) -> None:
    """The whole journey on the clips in data/: pretrain, fine-tune, transcribe, embed, report."""
    from speechssl.demo import demo

    demo(args.out, args.minutes)


VERBS: dict[str, tuple[Callable, Callable]] = {
    "prepare": (prepare_arguments, prepare),
    "pretrain": (lambda parser: run_arguments(parser, finetune=False), pretrain),
    "finetune": (lambda parser: run_arguments(parser, finetune=True), finetune),
    "evaluate": (evaluate_arguments, evaluate),
    "transcribe": (transcribe_arguments, transcribe),
    "embed": (embed_arguments, embed),
    "probe": (probe_arguments, probe),
    "demo": (demo_arguments, demo),
}
LADDER = """\
the journey:
  speechssl prepare FOLDER --out all.tsv
  speechssl pretrain recipes/small/pretrain.toml --train all.tsv --out runs/mine
  speechssl finetune recipes/small/finetune.toml --init runs/mine --train labelled.tsv --valid dev.tsv --out runs/ctc
  speechssl evaluate runs/ctc test.tsv
  speechssl transcribe runs/ctc clip.wav
  speechssl embed runs/mine all.tsv --out e.parquet && speechssl probe e.parquet --label label --group speaker
  torchrun --nproc_per_node=8 -m speechssl pretrain ...     (several GPUs: the same command, the same numbers)
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser of all verbs."""
    parser = argparse.ArgumentParser(
        prog="speechssl",
        description="Learn speech representations from unlabeled audio, and use them.",
        epilog=LADDER,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="verb")
    for name, (arguments, function) in VERBS.items():
        sub = verbs.add_parser(
            name,
            help=function.__doc__.rstrip("."),
            description=function.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        arguments(sub)
    return parser


def recipe_help(argv: list[str]) -> str:
    """What `pretrain --help` and `finetune --help` say of the recipe's keys."""
    from speechssl.config import explain
    from speechssl.train.recipe import FinetuneRecipe, PretrainRecipe

    title = "\nrecipe keys, each with its default (the paper's BASE):"
    return title + explain(PretrainRecipe if argv[0] == "pretrain" else FinetuneRecipe)


def main(argv: list[str] | None = None) -> None:
    """Run a verb; what the user can mend ends as one sentence and exit code 2."""
    argv = sys.argv[1:] if argv is None else argv
    parser = build_parser()
    trains = bool(argv) and argv[0] in ("pretrain", "finetune")
    try:
        if trains and {"-h", "--help"} & set(argv):
            try:
                parser.parse_args([argv[0], "--help"])
            except SystemExit:
                print(recipe_help(argv))
                return
        args, rest = parser.parse_known_args(argv)
        if rest and not trains:
            parser.error(f"unrecognized arguments: {' '.join(rest)}")
        verb = VERBS[args.__dict__.pop("verb")][1]
        verb(args, rest)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
    except OSError as error:
        print(f"error: {error.filename or 'the disk'}: {error.strerror or error}", file=sys.stderr)
        sys.exit(2)
