"""The verbs that make manifests, language models and models; see verbs.py."""

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from speechssl.arguments import (
    MODEL,
    SPLIT,
    VALID,
    Channel,
    FromScratch,
    Pattern,
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
    max_seconds: Annotated[float, "cut longer clips without transcript where they are quietest (0: never)"] = 0.0,
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


def build_lm(
    texts: Annotated[
        Sequence[Path], "text files with a sentence in each line, or table(s) whose transcripts are taken"
    ],
    *,
    out: Annotated[Path, "the ARPA file to write, lm.arpa"],
    where: Where = (),
    order: Annotated[int, "length of the longest n-grams"] = 4,
    units: Annotated[Literal["words", "chars"], "chars: for languages without spaces"] = "words",
    normaliser: Annotated[str, "how lines are spelled", "speechssl.text.normalise:NORMALISERS"] = "basic",
    language: Annotated[str, "code of the language, such as tr, for spelling rules"] = "",
    encoding: Annotated[str, "of text that is not UTF-8, such as latin-1"] = "",
) -> None:
    """Estimate an n-gram language model (interpolated modified Kneser-Ney)."""
    from speechssl.use.language import build_lm

    how = {"normaliser": normaliser, "language": language, "encoding": encoding}
    print(build_lm(texts, out, where=where, order=order, units=units, **how))


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
    recipe: Annotated[
        Path,
        "auto: the one that fits the hours of labels, the size of --init and this machine; the published settings base-10m, "
        "base-1h, base-10h, base-100h, base-960h, large-10m ... large-960h; or a TOML file. Any value can be overridden",
    ],
    *,
    train: Annotated[Sequence[Path], f"table(s) of transcribed training audio, or a folder; {SPLIT}"],
    valid: Annotated[Sequence[Path], VALID] = (),
    where: Where = (),
    out: Run,
    init: Annotated[Path, f"the pretrained model: {MODEL}"],
    label: Annotated[str, "of a classifier: the column to predict (--objective.label)"] = "",
    group: Annotated[str, "of a classifier: the column of the speakers (--objective.group)"] = "",
    resume: Resume = False,
    from_scratch: FromScratch = False,
    overrides: Sequence[str] = (),
) -> None:
    """Fine-tune a pretrained model: CTC on transcribed audio, or a classifier on labelled audio."""
    from speechssl.train.run import Paths

    paths = Paths(train=train, valid=valid, where=where, out=out, init=init, resume=resume, scratch=from_scratch)
    named = {"--objective.label": label, "--objective.group": group}
    overrides = [*(word for key, value in named.items() if value for word in (key, value)), *overrides]
    if str(recipe) == "auto" and not recorded(paths):
        from speechssl.train.auto import auto_recipe

        paths = with_lists(paths)
        return run(auto_recipe(paths, overrides), paths)
    run(parse("finetune", recipe, overrides, paths), paths)


def recorded(paths: Any) -> bool:
    """Whether a run is resumed that has its recipe in its folder."""
    return paths.resume and (paths.out / "recipe.toml").exists()


def parse(verb: str, path: Path, overrides: Sequence[str], paths: Any) -> Any:
    """The recipe of a run; that of a resumed run is recorded in its folder."""
    from speechssl.train.recipe import parse_recipe

    run, init = paths.out if recorded(paths) else None, paths.init is not None
    return parse_recipe(verb, path, overrides, scratch=paths.scratch, init=init, run=run)


def with_lists(paths: Any) -> Any:
    """The paths with manifests instead of folders; checks first that the run may be written, for these are listed beside it."""
    from speechssl.data.prepare import listed
    from speechssl.train.folder import RunFolder

    RunFolder(path=paths.out).check(paths.resume)
    return replace(paths, **{n: listed(getattr(paths, n), paths.out, n, paths.resume) for n in ("train", "valid")})


def run(recipe: Any, paths: Any) -> None:
    """Train, then print where the model is; exit code 130 if a signal stopped the run."""
    from speechssl.score.watch import watch_of
    from speechssl.train.run import train

    paths = with_lists(paths)
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
