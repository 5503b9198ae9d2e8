"""Damaged and malicious files: one sentence, nothing executed, nothing written, nothing exhausted."""

import json
import os
import pickle
import re
import resource
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import speechssl
from speechssl.interop.pickles import Unpickler
from speechssl.models.wav2vec2.config import Wav2Vec2Config
from tests.conftest import CLIP
from tests.interop.builders import fairseq_settings, fairseq_state, make, save


@pytest.fixture
def folder(tmp_path) -> Path:
    """A good transformers folder, to be damaged."""
    return save(make(), tmp_path / "m")


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    """A good fairseq file, to be damaged."""
    model = make(head="ForPreTraining")
    content = {
        "model": fairseq_state(model, fine_tuned=False),
        "cfg": {"model": fairseq_settings(model.config, "wav2vec2")},
    }
    torch.save(content, tmp_path / "m.pt")
    return tmp_path / "m.pt"


def refused(source: Path, pattern: str) -> None:
    """Opening says one sentence that matches, and takes less than 300 MB more than now."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(speechssl.InputError) as caught:
        speechssl.load(source)
    text = str(caught.value)
    assert re.search(pattern, text), text
    assert "\n" not in text and str(source.name) in text
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000


class Bomb:
    """What pickle calls when it believes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("where", ["fairseq", "legacy", "bin", "adapter"])
def test_pickles_that_run_commands(where, checkpoint, folder, tmp_path):
    mark = tmp_path / "executed"
    if where in ("fairseq", "legacy"):
        torch.save({"model": {}, "cfg": Bomb(mark)}, checkpoint, _use_new_zipfile_serialization=where == "fairseq")
        refused(checkpoint, r"posix\.system.*do not trust it")
    elif where == "bin":
        (folder / "model.safetensors").unlink()
        torch.save({"wav2vec2.x": Bomb(mark)}, folder / "pytorch_model.bin")
        refused(folder, "cannot be read as tensors.*do not trust it")
    else:
        torch.save({"lm_head.weight": Bomb(mark)}, folder / "adapter.fra.bin")
        with pytest.raises(speechssl.InputError, match="do not trust it"):
            speechssl.load(f"{folder}@fra")
    assert not mark.exists()


@pytest.mark.parametrize("name", ["os.system", "builtins.eval", "builtins.exec", "torch.load", "torch.hub.load"])
def test_no_name_in_a_file_is_ever_looked_up(name, tmp_path):
    module, _, attribute = name.rpartition(".")
    with pytest.raises(pickle.UnpicklingError, match="do not trust it"):
        Unpickler(open(os.devnull, "rb")).find_class(module, attribute)


@pytest.mark.parametrize("kept", [0, 1, 100, 5000, -200])
def test_truncated_files(kept, checkpoint, folder):
    for file, source in ((checkpoint, checkpoint), (folder / "model.safetensors", folder)):
        file.write_bytes(file.read_bytes()[:kept])
        refused(source, "cannot be read|only a part")
    (folder / "config.json").write_text((folder / "config.json").read_text()[: kept % 100])
    refused(folder, "config.json is not valid JSON")


def test_archives_that_grow(checkpoint):
    with zipfile.ZipFile(checkpoint, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/data.pkl", b"\0" * 100_000_000)
    assert checkpoint.stat().st_size < 1_000_000
    refused(checkpoint, "compressed, which torch.save never does")


def test_configs_that_grow(folder):
    config = folder / "config.json"
    with open(config, "wb") as file:
        file.truncate(5 << 30)  # sparse: five gigabytes to a reader
    refused(folder, "5120 MiB, which no model's settings have")
    config.write_text("[" * 200_000)
    refused(folder, "not valid JSON")


@pytest.mark.parametrize(
    "field, value",
    [
        ("hidden_size", 10**9),
        ("hidden_size", 10**30),
        ("num_hidden_layers", 10**9),
        ("intermediate_size", 10**12),
        ("num_conv_pos_embeddings", 10**9),
        ("conv_stride", [10**9] * 7),
        ("conv_stride", [0] * 7),
        ("conv_dim", [10**9] * 7),
        ("num_attention_heads", 0),
        ("num_attention_heads", 5),
        ("num_codevectors_per_group", 10**9),
        ("adapter_attn_dim", 10**9),
        ("hidden_size", -32),
        ("hidden_size", "32"),
        ("model_type", "wavlm"),
        ("layer_norm_eps", None),
    ],
    ids=str,
)
def test_configs_that_disagree_with_the_tensors(field, value, tmp_path):
    folder = save(make("wav2vec2", "pre", "ForPreTraining"), tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {field: value}))
    if value is None:
        assert speechssl.load(folder).config.layer_norm_eps == 1e-5
    elif (field, value) == ("adapter_attn_dim", 10**9):
        refused(folder, "adapter")
    else:
        refused(folder, f"{field}|gru_rel_pos|stride 0|negative|heads")


@pytest.mark.parametrize("target", ["../../secret", "/etc/passwd", "..", "sub/dir.safetensors", "", None])
def test_indices_that_leave_the_folder(target, folder):
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"wav2vec2.masked_spec_embed": target}} if target is not None else {"weight_map": 7}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(folder.parent / "m", "names files outside the folder or none|is missing") if target else None
    if not target:
        with pytest.raises(speechssl.InputError, match="do not trust it"):
            speechssl.load(folder)


def test_tensors_that_exceed_their_data(checkpoint):
    """A storage of a few bytes that claims to be a matrix of gigabytes: torch would enlarge it."""

    class Huge:
        def __reduce__(self):
            storage = torch.zeros(4).untyped_storage()
            typed = torch.storage.TypedStorage(wrap_storage=storage, dtype=torch.float32, _internal=True)
            return torch._utils._rebuild_tensor_v2, (typed, 0, (10**6, 10**6), (10**6, 1), False, {})

    torch.save({"model": {"mask_emb": Huge()}}, checkpoint)
    refused(checkpoint, "a tensor is larger than its data")


def test_tensors_without_data(checkpoint):
    """A meta tensor of a terabyte and a sparse one: no checkpoint has them, and torch's weights_only=True opens both."""

    class Meta:
        def __reduce__(self):
            return torch._utils._rebuild_meta_tensor_no_storage, (torch.float32, (10**6, 10**6), (10**6, 1), False)

    for value in (Meta(), torch.eye(3).to_sparse()):
        torch.save({"model": {"mask_emb": value}}, checkpoint)
        refused(checkpoint, "which no checkpoint needs: do not trust it")


def test_wrong_kinds_of_files(checkpoint, folder, tmp_path):
    torch.save({"epoch": 3}, checkpoint)
    refused(checkpoint, "holds neither a fairseq checkpoint .* nor a state dict of a known network")
    torch.save({"model": {"weight": torch.zeros(2)}}, checkpoint)
    refused(checkpoint, "lacks feature_projection|not a model of the wav2vec 2.0 family")
    refused(folder / "config.json", "only a part of a model")
    (tmp_path / "x.pt").write_text("hello")
    refused(tmp_path / "x.pt", "not a file of torch.save")
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "s.pt"))
    refused(tmp_path / "s.pt", "TorchScript program")


def test_conversion_overwrites_nothing_and_leaves_nothing_half_done(folder, tmp_path):
    from speechssl.interop.convert import convert

    (tmp_path / "taken").write_text("precious")
    with pytest.raises(speechssl.InputError, match="exists"):
        convert(folder, tmp_path / "taken", "fairseq")
    assert (tmp_path / "taken").read_text() == "precious"
    stacked = save(make("data2vec-audio"), tmp_path / "d")
    with pytest.raises(speechssl.InputError, match="no model_type = 'data2vec-audio'"):
        convert(stacked, tmp_path / "out" / "x.pth", "torchaudio")
    assert not list((tmp_path / "out").iterdir())


def test_differences_of_peft_and_unknown_networks_are_named(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    refused(tmp_path, "merge_and_unload")
    (tmp_path / "config.json").write_text('{"model_type": "sew"}')
    refused(
        tmp_path, "model_type = 'sew'; only wav2vec2, hubert, .*unispeech-sat, .*wav2vec2-bert, byol-s can be opened"
    )


@pytest.mark.parametrize("with_weights", [True, False])
def test_a_difference_beside_a_config_is_not_left_out(with_weights, folder):
    """transformers would add it to the weights."""
    torch.save({}, folder / "adapter_model.bin")
    if not with_weights:
        (folder / "model.safetensors").unlink()
    refused(folder, "merge_and_unload")


def test_tensors_with_differences_beside_them(tmp_path):
    state = {f"base_model.model.{key}": value for key, value in make().state_dict().items()}
    state["base_model.model.wav2vec2.encoder.layers.0.attention.q_proj.lora_A.default.weight"] = torch.zeros(4, 32)
    torch.save(state, tmp_path / "x.pt")
    refused(tmp_path / "x.pt", "merge_and_unload")


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_pointers_of_git_lfs(name, folder):
    (folder / "model.safetensors").unlink()
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1261942780\n")
    with pytest.raises(speechssl.InputError, match=f"{name} is only a pointer of Git LFS .* `git lfs pull`"):
        speechssl.load(folder)
    refused(folder / name, "git lfs pull")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_of_a_training_that_diverged(value, folder):
    """They would transcribe as nothing, and embed as nan."""
    state = load_file(folder / "model.safetensors")
    state["wav2vec2.encoder.layers.1.feed_forward.output_dense.bias"][3] = value
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(speechssl.InputError, match=r"output_dense\.bias holds values that are no numbers"):
        speechssl.load(folder)


def test_what_is_no_model_says_what_to_give(folder, tmp_path):
    for name in ("model.onnx", "model.pt2"):
        (tmp_path / name).write_bytes(b"x")
        refused(tmp_path / name, "exported graph.*; give the model that it was made from")
    refused(CLIP, "is audio, not a model; the model comes first")
    outer = tmp_path / "run"
    outer.mkdir()
    refused(outer, "config.json is missing")
    folder.rename(outer / "checkpoint-20")
    refused(outer, "run is no model, but holds some: give one of .*run/checkpoint-20$")
    (outer / "checkpoint-20" / "model.safetensors").rename(outer / "checkpoint-20" / "tf_model.h5")
    refused(outer / "checkpoint-20", "model.safetensors is missing; .*; tf_model.h5 cannot be opened")


@pytest.mark.parametrize(
    "field, value", [("add_adapter", True), ("position_embeddings_type", "rotary"), ("hidden_act", "swish")]
)
def test_fields_of_other_families(field, value, folder):
    """What a family has not is refused in a recipe, and in a file wherever it would change the numbers."""
    with pytest.raises(speechssl.InputError, match=f"model.{field} = .* does not go with model.model_type = 'hubert'"):
        Wav2Vec2Config(model_type="hubert", **{field: value})
    folder = save(make("hubert"), folder.parent / "h")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {field: value}))
    if field == "position_embeddings_type":  # transformers' HuBERT never looks at it
        assert speechssl.load(folder).config.position_embeddings_type == ""
    else:
        refused(folder, field)


@pytest.mark.parametrize(
    "field, value",
    [
        ("hidden_size", 10**9),
        ("num_hidden_layers", 10**9),
        ("intermediate_size", 10**12),
        ("conv_depthwise_kernel_size", 10**9 + 1),
        ("conv_depthwise_kernel_size", 4),
        ("left_max_position_embeddings", 10**12),
        ("right_max_position_embeddings", -1),
        ("num_adapter_layers", 10**9),
        ("adapter_stride", 10**9),
        ("adapter_kernel_size", 1),
        ("output_hidden_size", 10**12),
        ("num_attention_heads", 32),
        ("position_embeddings_type", "rotary"),
        ("position_embeddings_type", "nonsense"),
        ("feature_projection_input_dim", 80),
        ("model_type", "wav2vec2-conformer"),
    ],
    ids=str,
)
def test_configs_of_conformers_that_disagree_with_the_tensors(field, value, tmp_path):
    folder = save(make("wav2vec2-bert", add_adapter=True), tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {field: value}))
    refused(folder, f"{field}|distance_embedding|one frame of|feature_extractor_type")
