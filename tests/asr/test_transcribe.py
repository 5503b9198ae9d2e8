"""Long audio: windows change no word, memory stays constant, any rate aligns; files in and files out."""

import numpy as np
import pytest
import soundfile
import soxr

import speechssl
from speechssl.asr.transcribe import transcribe, transcribe_files
from speechssl.errors import InputError
from tests.conftest import CLIP


@pytest.fixture(scope="module")
def model(ctc_folder):
    """A tiny model of random letters; its convolutions see no further than a frame, its attention as far as the window."""
    return speechssl.load(ctc_folder)


class Local:
    """A model whose letters depend on the frame alone: which of 27 loudness classes it has."""

    def __init__(self, model):
        self.config, self.tokenizer, self.sizes = model.config, model.tokenizer, []

    def log_probs(self, waves):
        import torch

        self.sizes.append(max(map(len, waves)))
        field, hop, found = self.config.geometry.receptive_field, self.config.geometry.hop, []
        for wave_S in waves:
            frames_TS = np.lib.stride_tricks.sliding_window_view(wave_S, field)[::hop]
            loud_T = np.clip(-np.log10(frames_TS.astype(np.float64).std(axis=1) + 1e-9) * 6, 0, 26).astype(int)
            found.append(torch.nn.functional.one_hot(torch.from_numpy(loud_T) + 2, len(self.tokenizer)).float().log())
        return found


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
def test_windows_change_no_word_and_no_time(model, rate, speech, tmp_path):
    local, wave = Local(model), speech[: 16_000 * 20]
    soundfile.write(tmp_path / "x.wav", soxr.resample(wave, 16_000, rate), rate, subtype="FLOAT")
    whole = transcribe(local, tmp_path / "x.wav", window=100.0)
    assert len(local.sizes) == 1
    cut = transcribe(local, tmp_path / "x.wav", window=2.0, context=0.5)
    assert max(local.sizes[1:]) <= 3.2 * 16_000
    assert abs(cut.duration - whole.duration) <= 0.021
    if rate == 16_000:
        assert cut == whole
    else:  # the resampler's edges may move a frame across a class
        spoken, heard = ([(w.text, w.start) for w in t.words] for t in (whole, cut))
        assert len(set(spoken) & set(heard)) > 0.8 * max(len(spoken), len(heard))


def test_an_array_a_path_and_a_file_object_agree(model, clip):
    with open(CLIP, "rb") as file:
        found = [model.transcribe(source) for source in (CLIP, str(CLIP), file, clip)]
    assert all(transcript == found[0] for transcript in found)
    assert found[0].duration == pytest.approx(len(clip) / 16_000, abs=0.025)


def test_less_than_a_frame_is_told_without_the_samples(model):
    with pytest.raises(InputError, match=r"^the array is shorter than one frame"):
        model.transcribe(np.ones(399, np.float32))


def test_a_bad_file_does_not_stop_the_others(model, tmp_path, capsys):
    gone = tmp_path / "gone.wav"
    assert transcribe_files(model, [gone, CLIP], out=tmp_path / "out") == 1
    assert f"error: {gone} is missing" in capsys.readouterr().err
    written = (tmp_path / "out" / f"{CLIP.stem}.txt").read_text(encoding="utf-8")
    assert written == model.transcribe(CLIP).text + "\n"


def test_two_files_never_become_one_transcript(model, tmp_path):
    twin = tmp_path / f"{CLIP.stem}.wav"
    with pytest.raises(InputError, match=rf"{CLIP.stem}\.flac and .*\.wav would both become {CLIP.stem}\.srt"):
        transcribe_files(model, [CLIP, twin], style="srt", out=tmp_path / "out")


def test_a_model_without_letters_is_told_before_any_file(pretrained_folder, tmp_path):
    with pytest.raises(InputError, match=r"has no CTC head .*speechssl finetune"):
        transcribe_files(speechssl.load(pretrained_folder), [tmp_path / "gone.wav"])
