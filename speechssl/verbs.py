"""What the command line can do: one table from verb to arguments and function; nothing heavy is imported before it is needed."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

MODEL = "a run, a folder of transformers', a file of fairseq's, torchaudio's or BYOL-S's, a shipped name or a hub id"

PATTERN = (
    "for a folder of another corpus: a regular expression, searched for in each path below it, whose groups tell the speaker and "
    r"the label, such as '(?P<speaker>[FM]_\d+)_.*_(?P<label>[A-Z]+)_\d+$'"
)


def prepare_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `prepare`."""
    parser.add_argument("src", type=Path, help="a folder of audio, a corpus tree, or a manifest (TSV, JSONL, Kaldi)")
    parser.add_argument("--out", type=Path, required=True, help="the manifest to write, x.tsv")
    parser.add_argument(
        "--corpus",
        default="auto",
        help="auto, librispeech, common-voice, crema-d, ravdess, emodb, emovo, fsdd, nemo, savee, shemo, tess or folder "
        "(default: recognised)",
    )
    parser.add_argument("--pattern", default="", help=PATTERN)
    parser.add_argument("--where", default="", help="keep only rows with this value, such as split=train")
    parser.add_argument("--min-seconds", type=float, default=0.1, help="reject shorter clips (default: 0.1)")
    parser.add_argument("--max-seconds", type=float, default=0.0, help="cut longer clips into equal rows (0: never)")
    parser.add_argument("--jobs", type=int, default=0, help="processes (default: one per core)")


def prepare(args: argparse.Namespace) -> None:
    """List the usable audio of a folder in a manifest."""
    from speechssl.data.prepare import prepare

    print(prepare(**vars(args)))


def run_arguments(parser: argparse.ArgumentParser, finetune: bool) -> None:
    """Arguments that pretrain and finetune share."""
    parser.add_argument("recipe", type=Path, help="a TOML file; recipes/ holds some. Any value of it can be overridden")
    kind = "manifest(s)" if finetune else "manifest(s), or a folder,"
    parser.add_argument("--train", type=Path, nargs="+", required=True, help=f"{kind} of the training audio")
    parser.add_argument("--valid", type=Path, nargs="+", default=[], help=f"{kind} that choose the best checkpoint")
    parser.add_argument("--out", type=Path, required=True, help="run folder to create")
    parser.add_argument("--init", type=Path, required=finetune, help=f"where to start from: {MODEL}")
    parser.add_argument("--resume", action="store_true", help="continue the run in --out where it stopped")
    parser.add_argument(
        "--from-scratch",
        dest="scratch",
        action="store_true",
        help="take only the sizes of --init, with random weights: the baseline that pretraining must beat",
    )


def pretrain(args: argparse.Namespace) -> None:
    """Pretrain on unlabeled audio: wav2vec 2.0, BYOL-S."""
    from speechssl.data.prepare import listed
    from speechssl.train.folder import RunFolder

    RunFolder(path=args.out).check(args.resume)  # before its lists are made anew
    for name in ("train", "valid"):
        setattr(args, name, listed(getattr(args, name), args.out, name, args.resume))
    run(args)


def finetune(args: argparse.Namespace) -> None:
    """Fine-tune a pretrained model with CTC on transcribed audio."""
    run(args)


def run(args: argparse.Namespace) -> None:
    """Train as `args` and its recipe say, and report where the model is."""
    from speechssl.train.run import Paths, train

    recipe = args.recipe
    state = train(
        recipe,
        Paths(
            train=args.train, valid=args.valid, out=args.out, init=args.init, resume=args.resume, scratch=args.scratch
        ),
    )
    stopped = state.step < recipe.train.steps
    if os.environ.get("RANK", "0") == "0":
        heard = f"{state.step} updates, {state.seconds_heard / 3600:.2f} h of audio heard"
        hint = f"best model: {args.out}/best" if (args.out / "best").exists() else f"model: {args.out}/last"
        hint = "stopped; continue with the same command and --resume" if stopped else hint
        print(f"{args.out}: {heard}; {hint}", file=sys.stderr)
    if stopped:
        sys.exit(130)


def machine_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of every verb that runs a model."""
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: a GPU where there is one)")
    parser.add_argument(
        "--precision", default="float32", choices=("float32", "bf16"), help="bf16: faster, equal but for rounding"
    )


def loaded(args: argparse.Namespace) -> Any:
    """The model of a verb that streams clips through it."""
    from speechssl import load
    from speechssl.core import dist

    return load(args.model, device=dist.usable(args.device), precision=args.precision)


def evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `evaluate`."""
    parser.add_argument("model", help=f"fine-tuned: {MODEL}")
    parser.add_argument("manifest", type=Path, help="transcribed audio")
    parser.add_argument("--where", default="", help="only rows with this value, such as split=test")
    parser.add_argument(
        "--normaliser",
        default="basic",
        choices=("basic", "upper", "none"),
        help="applied to both sides (default: basic)",
    )
    parser.add_argument("--out", type=Path, help="write scores (JSON) and every hypothesis (TSV) into this folder")
    machine_arguments(parser)


def evaluate(args: argparse.Namespace) -> None:
    """Word and character error rate of a model on transcribed audio."""
    from speechssl.score.evaluate import evaluate

    model = loaded(args)
    print(evaluate(model, args.manifest, where=args.where, normaliser=args.normaliser, out=args.out))


def transcribe_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `transcribe`."""
    parser.add_argument("model", help=f"fine-tuned: {MODEL}")
    parser.add_argument("sources", type=Path, nargs="+", help="audio files of any length, rate and format, or folders")
    parser.add_argument("--format", default="txt", choices=("txt", "srt", "vtt", "json"), help="default: txt")
    parser.add_argument(
        "--out", type=Path, help="write one file per input into this folder; what is there is not done again"
    )
    machine_arguments(parser)


def transcribe(args: argparse.Namespace) -> None:
    """Write down what is said in audio files, with word times."""
    from speechssl.use.transcribe import transcribe_files

    failed = transcribe_files(loaded(args), args.sources, style=args.format, out=args.out)
    if failed:
        sys.exit(2)


def embed_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `embed`."""
    parser.add_argument("model", help=MODEL)
    parser.add_argument("sources", type=Path, nargs="+", help="a manifest, a folder, or audio files")
    parser.add_argument(
        "--out", type=Path, help="the Parquet file to write (default: named after the first source, here)"
    )
    parser.add_argument("--where", default="", help="only rows with this value, such as split=test")
    parser.add_argument(
        "--layer",
        default="last",
        help="last, a number (0 = input of the first layer), all, or weighted (= all; the probe learns the weights)",
    )
    parser.add_argument(
        "--pool",
        default="model",
        choices=("model", "mean", "mean+max", "none"),
        help="over time (model: as its authors do it, mean or BYOL-S's mean + maximum; none: every frame)",
    )
    machine_arguments(parser)


def embed(args: argparse.Namespace) -> None:
    """Turn clips into vectors, one row of a Parquet file each."""
    from speechssl.use.embed import default_out, embed_to_parquet

    out = args.out or default_out(args.sources)
    done = embed_to_parquet(loaded(args), args.sources, out, layer=args.layer, pool=args.pool, where=args.where)
    if done:  # under torchrun the first process speaks for all
        print(done)


def probe_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `probe`."""
    parser.add_argument("embeddings", type=Path, help="a Parquet file that `embed` wrote")
    parser.add_argument("--label", default="label", help="column to predict (default: label)")
    parser.add_argument("--group", default="speaker", help="column that folds must not share (default: speaker)")
    parser.add_argument("--folds", type=int, default=5, help="at most this many folds (default: 5)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the bootstrap (default: 1)")
    parser.add_argument("--out", type=Path, help="write the result as JSON too")


def probe(args: argparse.Namespace) -> None:
    """Accuracy and UAR of a linear classifier on embeddings, over folds of unseen speakers."""
    from speechssl.score.probe import probe

    print(probe(args.embeddings, label=args.label, group=args.group, folds=args.folds, seed=args.seed, out=args.out))


def benchmark_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `benchmark`."""
    parser.add_argument("model", help=MODEL)
    parser.add_argument("--data", type=Path, required=True, help="the corpus's folder, or a manifest")
    parser.add_argument(
        "--task",
        default="auto",
        help="crema-d, ravdess, emodb, emovo, nemo, savee, shemo, tess, or other: any labels (default: recognised)",
    )
    parser.add_argument(
        "--protocol",
        default="unseen",
        help="unseen (default: speakers nobody trained or chose on), loso, or as published: serab, hear, evar, emobox",
    )
    parser.add_argument("--label", default="label", help="column to predict (default: label)")
    parser.add_argument("--pattern", default="", help=PATTERN)
    parser.add_argument("--layer", default="last", help="last, a number, or all: a line for each")
    parser.add_argument("--where", default="", help="only manifest rows with this value, such as split=test")
    parser.add_argument("--out", type=Path, help="folder for benchmark.json and benchmark.html")
    machine_arguments(parser)


def benchmark(args: argparse.Namespace) -> None:
    """Score a model on an emotion corpus under a named protocol, beside chance and random weights."""
    from speechssl.core import dist
    from speechssl.score.benchmark import benchmark

    values = vars(args)
    values["device"] = dist.usable(args.device)
    print(benchmark(values.pop("model"), values.pop("data"), **values))


def convert_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `convert`."""
    parser.add_argument("src", help=MODEL)
    parser.add_argument("dst", type=Path, help="the folder, or for fairseq and torchaudio the file, to write")
    parser.add_argument("--to", required=True, choices=("transformers", "fairseq", "torchaudio", "speechssl"))


def convert(args: argparse.Namespace) -> None:
    """Write a model in another library's format, tensors bit for bit."""
    from speechssl.interop.convert import convert

    print(convert(args.src, args.dst, args.to))


def info_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `info`."""
    parser.add_argument("model", help=MODEL)


def info(args: argparse.Namespace) -> None:
    """What a model is: family, size, frame rate, vocabulary, origin, licence."""
    from speechssl.interop.convert import info

    print(info(args.model))


def export_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `export`."""
    parser.add_argument("model", help=MODEL)
    parser.add_argument("out", type=Path, help="the file to write, such as model.onnx or model.pt2")
    parser.add_argument("--to", required=True, choices=("torch", "onnx"), help="torch.export, or ONNX")
    parser.add_argument("--int8", action="store_true", help="matrix weights in 8 bits (onnx)")
    parser.add_argument("--encoder", action="store_true", help="leave the CTC head out: hidden states instead")


def export(args: argparse.Namespace) -> None:
    """Write a model as one graph for deployment, time axis free, checked against the model."""
    from speechssl import load
    from speechssl.interop.export import export

    print(export(load(args.model), args.out, args.to, int8=args.int8, encoder=args.encoder))


VERBS: dict[str, tuple[Callable, Callable]] = {
    "prepare": (prepare_arguments, prepare),
    "pretrain": (lambda parser: run_arguments(parser, finetune=False), pretrain),
    "finetune": (lambda parser: run_arguments(parser, finetune=True), finetune),
    "evaluate": (evaluate_arguments, evaluate),
    "transcribe": (transcribe_arguments, transcribe),
    "embed": (embed_arguments, embed),
    "probe": (probe_arguments, probe),
    "benchmark": (benchmark_arguments, benchmark),
    "convert": (convert_arguments, convert),
    "info": (info_arguments, info),
    "export": (export_arguments, export),
}
