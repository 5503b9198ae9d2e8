"""Long audio: windows change no word, memory stays constant, any rate aligns; files in and files out."""

import json
import os
import shutil
from itertools import pairwise

import numpy as np
import pytest
import soundfile
import soxr
import torch

import speechssl
from speechssl.core.errors import InputError
from speechssl.models import families
from speechssl.models.wav2vec2.model import Wav2Vec2ForCTC
from speechssl.sound import audio
from speechssl.text.formats import write
from speechssl.text.tokenizer import CharTokenizer
from speechssl.use.transcribe import transcribe, transcribe_files, transcribe_waves
from tests.conftest import CLIP, digits, tiny, with_pauses


@pytest.fixture(scope="module")
def model(ctc_folder):
    """A tiny model of random letters; its convolutions see no further than a frame, its attention as far as the window."""
    return speechssl.load(ctc_folder)


class Local:
    """A model whose letters depend on the frame alone: which of 27 loudness classes it has."""

    def __init__(self, model):
        self.config, self.tokenizer, self.sizes, self.silence = model.config, model.tokenizer, [], 0.0
        self.device = model.device

    def log_probs(self, waves):
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
    cut = transcribe(local, tmp_path / "x.wav", window=2.0, context=0.5, utterance=None)
    assert max(local.sizes[1:]) <= 3.2 * 16_000
    assert abs(cut.duration - whole.duration) <= 0.021
    if rate == 16_000:
        assert cut == whole
    else:  # the resampler's edges may move a frame across a class
        spoken, heard = ([(w.text, w.start) for w in t.words] for t in (whole, cut))
        assert len(set(spoken) & set(heard)) > 0.8 * max(len(spoken), len(heard))


@pytest.mark.parametrize("window", [100.0, 1.0])
def test_a_model_that_learned_between_silence_transcribes_between_silence(ctc_folder, speech, tmp_path, window):
    """The words of the padded clip, earlier by the silence; alone, in a batch, from a file and in windows."""
    wave, added = speech[: 16_000 * 4 + 5], 1920
    soundfile.write(tmp_path / "x.wav", wave, 16_000, subtype="FLOAT")
    plain, quiet = (speechssl.load(ctc_folder) for _ in range(2))
    quiet.config_json = {"speechssl": {"silence": added / 16_000}}
    padded = transcribe(plain, np.pad(wave, added), window=window)
    expected = [(w.text, w.start - 0.12, w.end - 0.12, w.score) for w in padded.words]
    found = [transcribe(quiet, source, window=window) for source in (wave, tmp_path / "x.wav")]
    if window > 4:
        found += transcribe_waves(quiet, [wave, speech[:9000]])[:1]
    assert len(expected) > 1
    for transcript in found:
        assert transcript.duration == pytest.approx(padded.duration - 0.24)
        for word, (text, start, end, score) in zip(transcript.words, expected, strict=True):
            assert word.text == text and word.score == pytest.approx(score, abs=2e-3)
            assert word.start == pytest.approx(max(0, start), abs=1e-3)
            assert word.end == pytest.approx(min(max(0, end), transcript.duration), abs=1e-3)


def test_chinese_has_a_time_for_each_character_and_captions_of_six_seconds(speech, tmp_path):
    tokenizer = CharTokenizer.build(["天地玄黄宇宙洪荒日月盈昃"])
    families.save(tmp_path, Wav2Vec2ForCTC(tiny(), len(tokenizer)), tokenizer, {})
    found = speechssl.load(tmp_path).transcribe(speech[: 16_000 * 26])
    assert "".join(word.text for word in found.words) == found.text.replace(" ", "")
    assert all(len(word.text) == 1 for word in found.words)
    blocks = [block.splitlines() for block in write(found, "srt").strip().split("\n\n")]
    assert len(blocks) >= 5
    assert "".join("".join(lines) for _, _, *lines in blocks).replace(" ", "") == found.text.replace(" ", "")
    for _, times, *_ in blocks:
        start, end = (60 * int(t[3:5]) + float(t[6:].replace(",", ".")) for t in times.split(" --> "))
        assert end - start <= 6.001


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


def test_files_of_one_name_in_a_folder_keep_their_endings(model, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a.flac", "a.wav", "b.flac"):
        soundfile.write(tmp_path / "in" / name, audio.load(CLIP), 16_000)
    assert transcribe_files(model, [tmp_path / "in"], out=tmp_path / "out") == 0
    assert sorted(path.name for path in (tmp_path / "out").glob("*.txt")) == ["a.flac.txt", "a.wav.txt", "b.txt"]


def test_a_model_without_letters_is_told_before_any_file(pretrained_folder, tmp_path):
    with pytest.raises(InputError, match=r"has no CTC head .*speechssl finetune"):
        transcribe_files(speechssl.load(pretrained_folder), [tmp_path / "gone.wav"])


@pytest.fixture
def folder(tmp_path):
    """A folder of short clips, one of them below, and a text that pretends to be audio."""
    (tmp_path / "clips" / "below").mkdir(parents=True)
    for number, row in enumerate(digits()):
        shutil.copy(row["path"], tmp_path / "clips" / ("below" if number == 3 else ".") / f"{number:02d}.flac")
    (tmp_path / "clips" / "text.wav").write_text("I am a text")
    return tmp_path / "clips"


def test_clips_of_a_folder_give_in_batches_what_they_give_alone(model, folder, tmp_path, monkeypatch, capsys):
    sizes, ask = [], model.log_probs
    monkeypatch.setattr(model, "log_probs", lambda waves: sizes.append(len(waves)) or ask(waves))
    assert transcribe_files(model, [folder, CLIP], style="json", out=tmp_path / "out") == 1
    assert sizes == [13]
    assert f"error: {folder / 'text.wav'} cannot be decoded" in capsys.readouterr().err
    for file in [*folder.rglob("*.flac"), CLIP]:
        name = file.stem if file == CLIP else file.relative_to(folder).with_suffix("")
        written = (tmp_path / "out" / f"{name}.json").read_text(encoding="utf-8")
        assert written == write(model.transcribe(file), "json")


def test_transcripts_are_printed_in_the_order_of_the_files(model, folder, capsys):
    files = sorted(folder.glob("*.flac"), reverse=True)
    transcribe_files(model, [*files, folder / "below"])
    texts = {str(file): model.transcribe(file).text for file in [*files, folder / "below" / "03.flac"]}
    assert capsys.readouterr().out == "".join(f"{file}: {text}\n" for file, text in texts.items())


def test_what_is_written_is_not_made_again_unless_audio_or_model_changed(model, folder, tmp_path, monkeypatch, capsys):
    def made(sources, model=model) -> int:
        """Clips that a call transcribes."""
        sizes, ask = [], model.log_probs
        with monkeypatch.context() as patch:
            patch.setattr(model, "log_probs", lambda waves: sizes.append(len(waves)) or ask(waves))
            transcribe_files(model, sources, out=tmp_path / "out")
        return sum(sizes)

    assert made([folder / "00.flac"]) == 1
    assert made([folder]) == 11
    assert "1 of 13 transcripts exist and are kept" in capsys.readouterr().err
    os.utime(folder / "05.flac")
    (tmp_path / "out" / "below" / "03.txt").unlink()
    assert made([folder]) == 2
    other = speechssl.load(model.source)
    other.model.lm_head.weight.data.neg_()
    assert made([folder / "00.flac"], other) == 1  # as if stopped after this one
    assert made([folder], other) == 11
    for file in folder.glob("*.flac"):
        assert (tmp_path / "out" / f"{file.stem}.txt").read_text() == other.transcribe(file).text + "\n"


def test_each_channel_of_a_call_is_a_speaker(model, speech, tmp_path, capsys):
    """Words are those of the channels alone, in the order of time; a recording with one channel stays as it is."""
    waves = {"left": speech[: 16_000 * 3], "right": speech[160_000 : 160_000 + 16_000 * 3]}
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in" / "call.wav", np.stack(list(waves.values()), 1), 16_000, subtype="FLOAT")
    shutil.copy(CLIP, tmp_path / "in" / "mono.flac")
    alone = {name: model.transcribe(wave_S) for name, wave_S in waves.items()}
    found = model.transcribe(tmp_path / "in" / "call.wav", channel="each")
    for name, transcript in alone.items():
        said = [word for word in found.words if word.channel == name]
        assert [(word.text, word.start) for word in said] == [(word.text, word.start) for word in transcript.words]
        assert model.transcribe(tmp_path / "in" / "call.wav", channel=name) == transcript
        assert " ".join(word.text for word in said).split()[0] in found.text
    assert [word.start for word in found.words] == sorted(word.start for word in found.words)
    assert {line.partition(": ")[0] for line in found.text.splitlines()} == {"left", "right"}
    for style in ("txt", "srt", "vtt", "json"):
        assert transcribe_files(model, [tmp_path / "in"], style=style, out=tmp_path / "out", channel="each") == 0
        assert (tmp_path / "out" / f"call.{style}").read_text(encoding="utf-8") == write(found, style)
        assert (tmp_path / "out" / f"mono.{style}").read_text() == write(model.transcribe(CLIP), style)
    assert "\n<v left>" in write(found, "vtt") and "\nright: " in write(found, "srt")
    words = json.loads(write(found, "json"))["words"]
    assert {word["channel"] for word in words} == {"left", "right"} and len(words) == len(found.words)
    assert "channel" not in json.loads(write(model.transcribe(CLIP), "json"))["words"][0]
    assert transcribe_files(model, [tmp_path / "in"], style="txt", out=tmp_path / "out", channel="left") == 0
    assert (tmp_path / "out" / "call.txt").read_text() == alone["left"].text + "\n"


class Loud:
    """An ear without a mistake: the letter a wherever a frame is louder than the room, else blanks."""

    def __init__(self, model, level: float) -> None:
        self.tokenizer, self.geometry, self.level, self.seconds = model.tokenizer, model.config.letters, level, 0.0

    def __call__(self, waves):
        self.seconds += sum(map(len, waves)) / 16_000
        found = []
        for wave_S in waves:
            frames_TS = np.lib.stride_tricks.sliding_window_view(wave_S, self.geometry.receptive_field)
            loud_T = torch.from_numpy(frames_TS[:: self.geometry.hop].std(axis=1) > self.level)
            tokens_T = torch.where(loud_T, self.tokenizer.encode("a")[0], self.tokenizer.blank)
            found.append((0.98 * torch.nn.functional.one_hot(tokens_T, len(self.tokenizer)) + 1e-4).log())
        return found


def test_a_long_noisy_call_gives_the_words_of_both_sides_in_turn(model, tmp_path, monkeypatch):
    """Digits on two channels at 8 kHz, in the noise of a room: a word for each, at its time; the pauses are not computed."""
    words = [audio.load(row["path"]) for row in digits(30)]
    left, spans = with_pauses(words[:15], [2.2], 0.3)
    right, others = with_pauses([words[15], *words[15:]], [1.1, *[2.2] * 40], 0.3)
    length = max(len(left), len(right))
    call = np.stack([np.pad(side, (0, length - len(side))) for side in (left, right)], 1)
    soundfile.write(tmp_path / "call.wav", soxr.resample(call, 16_000, 8_000), 8_000)
    ear = Loud(model, 0.006)
    monkeypatch.setattr(model, "log_probs", ear)
    assert (
        transcribe_files(model, [tmp_path / "call.wav"], style="json", out=tmp_path, channel="each", confidence=0.5)
        == 0
    )
    found = json.loads((tmp_path / "call.json").read_text())["words"]
    assert [word["start"] for word in found] == sorted(word["start"] for word in found)
    for channel, where in (("left", spans), ("right", others)):
        said = [word for word in found if word["channel"] == channel]
        assert len(said) == len(where)
        for word, (start, stop) in zip(said, where, strict=True):
            assert start / 16_000 - 0.06 < word["start"] < word["end"] < stop / 16_000 + 0.06
    turns = [word["channel"] for word in found]
    assert sum(a != b for a, b in pairwise(turns)) > 20
    assert ear.seconds < 0.8 * 2 * length / 16_000


def test_digital_silence_has_no_words_and_takes_no_time(model, monkeypatch):
    monkeypatch.setattr(model, "log_probs", None)
    assert transcribe(model, np.zeros(16_000 * 95, np.float32)).text == ""


def test_several_sources_give_several_transcripts(model, clip, speech):
    other = speech[:20_000]
    expected = [model.transcribe(clip), model.transcribe(other)]
    assert model.transcribe([CLIP, other]) == expected
    both = model.transcribe(np.stack([clip[:20_000], other]))
    assert both == [model.transcribe(clip[:20_000]), expected[1]]
