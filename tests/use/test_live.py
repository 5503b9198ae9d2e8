"""Streams: final words are those of the whole recording, come in time and never change, however the audio is cut into chunks."""

import dataclasses
from functools import partial

import numpy as np
import pytest
import torch

import speechssl
from speechssl.core.errors import InputError
from speechssl.models import families
from speechssl.models.wav2vec2.model import Wav2Vec2ForCTC
from speechssl.text.decode import greedy
from speechssl.text.decoders import transcript_of
from speechssl.text.search import Search
from speechssl.text.tokenizer import CharTokenizer, Writing
from speechssl.use.live import Event, stream
from speechssl.use.transcribe import posteriors
from tests.conftest import tiny


@pytest.fixture(scope="module")
def model(ctc_folder):
    """A tiny model of random letters."""
    return speechssl.load(ctc_folder)


class Local:
    """A model that writes how loud each frame is, which is the same in every window: pauses as blanks, faint frames as the word
    delimiter, others as letters."""

    def __init__(self, model, tokenizer: CharTokenizer | None = None, silence: float = 0.0):
        self.config, self.tokenizer, self.silence = model.config, tokenizer or model.tokenizer, silence
        self.longest, self.device = 0, torch.device("cpu")

    def log_probs(self, waves):
        field, hop = self.config.geometry.receptive_field, self.config.geometry.hop
        self.longest = max(self.longest, *map(len, waves))
        found = []
        for wave_S in waves:
            frames_TS = np.lib.stride_tricks.sliding_window_view(wave_S, field)[::hop]
            level_T = 16 + np.log10(frames_TS.astype(np.float64).std(axis=1) + 1e-9) * 8  # under 1 in pauses
            best_T = torch.from_numpy(np.clip(level_T, 0, len(self.tokenizer) - 2).astype(int))
            best_T = torch.where(best_T > 1, best_T + 1, 2 * best_T)  # 0: blank, 2: delimiter, no 1: unknown
            odds_TV = torch.nn.functional.one_hot(best_T, len(self.tokenizer)) * 20.0
            found.append(odds_TV.log_softmax(dim=1))
        return found


@pytest.fixture(scope="module")
def talk(speech) -> np.ndarray:
    """Four stretches of speech; pauses of digital silence between them and at both ends."""
    gaps = [np.zeros(n, np.float32) for n in (20_123, 30_000, 25_007, 90_001, 40_000)]
    parts = [
        speech[at : at + size] for at, size in ((0, 50_000), (200_000, 70_001), (330_000, 9_999), (600_000, 64_000))
    ]
    return np.concatenate([gaps[0], *(piece for pair in zip(parts, gaps[1:], strict=True) for piece in pair)])


def whole(model, source, search: Search | None = None):
    """The transcript of a recording that is computed at once; words last as long as their letters."""
    log_probs_TV = torch.cat(posteriors(model, source, window=100.0, utterance=100.0))
    decode = partial(transcript_of, search=search) if search else greedy
    return decode(log_probs_TV, model.tokenizer, model.config.letters, silence=model.silence)


def cut(data, size: int) -> list:
    return [data[i : i + size] for i in range(0, len(data), size)]


def final(events: list[Event]) -> list:
    return [word for event in events if event.kind == "final" for word in event.words]


def lines(events: list[Event]) -> list[str]:
    """The text of each utterance."""
    texts = (event.text + "\n" * event.pause for event in events if event.kind == "final")
    return [line for line in "".join(texts).split("\n") if line]


def unspaced(texts: list[str]) -> str:
    """Without the spaces, of which the transcript of a file has none in a pause in which the model writes none."""
    return "".join(texts).replace(" ", "")


def assert_alike(found: list, expected: list) -> None:
    """The same words at the same times, which may be rounded to another millisecond."""
    assert [word.text for word in found] == [word.text for word in expected]
    for one, two in zip(found, expected, strict=True):
        assert [one.start, one.end, one.score] == pytest.approx([two.start, two.end, two.score], abs=1.1e-3)


@pytest.mark.parametrize("silence", [0.0, 0.12])
def test_a_window_that_holds_everything_gives_the_transcript(family, silence, clip, tmp_path):
    """Words, times and scores to the last bit: the window is the clip, between the silence of the model's training."""
    tokenizer = CharTokenizer.build(["abcdefghijklmnopqrstuvwxyz '"])
    families.save(tmp_path, Wav2Vec2ForCTC(tiny(family), len(tokenizer)), tokenizer, {"silence": silence})
    model = speechssl.load(tmp_path)
    events, expected = list(model.stream([clip], context=9, look_ahead=9)), whole(model, clip)
    assert len(expected.words) > 1
    assert final(events) == expected.words
    assert "".join(event.text for event in events if event.kind == "final") == expected.text
    assert events[-1].pause and events[-1].seconds == pytest.approx(len(clip) / 16_000)


@pytest.mark.parametrize("silence", [0.0, 0.12])
@pytest.mark.parametrize("how", [(0, 0, 0), (0.3, 0.2, 0.1), (10, 1, 0.5), (1, 3, 2.5)])
def test_no_word_is_lost_doubled_or_moved_at_a_seam(model, talk, silence, how):
    local, options = Local(model, silence=silence), dict(zip(("context", "look_ahead", "step"), how, strict=True))
    if not any(how):
        talk = talk[:120_000]
    events, expected = list(stream(local, [talk], **options)), whole(local, talk)
    assert len(expected.words) > 10
    assert_alike(final(events), expected.words)
    assert unspaced(lines(events)) == unspaced([expected.text])
    assert all(line in expected.text for line in lines(events))
    assert len(lines(events)) == (2 if not any(how) else 4)  # an utterance for each stretch of speech


def test_silence_gives_no_line_and_one_event_at_its_end(model, talk):
    assert [
        (event.kind, event.words, event.text, event.pause) for event in stream(Local(model), [talk[:20_000] * 0])
    ] == [("final", [], "", False)]
    *events, last = stream(Local(model), [talk])
    assert (last.kind, last.text, last.pause) == ("final", "", False)  # its last utterance has ended before
    assert sum(event.pause for event in events) == len(lines(events))


def test_memory_and_work_are_those_of_a_window(model, talk):
    local = Local(model)
    list(stream(local, cut(np.tile(talk, 3), 4000), context=2, look_ahead=1, step=0.5))
    assert local.longest <= 16_000 * 3.5 + 640


@pytest.mark.parametrize("letters, writing", [("天地玄黄宇宙洪荒日月盈昃", None), ("abcdefgh", Writing(phones=True))])
def test_letters_of_scripts_without_spaces_and_phones_are_final_one_by_one(model, talk, letters, writing):
    names = ["<pad>", "<unk>", *letters]
    local = Local(model, CharTokenizer({name: i for i, name in enumerate(names)}, writing))
    events, expected = list(stream(local, [talk], look_ahead=0.5)), whole(local, talk)
    assert_alike(final(events), expected.words)
    assert (" " if writing else "").join(lines(events)) == expected.text
    assert sum(event.kind == "final" for event in events) > 10


def test_events_do_not_depend_on_the_chunks(model, clip):
    """One sample, odd numbers of bytes, 10 ms, everything; bytes, integers, floats, tensors and stereo."""
    ints = (clip * 32_767).astype("<i2")
    data, floats = ints.tobytes(), ints / np.float32(32_768)
    expected = list(model.stream([data]))
    assert len(final(expected)) > 1
    assert any(event.kind == "partial" for event in expected)
    for chunks in (
        cut(ints, 1),
        cut(data, 333),
        cut(floats, 160),
        (torch.from_numpy(part) for part in cut(floats, 5000)),
        cut(np.stack([ints, ints], axis=1), 160),
    ):
        assert list(model.stream(chunks)) == expected


def test_final_words_depend_on_nothing_that_comes_later(model, speech):
    """Until it ends, a stream that was cut short gives the events of the longer one: what is final stays."""
    whole = list(model.stream([speech[: 16_000 * 7]], look_ahead=0.5))
    assert sum(event.kind == "final" for event in whole) > 2
    for seconds in (2.1, 5.7):
        *events, _ = model.stream([speech[: int(16_000 * seconds)]], look_ahead=0.5)
        assert events == [event for event in whole if event.seconds <= seconds]


def test_words_are_in_order_and_final_words_have_their_look_ahead(model, speech):
    told = 0.0
    for event in stream(Local(model), [speech[: 16_000 * 20]], look_ahead=1.5, step=0.25):
        for word in event.words:
            assert told - 1e-9 <= word.start < word.end <= event.seconds + 1e-9
            if event.kind == "final":
                told = word.end
                assert event.pause or word.end <= event.seconds - 1.48
    assert told > 15


@pytest.mark.parametrize("rate", [8_000, 44_100])
def test_other_rates_give_the_words_of_the_file(model, clip, rate, tmp_path):
    import soundfile
    import soxr

    soundfile.write(tmp_path / "x.wav", soxr.resample(clip, 16_000, rate), rate, subtype="PCM_16")
    expected = whole(model, tmp_path / "x.wav")
    data = (tmp_path / "x.wav").read_bytes()
    samples = soundfile.read(tmp_path / "x.wav", dtype="int16")[0]
    for chunks, given in ((cut(data, 1001), {}), (cut(samples, 441), {"sample_rate": rate})):
        found = list(model.stream(chunks, context=9, look_ahead=9, **given))
        assert_alike(final(found), expected.words)
        assert found[-1].seconds == pytest.approx(len(clip) / 16_000, abs=1e-4)


def test_a_search_closes_each_utterance_at_its_pause(model, talk):
    local, search = Local(model), Search(beam=5)
    events, expected = list(stream(local, [talk], search=search)), whole(local, talk, search)
    assert_alike(final(events), expected.words)
    assert unspaced(lines(events)) == unspaced([expected.text])
    spoken = [event for event in events if event.kind == "final" and event.words]
    assert len(spoken) == 4 and all(event.pause for event in spoken)
    greedy = [event for event in stream(local, [talk]) if event.kind == "partial"]
    partial = [event for event in events if event.kind == "partial"]
    assert {event.words[-1].text for event in greedy if event.words} <= {
        word.text for event in partial for word in event.words
    }


def test_speech_without_a_pause_is_final_before_memory_is_full(model):
    """A search does not wait for a pause for ever, and a single word does not grow for ever."""
    local = Local(model)
    loud = np.sin(np.arange(16_000 * 100, dtype=np.float32)) * np.repeat(np.tile([0.1, 0.4], 500), 1600).astype(
        np.float32
    )
    for search in (None, Search(beam=2)):
        events = [
            event
            for event in stream(local, cut(loud, 16_000), context=0, step=5.0, search=search)
            if event.kind == "final"
        ]
        assert events[0].seconds <= 45 and not events[0].pause
        assert len(final(events)) >= 2


def test_an_event_is_plain_data(model, clip):
    event = next(iter(model.stream([clip])))
    assert set(dataclasses.asdict(event)) == {"kind", "words", "text", "seconds", "pause"}
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.text = ""


def test_what_cannot_be_a_stream_is_told(model, pretrained_folder):
    with pytest.raises(InputError, match="no CTC head"):
        speechssl.load(pretrained_folder).stream([])
    with pytest.raises(InputError, match="shorter than one frame"):
        list(model.stream([np.zeros(300, np.float32)]))
    for bad in ({"context": -1}, {"look_ahead": float("nan")}, {"step": float("inf")}):
        with pytest.raises(InputError, match=next(iter(bad))):
            list(model.stream([np.zeros(900, np.float32)], **bad))
