"""A model between formats: every reader makes a `Checkpoint`, every writer takes one."""

from dataclasses import dataclass, field, replace
from typing import Any, Self

from torch import Tensor, nn

from speechssl.core.errors import InputError
from speechssl.models.protocol import Encoder
from speechssl.text.tokenizer import CharTokenizer


@dataclass(kw_only=True)
class Checkpoint:
    """config: the architecture, of the class that its family names. state: tensors as they are in the file, under the names
    of the family's module. raw: all that its config.json says, so that nothing is lost on the way. source: for messages."""

    config: Any
    state: dict[str, Tensor]
    tokenizer: CharTokenizer | None = None
    raw: dict[str, Any] = field(default_factory=dict)
    source: str

    def without_weights(self) -> Self:
        """Only the sizes: what --from-scratch starts from."""
        return replace(self, state={})


def checkpoint_of(
    model: Encoder, tokenizer: CharTokenizer | None, raw: dict[str, Any], extra: dict[str, Tensor] | None = None
) -> Checkpoint:
    """A module as a checkpoint; `raw` and `extra` (tensors it has no use for) are of the file it came from, if any."""
    raw = raw | model.head_json
    state = model.saved_state(raw) | (extra or {})
    return Checkpoint(config=model.config, state=state, tokenizer=tokenizer, raw=raw, source="the model")


def extra_tensors(checkpoint: Checkpoint, model: nn.Module) -> dict[str, Tensor]:
    """The tensors of the file that the model has no place for: kept, to be written back."""
    own = model.state_dict()
    return {key: value for key, value in checkpoint.state.items() if key not in own}


def check_fit(model: nn.Module, state: dict[str, Tensor], source: str, need: str = "") -> None:
    """InputError when a tensor whose name starts with `need` is missing, any shape differs, or a value is no number."""
    own = model.state_dict()
    missing = [key for key in own if key.startswith(need) and key not in state]
    wrong = [key for key in own if key in state and own[key].shape != state[key].shape]
    if missing or wrong:
        problem = f"{missing[0]} is missing" if missing else f"{wrong[0]} has shape {tuple(state[wrong[0]].shape)}"
        raise InputError(f"{source} does not fit its config.json: {problem}; the two files belong to different models")
    lost = next((key for key in own if key in state and not as_float(state[key]).sum().isfinite()), None)
    if lost:  # the sum is read once, where a test of each value would take as long as opening the file
        raise InputError(
            f"{source}: {lost} holds values that are no numbers (nan or inf), as when training diverges; take an earlier "
            "checkpoint"
        )


def as_float(value: Tensor) -> Tensor:
    """Float32, unless it counts something (batch norm's batches)."""
    return value.float() if value.is_floating_point() else value
