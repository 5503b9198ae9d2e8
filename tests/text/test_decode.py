"""Greedy decoding and word times against torchaudio's forced alignment and transformers."""

import pytest
import torch
import torchaudio.functional
import transformers

from speechssl.models.wav2vec2.config import Wav2Vec2Config
from speechssl.text.decode import best_path, greedy
from speechssl.text.tokenizer import CharTokenizer

GEOMETRY = Wav2Vec2Config().geometry
TOKENIZER = CharTokenizer.build(["abcdefghijklmnopqrstuvwxyz '"])


def posteriors(seed: int, frames: int = 120) -> torch.Tensor:
    """Random log-posteriors, sharp enough that runs occur."""
    generator = torch.Generator().manual_seed(seed)
    logits_TV = 4 * torch.randn(frames, len(TOKENIZER), generator=generator)
    return logits_TV.repeat_interleave(2, dim=0).log_softmax(1)


@pytest.mark.parametrize("seed", range(5))
def test_text_equals_transformers(seed, tmp_path):
    TOKENIZER.save(tmp_path)
    log_probs_TV = posteriors(seed)
    theirs = transformers.Wav2Vec2CTCTokenizer.from_pretrained(tmp_path).decode(log_probs_TV.argmax(1))
    expected = " ".join(theirs.replace("<unk>", "").split())
    assert best_path(log_probs_TV.argmax(dim=1), TOKENIZER) == expected
    assert greedy(log_probs_TV, TOKENIZER, GEOMETRY).text == expected


@pytest.mark.parametrize("seed", range(5))
def test_times_equal_torchaudio_s_alignment_of_the_same_text(seed):
    log_probs_TV = posteriors(seed)
    transcript = greedy(log_probs_TV, TOKENIZER, GEOMETRY)
    best = [i for i in torch.unique_consecutive(log_probs_TV.argmax(1)).tolist() if i]
    aligned, scores = torchaudio.functional.forced_align(log_probs_TV[None], torch.tensor([best], dtype=torch.int32))
    spans = torchaudio.functional.merge_tokens(aligned[0], scores[0].exp())
    words, current = [], []
    for span in [*spans, None]:
        if span is None or span.token == TOKENIZER.vocab["|"]:
            words += [current] if TOKENIZER.decode([s.token for s in current]) else []
            current = []
        else:
            current.append(span)
    assert len(words) == len(transcript.words)
    for mine, theirs in zip(transcript.words, words, strict=True):
        assert mine.text == TOKENIZER.decode([span.token for span in theirs])
        assert mine.start == pytest.approx(max(0.0, (theirs[0].start * 320 + 40) / 16_000), abs=1e-3)
        assert mine.end == pytest.approx(((theirs[-1].end - 1) * 320 + 360) / 16_000, abs=1e-3)


def of(text: str, tokenizer: CharTokenizer, blanks: int = 1) -> torch.Tensor:
    """Log-posteriors that spell a text, each symbol two frames long between blanks."""
    ids = [i for index in tokenizer.encode(text) for i in (*[tokenizer.blank] * blanks, index, index)]
    return torch.nn.functional.one_hot(torch.tensor(ids), len(tokenizer)).float().log()


@pytest.mark.parametrize(
    "text, words",
    [
        ("你好世界", ["你", "好", "世", "界"]),
        ("我爱 open air 音乐", ["我", "爱", "open", "air", "音", "乐"]),
        ("ดื่มน้ำ", ["ดื่", "ม", "น้", "ำ"]),
        ("ខ្មែរ", ["ខ្មែ", "រ"]),
        ("an open door", ["an", "open", "door"]),
    ],
)
def test_letters_of_scripts_without_spaces_have_their_own_times(text, words):
    tokenizer = CharTokenizer.build([text])
    found = greedy(of(text, tokenizer), tokenizer, GEOMETRY)
    assert (found.text, [word.text for word in found.words]) == (text, words)
    place = 0
    for word in found.words:  # each symbol of the text has three frames, the first of them blank
        place = text.index(word.text, place)
        assert word.start == pytest.approx(((3 * place + 1) * 320 + 40) / 16_000, abs=1e-3)
        place += len(word.text)
        assert word.end == pytest.approx((3 * place * 320 + 40) / 16_000, abs=1e-3)


def test_a_vocabulary_without_a_delimiter_has_letters_for_words():
    tokenizer = CharTokenizer({s: i for i, s in enumerate(["<pad>", "a", "b", "\u0301"])})
    found = greedy(of("ab\u0301a", tokenizer), tokenizer, GEOMETRY)
    assert (found.text, [word.text for word in found.words]) == ("ab\u0301a", ["a", "b\u0301", "a"])


def test_a_pause_of_a_second_ends_a_word_but_writes_no_space():
    """A model of single words never learned to write spaces; its words in a long recording still have times."""
    found = greedy(
        torch.cat([of("two", TOKENIZER), of("one", TOKENIZER, 60)[:62], of("ne", TOKENIZER)]), TOKENIZER, GEOMETRY
    )
    assert (found.text, [word.text for word in found.words]) == ("twoone", ["two", "one"])
    assert found.words[1].start - found.words[0].end > 1


def test_silence_has_no_words():
    silent_TV = torch.full((10, len(TOKENIZER)), -20.0)
    silent_TV[:, 0] = 0.0
    transcript = greedy(silent_TV, TOKENIZER, GEOMETRY)
    assert (transcript.text, transcript.words) == ("", [])
    assert transcript.duration == pytest.approx((9 * 320 + 400) / 16_000)
