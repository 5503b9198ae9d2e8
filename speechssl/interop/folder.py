"""Model folders of every family: which reader and writer belongs to which."""

from pathlib import Path
from typing import Any

from speechssl.interop.byols import MODEL_TYPE, load_byols, read_published, save_byols
from speechssl.interop.huggingface import CONFIG, load_model, read_json, save_model
from speechssl.models.byols import ByolsModel
from speechssl.text import CharTokenizer


def open_model(path: Path) -> tuple[Any, CharTokenizer | None, dict[str, Any]]:
    """(model, tokenizer or None, config.json) of a model folder or a published BYOL-S file, in evaluation mode."""
    if path.is_file():
        return read_published(path), None, {}
    raw = read_json(path / CONFIG)
    if raw.get("model_type") == MODEL_TYPE:
        return load_byols(path, raw), None, raw
    return load_model(path)


def write_model(
    folder: Path, model: Any, tokenizer: CharTokenizer | None, facts: dict[str, Any], *, half: bool = False
) -> None:
    """Write a model folder that `open_model` reads; `facts` go under "speechssl" in config.json."""
    if isinstance(model, ByolsModel):
        save_byols(folder, model, facts, half=half)
    else:
        save_model(folder, model, tokenizer, facts, half=half)
