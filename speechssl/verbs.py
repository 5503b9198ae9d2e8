"""The verbs of the command line, one function each, in the order of a project; the table VERBS at the end lists them.

A verb's parameters are its arguments: positional ones before the `*`, then flags (`from_scratch` is `--from-scratch`), whose
defaults are those of the signature. Each parameter is annotated with its type, its help and, if its choices are the keys of a
table, that table as "module:NAME". `overrides` receives words such as `--optim.lr 1e-4`. Imports stand in the functions, so
that help is quick. What several verbs have in common stands in arguments.py.
"""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from speechssl.arguments import (
    MODEL,
    SPLIT,
    VALID,
    Channel,
    Device,
    FromScratch,
    Label,
    Model,
    Pattern,
    Precision,
    Recipe,
    Resume,
    Run,
    Where,
)


def prepare(
    src: Annotated[Path, "a folder of audio, a corpus, or a table (TSV, CSV, JSON, Parquet, Kaldi, lhotse ...)"],
    *,
    out: Annotated[
        Path | None, "the manifest to write, x.tsv; audio that lies inside SRC is written into x.audio/"
    ] = None,
    dry_run: Annotated[bool, "only show what would be read as what; nothing is decoded or written"] = False,
    corpus: Annotated[str, "what SRC is (auto: recognise it)", "speechssl.data.corpora:CORPORA"] = "auto",
    pattern: Pattern = "",
    tier: Annotated[
        str, "tier of TextGrid and ELAN files with the text, or one of each speaker: anna,ben (default: by their names)"
    ] = "",
    where: Where = (),
    columns: Annotated[
        Sequence[str], "what columns of a table mean: text=transcription speaker=spk; id= for none"
    ] = (),
    encoding: Annotated[str, "of tables and transcripts that are not UTF-8, such as latin-1"] = "",
    channel: Channel = "mix",
    min_seconds: Annotated[float, "leave out shorter clips"] = 0.1,
    max_seconds: Annotated[float, "cut longer clips into equal rows (0: never)"] = 0.0,
    jobs: Annotated[int, "number of processes (0: one per core)"] = 0,
) -> None:
    """List the usable audio of a folder, corpus or table in a manifest."""
    from speechssl.core.errors import InputError
    from speechssl.data.prepare import prepare
    from speechssl.data.preview import preview

    how: dict[str, Any] = {"corpus": corpus, "pattern": pattern, "tier": tier, "columns": columns, "encoding": encoding}
    if dry_run:
        print(preview(src, out, **how, where=where))
        return
    if out is None:
        raise InputError("the following arguments are required: --out (or --dry-run); see `speechssl prepare --help`")
    limits: dict[str, Any] = {"min_seconds": min_seconds, "max_seconds": max_seconds}
    print(prepare(src, out, where=where, channel=channel, jobs=jobs, **how, **limits))


def split(
    manifests: Annotated[Sequence[Path], "manifest(s) or other tables to divide"],
    *,
    out: Annotated[
        Path | None,
        "the manifest to write: all rows, with train, dev or test in the column split, which pretrain and finetune obey (by "
        "default here: all.tsv becomes all.split.tsv)",
    ] = None,
    by: Annotated[
        str, "column whose values stay together: speaker; path keeps recordings whole; id divides row by row"
    ] = "speaker",
    dev: Annotated[str, "share of the seconds for choosing a checkpoint"] = "10%",
    test: Annotated[str, "share of the seconds for the final score"] = "10%",
    stratify: Annotated[str, "column whose values are spread evenly over the parts, such as label"] = "",
    seed: Annotated[int, "another seed gives another division"] = 1,
    again: Annotated[bool, "divide rows that have a split already anew (without this they are refused)"] = False,
) -> None:
    """Divide a manifest into train, dev and test, with no speaker on two sides."""
    from speechssl.data.split import split

    print(split(manifests, out, by=by, dev=dev, test=test, stratify=stratify, seed=seed, again=again))


def pretrain(
    recipe: Recipe,
    *,
    train: Annotated[Sequence[Path], f"table(s) of the training audio, or a folder; {SPLIT}"],
    valid: Annotated[Sequence[Path], VALID] = (),
    where: Where = (),
    out: Run,
    init: Annotated[Path | None, f"start from the weights of this model: {MODEL}"] = None,
    resume: Resume = False,
    from_scratch: FromScratch = False,
    overrides: Sequence[str] = (),
) -> None:
    """Pretrain a model on unlabeled audio."""
    from speechssl.train.run import Paths

    paths = Paths(train=train, valid=valid, where=where, out=out, init=init, resume=resume, scratch=from_scratch)
    run(parse("pretrain", recipe, overrides, paths), paths)


def finetune(
    recipe: Recipe,
    *,
    train: Annotated[Sequence[Path], f"table(s) of transcribed training audio, or a folder; {SPLIT}"],
    valid: Annotated[Sequence[Path], VALID] = (),
    where: Where = (),
    out: Run,
    init: Annotated[Path, f"the pretrained model: {MODEL}"],
    resume: Resume = False,
    from_scratch: FromScratch = False,
    overrides: Sequence[str] = (),
) -> None:
    """Fine-tune a pretrained model with CTC on transcribed audio."""
    from speechssl.train.run import Paths

    paths = Paths(train=train, valid=valid, where=where, out=out, init=init, resume=resume, scratch=from_scratch)
    run(parse("finetune", recipe, overrides, paths), paths)


def parse(verb: str, path: Path, overrides: Sequence[str], paths: Any) -> Any:
    """The recipe of a run; that of a resumed run is recorded in its folder."""
    from speechssl.train.recipe import parse_recipe

    recorded = paths.resume and (paths.out / "recipe.toml").exists()
    run, init = paths.out if recorded else None, paths.init is not None
    return parse_recipe(verb, path, overrides, scratch=paths.scratch, init=init, run=run)


def run(recipe: Any, paths: Any) -> None:
    """Train, then print where the model is; exit code 130 if a signal stopped the run."""
    from speechssl.data.prepare import listed
    from speechssl.score.watch import watch_of
    from speechssl.train.folder import RunFolder
    from speechssl.train.run import train

    RunFolder(path=paths.out).check(paths.resume)  # before folders are listed beside it
    sources = {name: listed(getattr(paths, name), paths.out, name, paths.resume) for name in ("train", "valid")}
    paths = replace(paths, **sources)
    state = train(recipe, paths, watch_of(recipe))
    stopped = state.step < recipe.train.steps
    if os.environ.get("RANK", "0") == "0":  # only rank 0 prints
        hours = f"{state.step} updates, {state.seconds_heard / 3600:.2f} h of audio"
        best = paths.out / "best"
        hint = f"best model: {best}" if best.exists() else f"model: {paths.out / 'last'}"
        if stopped:
            hint = "stopped; continue with the same command and --resume"
        print(f"{paths.out}: {hours}; {hint}", file=sys.stderr)
    if stopped:
        sys.exit(130)


def cluster(
    source: Annotated[str, f"what is clustered: mfcc, or {MODEL}"],
    manifests: Annotated[Sequence[Path], "the audio: all tables of a run, validation too, or one folder"],
    *,
    where: Where = (),
    out: Annotated[Path, "the Parquet file to write, which --objective.codes of pretrain reads"],
    clusters: Annotated[Sequence[int], "number of clusters; several make several codebooks"] = (100,),
    method: Annotated[str, "kmeans, or gmm: the posterior in a mixture of Gaussians, the better target"] = "kmeans",
    layer: Annotated[str, "of a model: best, last, or a number (0: the input of the first layer)"] = "best",
    seed: Annotated[int, "of the sample and of the clusters"] = 1,
    device: Device = "auto",
    precision: Precision = "float32",
) -> None:
    """Number the frames of audio by clusters: the targets of HuBERT."""
    from speechssl.data.prepare import listed
    from speechssl.use.cluster import MFCC, cluster

    model = None if source == MFCC else load(source, device, precision)
    rows = listed(manifests, out.with_suffix(""), "train", resume=False)
    print(cluster(model, rows, out, where=where, clusters=clusters, method=method, layer=layer, seed=seed))
    if rows != list(manifests):
        print(f"  these are the rows of {rows[0]}; pretrain on them: --train {rows[0]}")


def evaluate(
    model: Annotated[str, f"fine-tuned: {MODEL}"],
    manifest: Annotated[Path, "a table or folder of transcribed audio; all its rows, whatever the column `split` says"],
    *,
    where: Where = (),
    normaliser: Annotated[
        str,
        "of both sides (auto: basic; upper for a vocabulary of capitals; none for phones that basic would confuse)",
        "speechssl.text.normalise:NORMALISERS",
    ] = "auto",
    language: Annotated[
        str, "code of the language, such as tr, for spelling rules (by default that of the model's training)"
    ] = "",
    digits: Annotated[Literal["trained", "keep", "spell"], "numbers; trained: as in the model's training"] = "trained",
    points: Annotated[
        Literal["trained", "keep", "drop"], "vowel points of Hebrew and Arabic; trained: likewise"
    ] = "trained",
    out: Annotated[Path | None, "write scores (JSON) and every hypothesis (TSV) into this folder"] = None,
    device: Device = "auto",
    precision: Precision = "float32",
) -> None:
    """Word and character error rate of a model on transcribed audio."""
    from speechssl.score.evaluate import evaluate

    how = {"language": language or "trained", "digits": digits, "points": points}
    print(evaluate(load(model, device, precision), manifest, where=where, normaliser=normaliser, how=how, out=out))


def transcribe(
    model: Annotated[str, f"fine-tuned: {MODEL}"],
    sources: Annotated[Sequence[Path], "audio files of any length, rate and format, folders, or tables"],
    *,
    where: Where = (),
    format: Annotated[Literal["txt", "srt", "vtt", "json"], "of the transcripts"] = "txt",
    out: Annotated[Path | None, "write one file per input into this folder; those already there are kept"] = None,
    channel: Channel = "mix",
    device: Device = "auto",
    precision: Precision = "float32",
) -> None:
    """Transcribe audio files, with word times."""
    from speechssl.use.transcribe import transcribe_files

    failed = transcribe_files(
        load(model, device, precision), sources, where=where, style=format, out=out, channel=channel
    )
    if failed:
        sys.exit(2)


def embed(
    model: Model,
    sources: Annotated[Sequence[Path], "tables, folders, or audio files"],
    *,
    out: Annotated[Path | None, "the Parquet file to write (by default here, named after the first source)"] = None,
    where: Where = (),
    channel: Channel = "mix",
    layer: Annotated[
        str,
        "best (of its training; the last if that is not recorded), last, a number (0: the input of the first layer), all, or "
        "weighted (all; the probe learns the weights)",
    ] = "best",
    pool: Annotated[
        str, "over time (model: as its authors do; none: every frame is kept)", "speechssl.use.pooling:POOLS"
    ] = "model",
    device: Device = "auto",
    precision: Precision = "float32",
) -> None:
    """Turn clips into vectors, one row of a Parquet file each."""
    from speechssl.use.embed import default_out, embed_to_parquet

    out = out or default_out(sources)
    options: dict[str, Any] = {"layer": layer, "pool": pool, "where": where, "channel": channel}
    done = embed_to_parquet(load(model, device, precision), sources, out, **options)
    if done is not None:
        print(done)


def probe(
    embeddings: Annotated[Path, "a Parquet file that `embed` wrote"],
    *,
    label: Label = "label",
    group: Annotated[str, "column whose values are never in both training and test, such as speakers"] = "speaker",
    folds: Annotated[int, "number of folds at most"] = 5,
    seed: Annotated[int, "seed of the bootstrap"] = 1,
    out: Annotated[Path | None, "write the result as JSON too"] = None,
) -> None:
    """Accuracy and UAR of a linear classifier on embeddings, over folds of unseen speakers."""
    from speechssl.score.probe import probe

    print(probe(embeddings, label=label, group=group, folds=folds, seed=seed, out=out))


def benchmark(
    model: Model,
    *,
    data: Annotated[Path, "the folder of the corpus, or a manifest"],
    task: Annotated[str, "what is predicted (auto: recognise it)", "speechssl.score.task:TASKS"] = "auto",
    protocol: Annotated[str, "how it is split, trained and scored", "speechssl.score.protocols:PROTOCOLS"] = "unseen",
    label: Label = "label",
    pattern: Pattern = "",
    layer: Annotated[str, "best, last, a number, or all: a line for each"] = "best",
    where: Where = (),
    out: Annotated[Path | None, "folder for benchmark.json and benchmark.html"] = None,
    device: Device = "auto",
    precision: Precision = "float32",
) -> None:
    """Score a model on an emotion corpus under a named protocol, beside chance and random weights."""
    from speechssl.core import dist
    from speechssl.score.benchmark import benchmark

    machine = {"device": dist.usable(device), "precision": precision}
    choice = {"task": task, "protocol": protocol, "label": label, "layer": layer}
    print(benchmark(model, data, **choice, pattern=pattern, where=where, out=out, **machine))


def abx(
    model: Model,
    items: Annotated[
        Path, "phones with their times: `file onset offset phone previous next speaker` a line, as in Libri-light"
    ],
    *,
    root: Annotated[Path | None, "the folder in which the files of the items lie (by default that of ITEMS)"] = None,
    layer: Annotated[str, "all, last, or a number"] = "all",
    norm: Annotated[str, "of the features of each file", "speechssl.score.abx_table:NORMS"] = "standardise",
    in_context: Annotated[bool, "compare phones between the same neighbours only"] = False,
    out: Annotated[Path | None, "write the table as JSON too"] = None,
    device: Device = "auto",
    precision: Precision = "float32",
) -> None:
    """How well a model's layers tell phones apart (ABX), beside MFCC, log-mels and random weights."""
    from speechssl.score.abx_table import abx_table

    how = {"root": root, "layer": layer, "norm": norm, "in_context": in_context}
    print(abx_table(load(model, device, precision), items, **how, out=out))


def layers(
    model: Model,
    manifest: Annotated[Path, "a table or folder of labelled clips; take validation speakers, never those of a test"],
    *,
    label: Label = "label",
    group: Annotated[str, "column whose values are never in both training and test, such as speakers"] = "speaker",
    where: Where = (),
    folds: Annotated[int, "number of folds at most"] = 5,
    device: Device = "auto",
    precision: Precision = "float32",
) -> None:
    """Rank the layers and poolings of a model by how well they tell your own labels apart."""
    from speechssl.score.layers import rank_layers

    print(rank_layers(load(model, device, precision), manifest, label=label, group=group, where=where, folds=folds))


def convert(
    src: Model,
    dst: Annotated[Path, "the folder, or for fairseq and torchaudio the file, to write"],
    *,
    to: Annotated[str, "the format", "speechssl.interop.convert:WRITERS"],
) -> None:
    """Write a model in another library's format, tensors bit for bit."""
    from speechssl.interop.convert import convert

    print(convert(src, dst, to))


def info(model: Model) -> None:
    """Describe a model: family, size, frame rate, vocabulary, origin, licence."""
    from speechssl.interop.convert import info

    print(info(model))


def export(
    model: Model,
    out: Annotated[Path, "the file to write, such as model.onnx or model.pt2"],
    *,
    to: Annotated[Literal["torch", "onnx"], "torch.export, or ONNX"],
    int8: Annotated[bool, "store weight matrices in 8 bits (onnx only)"] = False,
    encoder: Annotated[bool, "leave out the CTC head: hidden states instead"] = False,
) -> None:
    """Write a model as one graph for deployment, time axis free, checked against the model."""
    import speechssl
    from speechssl.interop.export import export

    print(export(speechssl.load(model), out, to, int8=int8, encoder=encoder))


def load(model: str, device: str, precision: str) -> Any:
    """The model of a verb that streams clips through it."""
    import speechssl
    from speechssl.core import dist

    return speechssl.load(model, device=dist.usable(device), precision=precision)


VERBS: dict[str, Callable[..., None]] = {
    verb.__name__: verb
    for verb in (
        prepare,
        split,
        cluster,
        pretrain,
        finetune,
        evaluate,
        transcribe,
        embed,
        probe,
        benchmark,
        abx,
        layers,
        convert,
        info,
        export,
    )
}
