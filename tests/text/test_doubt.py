"""What the model is not sure of between two pauses is left out, in both decoders; unsure words among sure ones stay."""

import numpy as np
import pytest
import torch

from speechssl.models.wav2vec2.config import Wav2Vec2Config
from speechssl.text.beam import Search
from speechssl.text.doubt import doubtful
from speechssl.text.tokenizer import CharTokenizer
from speechssl.use.transcribe import decoded

GEOMETRY = Wav2Vec2Config().geometry  # 50 frames a second
TOKENIZER = CharTokenizer.build(["abcd "])


class Model:
    """What decoding asks of a model."""

    tokenizer, silence = TOKENIZER, 0.0
    config = type("Config", (), {"letters": GEOMETRY})


def posteriors(*said: tuple[str, float], pause: int = 60) -> torch.Tensor:
    """Log-posteriors of texts, each with the probability of its characters; `_` is a blank; a pause around each."""
    blank, frames = TOKENIZER.blank, []
    for text, probability in said:
        frames += [(blank, 0.99)] * pause
        for letter in text:
            frames.append((blank, 0.99) if letter == "_" else (TOKENIZER.encode(letter)[0], probability))
    frames += [(blank, 0.99)] * pause
    found_TV = torch.full((len(frames), len(TOKENIZER)), 0.0)
    for frame_V, (token, probability) in zip(found_TV, frames, strict=True):
        frame_V[:] = (1 - probability) / (len(TOKENIZER) - 1)
        frame_V[token] = probability
    return found_TV.log()


@pytest.mark.parametrize("search", [None, Search(beam=8)])
@pytest.mark.parametrize("confidence, text", [(0.0, "abcdda"), (0.5, "abda"), (0.8, "ab"), (0.95, "")])
def test_the_mean_of_all_between_two_pauses_decides(search, confidence, text):
    log_probs_TV = posteriors(("ab", 0.9), ("cd", 0.4), ("da", 0.7))
    found = decoded(log_probs_TV, Model(), search, confidence, np.zeros(0))
    assert found.text == text
    assert sorted("".join(word.text for word in (*found.words, *found.doubted))) == sorted("abcdda")


@pytest.mark.parametrize("search", [None, Search(beam=8)])
def test_an_unsure_word_in_a_sure_sentence_stays(search):
    log_probs_TV = posteriors(("ab_ _ab", 0.95), ("cd", 0.4), pause=10)
    assert decoded(log_probs_TV, Model(), search, 0.5, np.zeros(0)).text.replace(" ", "") == "ababcd"


def test_delimiters_have_no_say():
    """A long run of sure spaces makes no unsure word sure."""
    log_probs_TV = posteriors(("ab", 0.4), (" _ _ _ _ ", 0.99), pause=3)
    scores_T, tokens_T = log_probs_TV.max(dim=1)
    doubt_T = doubtful(tokens_T, scores_T.exp(), TOKENIZER, GEOMETRY, 0.5)
    assert bool(doubt_T[tokens_T == TOKENIZER.encode("a")[0]].all())
