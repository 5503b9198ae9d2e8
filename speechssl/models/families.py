"""The one table of network families: what a config.json's `model_type` stands for."""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple

from speechssl.core.errors import InputError
from speechssl.models.byols import folder as byols_folder
from speechssl.models.byols.model import ByolsConfig
from speechssl.models.checkpoint import Checkpoint, checkpoint_of
from speechssl.models.folder import CONFIG, read_json
from speechssl.models.protocol import Encoder
from speechssl.models.wav2vec2 import checkpoint as wav2vec2_checkpoint
from speechssl.models.wav2vec2 import folder as wav2vec2_folder
from speechssl.models.wav2vec2.config import Wav2Vec2Config
from speechssl.text.tokenizer import CharTokenizer


class Family(NamedTuple):
    """config: the class of its architecture. build: checkpoint -> module. classifier: the same for a body and some classes, with
    a new head. read, write: its model folder. describe: lines for `speechssl info`. formats: those of other libraries that
    `convert` and `export` can write it in."""

    config: type
    build: Callable[[Checkpoint], Encoder]
    classifier: Callable[..., Encoder]
    read: Callable[[Path, dict[str, Any], str], Checkpoint]
    write: Callable[..., None]
    describe: Callable[[Checkpoint], dict[str, str]]
    formats: frozenset[str]


WAV2VEC2 = Family(
    config=Wav2Vec2Config,
    build=wav2vec2_checkpoint.build,
    classifier=wav2vec2_checkpoint.classifier,
    read=wav2vec2_folder.read,
    write=wav2vec2_folder.write,
    describe=wav2vec2_folder.describe,
    formats=frozenset({"transformers", "speechssl", "fairseq", "torchaudio", "export"}),
)
BYOLS = Family(
    config=ByolsConfig,
    build=byols_folder.build,
    classifier=byols_folder.classifier,
    read=byols_folder.read,
    write=byols_folder.write,
    describe=byols_folder.describe,
    formats=frozenset(),
)
NOT_IN_FAIRSEQ = WAV2VEC2._replace(formats=WAV2VEC2.formats - {"fairseq"})
CONFORMER = WAV2VEC2._replace(formats=frozenset({"transformers", "speechssl"}))
FAMILIES = {
    "wav2vec2": WAV2VEC2,
    "hubert": WAV2VEC2,
    "wavlm": WAV2VEC2,
    "data2vec-audio": WAV2VEC2,
    "unispeech": NOT_IN_FAIRSEQ,
    "unispeech-sat": NOT_IN_FAIRSEQ,
    "wav2vec2-conformer": CONFORMER,
    "wav2vec2-bert": CONFORMER,
    "byol-s": BYOLS,
}


PEFT = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")  # a folder of differences
LORA = (".lora_A.", ".lora_B.")


def with_format(name: str) -> tuple[str, ...]:
    """The families that `convert` or `export` can write in a format."""
    return tuple(family for family, row in FAMILIES.items() if name in row.formats)


def of_network(config: type) -> tuple[str, ...]:
    """The families whose network has a config of this class."""
    return tuple(family for family, row in FAMILIES.items() if row.config is config)


def family(checkpoint: Checkpoint) -> Family:
    """The family of a checkpoint."""
    return FAMILIES[checkpoint.config.model_type]


def require(model_type: str, source: str, families: Collection[str], purpose: str) -> None:
    """InputError unless `model_type`, that of `source`, is one of `families`, which `purpose` needs."""
    if model_type not in families:
        raise InputError(
            f"{source} is a {model_type} model, and {purpose} needs one of: {', '.join(families)}; embed, probe and benchmark "
            "work with all"
        )


def build(checkpoint: Checkpoint) -> Encoder:
    """The module of a checkpoint, in float32 on the CPU, in evaluation mode. InputError when the tensors do not fit."""
    return family(checkpoint).build(checkpoint)


def check_whole(source: Path, state: Collection[str]) -> None:
    """InputError for tensors that are the differences to those of a model, or lie beside them."""
    if any(mark in key for key in state for mark in LORA):
        raise difference(source)


def difference(source: Path) -> InputError:
    """What is said of a model that PEFT has trained and not merged."""
    return InputError(
        f"{source} holds the difference to a model that PEFT has trained (LoRA and the like), not a model by itself; merge the "
        "two with model.merge_and_unload() and save the result into a folder of its own"
    )


def models_inside(folder: Path) -> list[str]:
    """The folders and files in a folder that look like models, newest first."""
    found = [path for path in folder.iterdir() if (path / CONFIG).exists() or path.suffix in (".pt", ".pth", ".ckpt")]
    return [str(path) for path in sorted(found, key=lambda path: -path.stat().st_mtime)]


def read(folder: Path, language: str = "") -> Checkpoint:
    """A model folder as a checkpoint; language: with the adapter that MMS has for it. InputError says what is wrong."""
    missing = not (folder / CONFIG).exists()
    if any((folder / name).exists() for name in PEFT[0 if missing else 1 :]):
        raise difference(folder)
    if missing and (inside := models_inside(folder)):
        raise InputError(f"{folder} is no model, but holds some: give one of {', '.join(inside[:9])}")
    raw = read_json(folder / CONFIG)
    model_type = raw.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise InputError(
            f"{folder / CONFIG} says model_type = {model_type!r}; only {', '.join(FAMILIES)} can be opened"
        )
    return FAMILIES[model_type].read(folder, raw, language)


def write(folder: Path, checkpoint: Checkpoint, *, half: bool = False) -> None:
    """A checkpoint as the model folder that `read` opens; half: weights in 16 bits, else as they are."""
    family(checkpoint).write(folder, checkpoint, half=half)


def save(
    folder: Path, model: Encoder, tokenizer: CharTokenizer | None, origin: dict[str, Any], *, half: bool = False
) -> None:
    """Write a module as a model folder. origin: training data, step, objective ...: "speechssl" in its config.json."""
    write(folder, checkpoint_of(model, tokenizer, {"speechssl": origin}), half=half)
