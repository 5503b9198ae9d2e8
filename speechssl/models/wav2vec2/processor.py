"""What a model folder says about the audio that its network takes: the feature extractor of transformers' processors."""

import re
from pathlib import Path
from typing import Any

from speechssl.core import dist
from speechssl.core.errors import InputError
from speechssl.models.folder import read_json
from speechssl.sound.audio import SAMPLE_RATE

PREPROCESSOR, PROCESSOR, TOKENIZER = "preprocessor_config.json", "processor_config.json", "tokenizer_config.json"
TRAINER = re.compile(r"checkpoint-\d+")  # a folder in which transformers' Trainer keeps an update's weights
RATES = (SAMPLE_RATE, 8_000)
KNOWN = ("do_normalize", "sampling_rate", "feature_extractor_type")


def holder(folder: Path, *names: str) -> Path:
    """The folder in which files of a model lie that are not its weights: this one, or, if none of them is there, the one above
    a checkpoint of transformers' Trainer, which is reported."""
    above = folder.absolute().parent
    missing = TRAINER.fullmatch(folder.absolute().name) and not any((folder / name).exists() for name in names)
    found = [name for name in names if missing and (above / name).exists()]
    if found:
        dist.report(f"{folder}: no {found[0]} here, so the one above is used, {above / found[0]}")
    return above if found else folder


def feature_extractor(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """(file, settings) of the feature extractor, found where transformers finds it; None if the folder has none.

    transformers 5 nests it in processor_config.json, which then counts before preprocessor_config.json; the first folders on
    the hub had `do_normalize` in tokenizer_config.json.
    """
    files = [folder / name for name in (PROCESSOR, PREPROCESSOR, TOKENIZER)]
    said = {file: read_json(file) for file in files if file.exists()}
    for file, settings in said.items():
        for key in ("feature_extractor", "audio_processor"):
            if isinstance(settings.get(key), dict):
                return file, settings[key]
    for file in (files[1], files[0], files[2]):
        if any(key in said.get(file, {}) for key in KNOWN):
            return file, said[file]
    return None


def heard(folder: Path, extractor: str, by_architecture: bool | None) -> tuple[bool, int]:
    """(whether each utterance is brought to zero mean and unit variance, the sample rate that the network takes).

    extractor: transformers' class of feature extractor for this network. by_architecture: the first answer for a folder that says
    nothing, which is then reported (None: there is nothing to decide). InputError for another class, or a sample rate that is not
    in RATES.
    """
    found = feature_extractor(holder(folder, PREPROCESSOR, PROCESSOR))
    if found is None and by_architecture is None:
        return False, SAMPLE_RATE
    if found is None:
        taken = "each utterance is normalised" if by_architecture else "audio is taken as it is"
        dist.report(
            f"{folder}: no {PREPROCESSOR} or {PROCESSOR}, so {taken}, as published models of this architecture want it; if "
            'that is wrong, write {"do_normalize": true} or false into ' + PREPROCESSOR
        )
        return bool(by_architecture), SAMPLE_RATE
    file, settings = found
    kind, rate = settings.get("feature_extractor_type", extractor), settings.get("sampling_rate", SAMPLE_RATE)
    if kind != extractor:
        raise InputError(f"{file} says feature_extractor_type = {kind!r}, but a network of this kind needs {extractor}")
    if rate not in RATES:
        raise InputError(
            f"{file} says sampling_rate = {rate!r}, and a network may take audio of {' or '.join(map(str, RATES))} Hz; correct "
            "it if it is wrong, else this model cannot be opened"
        )
    normalise = settings.get("do_normalize", True)  # true is the default of transformers' class
    if not isinstance(normalise, bool):
        raise InputError(f"{file} says do_normalize = {normalise!r}; correct it to true or false")
    return normalise, rate
