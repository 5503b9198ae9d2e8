"""The CTC objective: the loss against torch's on one utterance, freezing, masks, error counts."""

import numpy as np
import pytest
import torch

from speechssl.core.errors import InputError
from speechssl.data.loader import Item
from speechssl.data.manifest import Manifest, Utterance
from speechssl.models.wav2vec2.model import Wav2Vec2ForCTC
from speechssl.objectives.ctc import CTC, CTCObjectiveConfig, Recipe, flat_loss
from speechssl.objectives.protocol import TRAINING
from speechssl.objectives.transcripts import TextConfig, frames_needed
from speechssl.text.tokenizer import CharTokenizer
from tests.conftest import one_step, tiny


def make(**settings) -> CTC:
    """A tiny CTC objective."""
    tokenizer = CharTokenizer.build(["hello there two"])
    recipe = Recipe(objective=CTCObjectiveConfig(**settings))
    return CTC(recipe, Wav2Vec2ForCTC(tiny(), len(tokenizer)), tokenizer)


def items_of(speech) -> list[Item]:
    """Three utterances with transcripts."""
    texts = ("hello there", "two", "the hole")
    return [
        Item(wave_S=speech[9000 * i : 9000 * i + n], id=str(i), epoch=0, text=text)
        for i, (n, text) in enumerate(zip((20_000, 9_000, 15_000), texts, strict=True))
    ]


def test_loss_is_the_sum_of_the_utterances(speech):
    objective, items = make().eval(), items_of(speech)
    with torch.no_grad():
        together = one_step(objective, objective.collate(items))
        alone = [one_step(objective, objective.collate([item])) for item in items]
    assert float(together.loss) == pytest.approx(sum(float(step.loss) for step in alone), rel=1e-5)
    batch = objective.collate(items[:1])
    expected = torch.nn.functional.ctc_loss(
        objective.model(batch.audio)[:, None],
        batch.targets[None],
        [batch.audio.frames[0]],
        [batch.lengths[0]],
        reduction="sum",
    )
    assert float(alone[0].loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


def test_errors_of_chinese_are_counted_in_characters(speech):
    """As evaluate does: the heard text differs in a space, which does not count, and in one character of four."""
    tokenizer = CharTokenizer.build(["你好世界"])
    objective = CTC(Recipe(), Wav2Vec2ForCTC(tiny(), len(tokenizer)), tokenizer).eval()
    batch = objective.collate([Item(wave_S=speech[:20_000], id="a", epoch=0, text="你好，世界")])
    heard = [i for index in tokenizer.encode("你好世好") for i in (index, tokenizer.blank)]
    frames = batch.audio.frames[0]
    best_T = torch.tensor(heard + [tokenizer.blank] * (frames - len(heard)))
    errors = objective.errors(torch.nn.functional.one_hot(best_T, len(tokenizer)).float().log(), batch)
    assert errors == {"wer": (1, 4), "cer": (1, 4)}


def test_how_transcripts_are_normalised_is_recorded():
    objective = make()
    objective.recipe = Recipe(text=TextConfig(language="tr", points="drop"))
    assert objective.origin() == {"text": {"language": "tr", "points": "drop"}}


def test_silence_is_joined_to_both_ends_and_recorded(speech):
    """Also where it makes room for a transcript; a model without it records nothing."""
    wave, objective = speech[:5000], make(silence=0.1, mask_prob=0.0)
    batch = objective.collate([Item(wave_S=wave, id="a", epoch=0, text="two")])
    assert batch.audio.samples == (5000 + 2 * 1600,)
    torch.testing.assert_close(batch.audio.stream_N[1600:6600], torch.from_numpy(wave))
    assert not batch.audio.stream_N[:1600].any() and not batch.audio.stream_N[6600:].any()
    assert objective.origin() == {"silence": 0.1} and make().origin() == {}
    row = Utterance(id="a", path="x", duration=0.1, text="hello there")
    assert len(objective.usable(Manifest.of([row]), TRAINING)) == 1
    with pytest.raises(InputError, match="longer than its audio"):
        make().usable(Manifest.of([row]), TRAINING)
    with pytest.raises(InputError, match=r"objective.silence = -1 is outside \[0, 10\]"):
        CTCObjectiveConfig(silence=-1)


def test_in_a_flat_start_characters_are_equally_long(speech):
    """By hand: the frames between the silences in equal parts, each utterance weighted as if a character were one frame."""
    objective = make(silence=0.04, flat_start=1, mask_prob=0.0, channel_prob=0.0, feature_grad=1.0).train()
    batch, ids = objective.collate(items_of(speech)), objective.tokenizer.encode
    log_probs = objective.model(batch.audio).detach().split(batch.audio.frames)
    expected = 0.0
    for x_TV, text in zip(log_probs, batch.texts, strict=True):
        inside = len(x_TV) - 4
        for frame in range(len(x_TV)):
            within = 2 <= frame < len(x_TV) - 2
            code = ids(text)[(frame - 2) * len(text) // inside] if within else objective.tokenizer.blank
            expected -= float(x_TV[frame, code]) * len(text) / len(x_TV)
    step = objective(batch, objective.before_update(0, [batch]))
    assert float(step.loss.detach()) == pytest.approx(expected, rel=1e-5)
    later = objective(batch, objective.before_update(1, [batch]))
    assert float(later.loss.detach()) == pytest.approx(float(one_step(objective.eval(), batch).loss.detach()), rel=1e-5)


def test_a_flat_start_bears_the_shortest_clips_and_empty_transcripts():
    objective = make(silence=0.5)
    items = [Item(wave_S=np.zeros(500, np.float32), id=text, epoch=0, text=text) for text in ("two", "")]
    batch = objective.collate(items)
    x_TV = torch.zeros(sum(batch.audio.frames), len(objective.tokenizer)).log_softmax(dim=1)
    loss = flat_loss(x_TV, batch, silence=25)
    assert float(loss) == pytest.approx(3 * np.log(len(objective.tokenizer)), rel=1e-5)


def test_first_updates_train_the_head_only(speech):
    objective = make(freeze_steps=3, feature_grad=1.0).train()
    for step, expected in ((0, False), (2, False), (3, True)):
        objective.zero_grad()
        one_step(objective, objective.collate(items_of(speech)), step).loss.backward()
        grads = [p.grad is not None for p in objective.model.wav2vec2.encoder.layers.parameters()]
        assert all(grads) if expected else not any(grads)
        assert objective.model.lm_head.weight.grad is not None


def test_the_convolutional_encoder_stays_when_asked(speech):
    objective = make(freeze_steps=0, feature_grad=0.0).train()
    one_step(objective, objective.collate(items_of(speech))).loss.backward()
    assert all(p.grad is None for p in objective.model.wav2vec2.feature_extractor.parameters())


def test_frames_needed_counts_repeats():
    assert frames_needed([1, 2, 2, 3, 3, 3]) == 9


def test_an_impossible_transcript_does_not_poison_the_batch(speech):
    objective = make(freeze_steps=0).train()
    items = [Item(wave_S=speech[:800], id="x", epoch=0, text="hello there two hello"), *items_of(speech)]
    one_step(objective, objective.collate(items)).loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in objective.parameters() if p.grad is not None)
