"""Shared by all tests: real speech from data/, tiny models of both families, deterministic threads."""

from pathlib import Path

import numpy as np
import pytest
import torch

from speechssl import cli
from speechssl.data.tables import read_manifest
from speechssl.models import families
from speechssl.models.wav2vec2.config import Wav2Vec2Config
from speechssl.models.wav2vec2.model import Wav2Vec2ForCTC, Wav2Vec2ForPreTraining
from speechssl.objectives import wav2vec2
from speechssl.objectives.protocol import Objective, Step
from speechssl.objectives.recipe import TrainConfig
from speechssl.sound import audio
from speechssl.text.tokenizer import CharTokenizer

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "data"
CLIP = DATA / "librispeech_test" / "3005-163389-0007.flac"  # two seconds
TINY = dict(
    conv_dim=(32, 32, 32, 32, 32, 32, 32),
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=64,
    num_conv_pos_embeddings=16,
    num_conv_pos_embedding_groups=4,
    num_codevectors_per_group=16,
    codevector_dim=16,
    proj_codevector_dim=16,
)
QUIET = dict.fromkeys(
    ("feat_proj_dropout", "feat_quantizer_dropout", "hidden_dropout", "attention_dropout", "layerdrop"), 0.0
)
FAMILIES = {
    "group-post": dict(feat_extract_norm="group", do_stable_layer_norm=False, conv_bias=False, do_normalize=False),
    "layer-pre": dict(feat_extract_norm="layer", do_stable_layer_norm=True, conv_bias=True, do_normalize=True),
}

TINY_MODEL = """\
[model]
conv_dim = [16, 16, 16, 16, 16, 16, 16]
hidden_size = 32
num_hidden_layers = 2
num_attention_heads = 2
intermediate_size = 64
num_conv_pos_embeddings = 16
num_conv_pos_embedding_groups = 4
num_codevectors_per_group = 16
codevector_dim = 16
proj_codevector_dim = 16
"""  # the section of a recipe whose runs last seconds
FEW_DIGITS = """\
[data]
batch_seconds = 3.0
micro_seconds = 3.0
min_seconds = 0.2
workers = 0
"""  # and its section for updates of some spoken digits


def tiny(family: str = "group-post", **changes) -> Wav2Vec2Config:
    """A tiny model of a family, without dropout unless asked for."""
    return Wav2Vec2Config(**(TINY | QUIET | FAMILIES[family] | changes))


def masked_learner(model: Wav2Vec2ForPreTraining | None = None, seed: int = 1, **settings) -> wav2vec2.Wav2Vec2:
    """The wav2vec 2.0 objective around a network, a tiny one unless given; settings: of its section `objective`."""
    model = Wav2Vec2ForPreTraining(tiny()) if model is None else model
    config = wav2vec2.Wav2Vec2ObjectiveConfig(**settings)
    recipe = wav2vec2.Recipe(model=model.config, objective=config, train=TrainConfig(seed=seed))
    return wav2vec2.Wav2Vec2(recipe, model)


def one_step(objective: Objective, batch, update: int = 0) -> Step:
    """An update of a single micro-batch, without the optimiser's step."""
    return objective(batch, objective.before_update(update, [batch]))


@pytest.fixture(scope="session")
def speech() -> np.ndarray:
    """About a minute of real speech: the unlabeled LibriSpeech clips end to end, 16 kHz float32."""
    clips = sorted((DATA / "librispeech").rglob("*.ogg"))[:8]
    return np.concatenate([audio.load(clip) for clip in clips])


@pytest.fixture(params=sorted(FAMILIES))
def family(request) -> str:
    """Both families of the paper."""
    return request.param


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Each test starts from the same global seed."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def clip() -> np.ndarray:
    """One sentence of two seconds, 16 kHz float32."""
    return audio.load(CLIP)


@pytest.fixture(scope="session")
def ctc_folder(tmp_path_factory) -> Path:
    """A tiny model with random weights that writes letters."""
    torch.manual_seed(0)
    folder, tokenizer = tmp_path_factory.mktemp("ctc"), CharTokenizer.build(["abcdefghijklmnopqrstuvwxyz '"])
    families.save(folder, Wav2Vec2ForCTC(tiny(), len(tokenizer)), tokenizer, {})
    return folder


@pytest.fixture(scope="session")
def pretrained_folder(tmp_path_factory) -> Path:
    """A tiny model with random weights and no letters."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("pretrained")
    families.save(folder, Wav2Vec2ForPreTraining(tiny()), None, {})
    return folder


def write_table(path: Path, *rows: dict[str, object]) -> Path:
    """A manifest with the columns that the rows name."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = ["\t".join(names), *("\t".join(str(row.get(name, "")) for name in names) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def digits(count: int = 12) -> list[dict[str, object]]:
    """Rows of a manifest: spoken digits of several speakers."""
    rows = read_manifest(DATA / "fsdd.tsv").select(range(0, 1500, 1500 // count))
    names = ("id", "path", "duration", "speaker", "label", "text")
    return [{**{name: getattr(row, name) for name in names}, "split": "train"} for row in rows]


def with_pauses(
    words: list[np.ndarray], pauses: list[float], loudness: float
) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Words, trimmed, with the noise of a room before each and after the last, so many seconds in turn; and where each lies."""
    room = audio.load(DATA / "librivox" / "sense_and_sensibility_01_austen_64kb-0880.ogg")
    quiet = min((room[i : i + 4000] for i in range(0, len(room) - 4000, 800)), key=lambda x: float(np.square(x).sum()))
    loud = [np.flatnonzero(np.abs(word) > 0.03 * np.abs(word).max()) for word in words]
    trimmed = [word[heard[0] : heard[-1]] for word, heard in zip(words, loud, strict=True)]
    parts, spans, at = [], [], 0
    for number, word in enumerate([*trimmed, np.zeros(0, np.float32)]):
        length = round(pauses[number % len(pauses)] * 16_000)
        parts += [np.resize(np.concatenate([quiet, quiet[::-1]]), length) * np.float32(loudness), word]
        spans.append((at + length, at + length + len(word)))
        at += length + len(word)
    return np.concatenate(parts), spans[:-1]


def desk_with(folder: Path, monkeypatch, **recipes: str) -> Path:
    """Make `folder` the working folder, with a manifest of some digits, x.tsv, and recipes by the names of their files."""
    monkeypatch.chdir(folder)
    write_table(Path("x.tsv"), *digits())
    for name, text in recipes.items():
        Path(f"{name}.toml").write_text(text)
    return folder


def refused(capsys, *argv: object) -> str:
    """The one sentence that a verb ends with; it must exit with code 2, say nothing of tracebacks and print no result."""
    with pytest.raises(SystemExit) as stop:
        cli.main([str(word) for word in argv])
    captured = capsys.readouterr()
    said = [line for line in captured.err.replace("\r", "\n").split("\n") if line.startswith("error: ")]
    assert stop.value.code == 2, captured.err
    assert len(said) == 1
    assert "Traceback" not in captured.err
    return said[0]
