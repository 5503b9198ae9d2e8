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


def test_silence_has_no_words():
    silent_TV = torch.full((10, len(TOKENIZER)), -20.0)
    silent_TV[:, 0] = 0.0
    transcript = greedy(silent_TV, TOKENIZER, GEOMETRY)
    assert (transcript.text, transcript.words) == ("", [])
    assert transcript.duration == pytest.approx((9 * 320 + 400) / 16_000)
