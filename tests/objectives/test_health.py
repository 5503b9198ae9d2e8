"""The monitor fires on a collapse, names what to change, stays silent on a good run, and tells slow from collapsed."""

import pytest

from speechssl.core.errors import InputError
from speechssl.objectives.health import Health, published_accuracy
from speechssl.train.log import Meter

GOOD = {"step": 6000, "accuracy": 0.2, "code_perplexity": 40.0, "target_std": 0.2, "hours_heard": 145.0}


def health() -> Health:
    """A monitor for 87.5 s per update."""
    return Health(batch_seconds=87.5, entries=320, warmup=1000)


def test_silent_on_a_good_run():
    watch = health()
    for step, accuracy, perplexity in (
        (500, 0.01, 1.0),
        (5000, 0.15, 20.0),
        (25_000, 0.23, 59.0),
        (400_000, 0.39, 127.0),
    ):
        assert watch(GOOD | {"step": step, "accuracy": accuracy, "code_perplexity": perplexity}) is None


@pytest.mark.parametrize(
    "change, words",
    [
        ({"code_perplexity": 1.3}, "diversity_weight"),
        ({"target_std": 1e-6}, "penalty_weight"),
        ({"accuracy": 1.0}, "trivial"),
    ],
)
def test_each_collapse_is_fatal_and_says_what_to_change(change, words):
    verdict = health()(GOOD | change)
    assert verdict is not None
    assert verdict.fatal
    assert words in verdict.message
    assert "6000" in verdict.message


def test_slow_is_said_once_and_is_not_fatal():
    watch = health()
    first, second = watch(GOOD | {"accuracy": 0.011}), watch(GOOD | {"step": 6050, "accuracy": 0.011})
    assert first is not None
    assert not first.fatal
    assert "slow, not collapsed" in first.message
    assert second is None


def test_published_curves_are_looked_up_at_the_nearest_batch():
    assert published_accuracy(90, 4999) is None
    assert published_accuracy(90, 5000) == 0.150
    assert published_accuracy(2300, 30_000) == 0.384
    assert published_accuracy(1e9, 10**7) == 0.563


def test_not_a_number_is_never_saved():
    meter = Meter()
    meter.add({"loss": (float("nan"), 3)})
    with pytest.raises(InputError, match="diverged"):
        meter.check_finite()
