"""From the command line and a TOML file, or a name, to the recipe of an objective, for a new run or one that is resumed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from speechssl.core.config import COMMAND_LINE, apply, flat_values, parse_overrides, read_toml, shown
from speechssl.core.errors import InputError
from speechssl.objectives import OBJECTIVES, Objective
from speechssl.objectives.published import COLUMNS, FINETUNING
from speechssl.objectives.recipe import Recipe

MAY_CHANGE = (  # on --resume: what decides neither the weights of the next update nor what it hears
    "train.steps",
    "train.device",
    "train.gradient_checkpointing",
    "train.log_every",
    "train.valid_every",
    "train.save_every",
    "train.tensorboard",
    "train.stop_on_collapse",
    "data.workers",
    "data.micro_seconds",
)
AUTO = "auto"
OURS = {  # recipes for networks of the size of `small`, by name; a wheel has the files below train/recipes/
    "small-digits": "small/digits.toml",
    "small-words": "words/words.toml",
    "small-sentences": "small/finetune.toml",
}
FOLDERS = (Path(__file__).parent / "recipes", Path(__file__).parents[2] / "recipes")


def parse_recipe(
    verb: str,
    path: Path | None,
    overrides: Sequence[str] = (),
    *,
    scratch: bool = False,
    init: bool = False,
    run: Path | None = None,
) -> Recipe:
    """The recipe in `path`, a file or a name (None: the defaults of the verb's first objective), with overrides such as
    ["--optim.lr", "1e-4"].

    scratch: with the defaults for random weights. init: the sizes of the network come from elsewhere. run: the folder of a
    run to resume, whose own recipe then counts; of what `path` and the overrides state, only the keys in MAY_CHANGE may
    differ from it. InputError names the file or the command line, the key, the value and what would be right.
    """
    if verb == "finetune" and str(path) == AUTO:
        path = None  # auto.py chooses for a new run
    named = {} if verb != "finetune" else named_recipe(str(path))
    values = {} if path is None else named or read_toml(path)
    objective = objective_of(verb, values, path)
    recipe = objective.Recipe()
    if scratch:
        recipe = apply(recipe, objective.from_scratch, "--from-scratch")
        values = {key: value for key, value in values.items() if not (named and key in objective.from_scratch)}
    stated, said = known_values(values), parse_overrides(recipe, overrides)
    if path is not None:
        recipe = apply(recipe, stated, str(path))
    recipe = apply(recipe, said, COMMAND_LINE)
    if run is None:
        refuse_cut_updates(objective, recipe)
        return recipe
    recorded = run / "recipe.toml"
    values = read_toml(recorded)
    own = apply(objective_of(verb, values, recorded).Recipe(), known_values(values), str(recorded))
    sources = dict.fromkeys(["kind", *stated], str(path)) | dict.fromkeys(said, COMMAND_LINE)
    if init:
        sources = {
            key: source for key, source in sources.items() if not (key.startswith("model.") and "drop" not in key)
        }
    return resumed(own, recipe, sources, recorded)


def named_recipe(name: str) -> dict[str, Any]:
    """The values of a fine-tuning recipe that has a name, by dotted key; {} for any other name."""
    if name in FINETUNING:
        return dict(zip(COLUMNS, FINETUNING[name], strict=True))
    files = (folder / OURS[name] for folder in FOLDERS if name in OURS)
    return next((read_toml(file) for file in files if file.exists()), {})


def known_values(values: dict[str, Any]) -> dict[str, Any]:
    """The values of a TOML file, without keys that earlier versions had and that change nothing."""
    if values.get("objective.utterance_weight") == 0:
        return {key: value for key, value in values.items() if not key.startswith("objective.utterance_")}
    return values


def objective_of(verb: str, values: dict[str, Any], path: Path | None) -> type[Objective]:
    """The objective that a recipe's `kind` names; without one the first of the verb."""
    known = {kind: objective for kind, objective in OBJECTIVES.items() if objective.verb == verb}
    kind = values.get("kind", next(iter(known)))
    if not isinstance(kind, str) or kind not in known:
        raise InputError(f"{path}: kind = {shown(kind)} must be one of {', '.join(known)} for `speechssl {verb}`")
    return known[kind]


def refuse_cut_updates(objective: type[Objective], recipe: Recipe) -> None:
    """InputError for micro-batches where the objective needs whole updates."""
    data = recipe.data
    if objective.whole_updates and data.micro_seconds < data.batch_seconds:
        raise InputError(
            f"data.micro_seconds = {data.micro_seconds:g} would cut the updates of {data.batch_seconds:g} s, but {recipe.kind} "
            "normalises over whole updates; leave it out, lower data.batch_seconds, or start more processes"
        )


def resumed(own: Recipe, wanted: Recipe, sources: dict[str, str], recorded: Path) -> Recipe:
    """The recorded recipe `own` with what a resumed run may change. sources: who states each key of `wanted` that is stated.

    The device is that of this start, since each rank has its own.
    """
    before, after = flat_values(own), flat_values(wanted)
    changes = {"train.device": after["train.device"]}
    for key, source in sources.items():
        if after.get(key) in (before.get(key), AUTO):
            continue
        if key not in MAY_CHANGE:
            raise InputError(
                f"{source} has {key} = {after[key]!r}, but the run has {before[key]!r} ({recorded}), and a resumed run may "
                f"change only {', '.join(MAY_CHANGE)}; leave it out, or start a new run with --init {recorded.parent}"
            )
        changes[key] = after[key]
    return apply(own, changes, COMMAND_LINE)
