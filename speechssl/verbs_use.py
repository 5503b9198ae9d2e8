"""The verbs that use models and score them; see verbs.py."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from speechssl.arguments import (
    MODEL,
    Beam,
    Channel,
    Decoder,
    Device,
    HotWords,
    Label,
    LexiconFile,
    Lm,
    LmWeight,
    Model,
    Pattern,
    Precision,
    Where,
    WordScore,
)


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
    rows = listed(manifests, out, "", resume=False)
    print(cluster(model, rows, out, where=where, clusters=clusters, method=method, layer=layer, seed=seed))
    if rows != list(manifests):
        conditions = f" --where {' '.join(where)}" if where else ""
        print(f"  these are the rows of {rows[0]}; pretrain on them: --train {rows[0]}{conditions}")


def evaluate(
    model: Annotated[str, f"fine-tuned: {MODEL}"],
    manifest: Annotated[Path, "a table or folder of transcribed audio; all its rows, whatever the column `split` says"],
    *,
    where: Where = (),
    normaliser: Annotated[
        str,
        "of both sides (auto: basic; upper for a vocabulary of capitals; none for phones that basic would confuse; whisper-...: "
        "as Whisper's authors score English and other languages, with its package)",
        "speechssl.text.normalise:NORMALISERS",
    ] = "auto",
    language: Annotated[
        str, "code of the language, such as tr, for spelling rules (by default that of the model's training)"
    ] = "",
    digits: Annotated[Literal["trained", "keep", "spell"], "numbers; trained: as in the model's training"] = "trained",
    points: Annotated[
        Literal["trained", "keep", "drop"], "vowel points of Hebrew and Arabic; trained: likewise"
    ] = "trained",
    by: Annotated[Sequence[str], "columns whose values get rates of their own, besides speaker and length"] = (),
    out: Annotated[Path | None, "write a page, scores (JSON) and every utterance (TSV) into this folder"] = None,
    lm: Lm = None,
    lm_weight: LmWeight = None,
    word_score: WordScore = None,
    lexicon: LexiconFile = None,
    hot_words: HotWords = (),
    decoder: Decoder = "auto",
    beam: Beam = 100,
    device: Device = "auto",
    precision: Precision = "float32",
) -> None:
    """Error rates of a model on transcribed audio; accuracy and UAR of a classifier on labelled audio."""
    from speechssl.score.classes import evaluate_classes
    from speechssl.score.evaluate import evaluate
    from speechssl.use.language import search_of

    opened = load(model, device, precision)
    if opened.model.head == "classes":
        print(evaluate_classes(opened, manifest, where=where, out=out))
        return
    how = {"language": language or "trained", "digits": digits, "points": points}
    weights: dict[str, Any] = {"lm_weight": lm_weight, "word_score": word_score}
    search = search_of(lm, lexicon=lexicon, hot_words=hot_words, decoder=decoder, beam=beam, **weights)
    options: dict[str, Any] = {"where": where, "normaliser": normaliser, "how": how, "by": by, "out": out}
    print(evaluate(opened, manifest, search=search, **options))


def compare(
    folders: Annotated[
        Sequence[Path], "what `evaluate --out` wrote for the same utterances; each is compared with the first"
    ],
    *,
    resamples: Annotated[int, "of the bootstrap"] = 1000,
    seed: Annotated[int, "of the bootstrap"] = 1,
    out: Annotated[Path | None, "write the result as JSON too"] = None,
) -> None:
    """Tell whether one evaluation is better than another, by a paired bootstrap over speakers."""
    from speechssl.score.compare import compare

    print(*compare(folders, resamples=resamples, seed=seed, out=out), sep="\n\n")


def transcribe(
    model: Annotated[str, f"fine-tuned: {MODEL}"],
    sources: Annotated[
        Sequence[Path], "audio files of any length, rate and format, folders, or tables; or -: a pipe, while it comes"
    ],
    *,
    where: Where = (),
    format: Annotated[str, "of the transcripts", "speechssl.text.formats:FORMATS"] = "txt",
    out: Annotated[Path | None, "write one file per input into this folder; those already there are kept"] = None,
    channel: Channel = "mix",
    confidence: Annotated[
        float,
        "leave out what is heard between two pauses if its letters have a lower mean probability (0: nothing); a pipe keeps all",
    ] = 0.6,
    lm: Lm = None,
    lm_weight: LmWeight = None,
    word_score: WordScore = None,
    lexicon: LexiconFile = None,
    hot_words: HotWords = (),
    decoder: Decoder = "auto",
    beam: Beam = 100,
    n_best: Annotated[int, "how many texts of each clip stand in the json, with their scores"] = 1,
    rate: Annotated[int | None, "of -: Hz of 16-bit mono samples without a wav header (default: the model's)"] = None,
    live: Annotated[
        Sequence[float], "of -: seconds of context, of look-ahead, and between two looks (default: 5 1 0.5)"
    ] = (),
    device: Device = "auto",
    precision: Precision = "float32",
) -> None:
    """Transcribe audio files, or what comes from a pipe, with word times."""
    from speechssl.core.errors import InputError
    from speechssl.use.language import search_of
    from speechssl.use.listen import PIPE, transcribe_pipe
    from speechssl.use.transcribe import transcribe_files

    weights: dict[str, Any] = {"lm_weight": lm_weight, "word_score": word_score, "n_best": n_best}
    search = search_of(lm, lexicon=lexicon, hot_words=hot_words, decoder=decoder, beam=beam, **weights)
    options: dict[str, Any] = {"where": where, "style": format, "out": out, "channel": channel, "search": search}
    options["confidence"] = confidence
    if PIPE not in sources and (rate is not None or live):
        raise InputError("--rate and --live are for audio from a pipe; name it: -")
    if PIPE in sources:
        if len(sources) > 1 or where or out or channel != "mix" or n_best > 1:
            raise InputError(
                "- is one pipe, without --where, --out, --channel and --n-best; leave these and other files out"
            )
        transcribe_pipe(load(model, device, precision), rate=rate, live=live, style=format, search=search)
    elif transcribe_files(load(model, device, precision), sources, **options):
        sys.exit(2)


def classify(
    model: Annotated[str, f"fine-tuned with recipes/classify: {MODEL}"],
    sources: Annotated[Sequence[Path], "audio files, folders, or tables"],
    *,
    where: Where = (),
    channel: Channel = "mix",
    every: Annotated[float, "a row for each so many seconds, such as 1, instead of one for each clip"] = 0.0,
    unknown_below: Annotated[
        float, "least probability; below it the class is `unknown` (evaluate shows what it costs)"
    ] = 0.0,
    out: Annotated[Path | None, "write a table: x.tsv, .csv, .json, .jsonl or .parquet"] = None,
    device: Device = "auto",
    precision: Precision = "float32",
) -> None:
    """Tell the class of each clip, with probabilities."""
    from speechssl.use.classify import classify_files

    options: dict[str, Any] = {
        "where": where,
        "channel": channel,
        "every": every,
        "unknown_below": unknown_below,
        "out": out,
    }
    if classify_files(load(model, device, precision), sources, **options):
        sys.exit(2)


def align(
    model: Annotated[str, f"fine-tuned: {MODEL}"],
    sources: Annotated[Sequence[Path], "tables or folders with transcripts, or one recording and --text"],
    *,
    where: Where = (),
    text: Annotated[Path | None, "a file with the text of the one recording"] = None,
    gaps: Annotated[bool, "find and report what is said but not in the text, and what of the text is not said"] = False,
    format: Annotated[str, "of the times", "speechssl.text.formats:FORMATS"] = "TextGrid",
    out: Annotated[Path | None, "write one file per row into this folder"] = None,
    segments: Annotated[
        Path | None, "write segments of some seconds into this table, with a column confidence, for finetune --train"
    ] = None,
    device: Device = "auto",
    precision: Precision = "float32",
) -> None:
    """Find the times of the words and letters of given transcripts (forced alignment), from the beginning of each file."""
    from speechssl.use.align import align_files

    options: dict[str, Any] = {
        "where": where,
        "text": text,
        "gaps": gaps,
        "style": format,
        "out": out,
        "segments": segments,
    }
    if align_files(load(model, device, precision), sources, **options):
        sys.exit(2)


def tune_lm(
    model: Annotated[str, f"fine-tuned: {MODEL}"],
    lm: Annotated[Path, "the language model"],
    manifest: Annotated[
        Path, "table or folder of transcribed audio that is no test: of a column split only the dev rows are taken"
    ],
    *,
    where: Where = (),
    normaliser: Annotated[str, "of both sides, as in evaluate", "speechssl.text.normalise:NORMALISERS"] = "auto",
    beam: Beam = 100,
    device: Device = "auto",
    precision: Precision = "float32",
) -> None:
    """Choose the weight and the word score of a language model, and write them into LM.json."""
    from speechssl.score.tune import tune_lm

    print(tune_lm(load(model, device, precision), lm, manifest, where=where, normaliser=normaliser, beam=beam))


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
