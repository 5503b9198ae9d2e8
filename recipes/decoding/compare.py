"""Our prefix beam beside flashlight's on the posteriors of one model: python recipes/decoding/compare.py MODEL TABLE LM [ROWS]

Both get the same posteriors, weights, language model and words. A score is what both maximise: acoustic + weight * lm +
word score * words. Times are of one thread, each decoder after the other on each row.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import speechssl
from speechssl.data.manifest import Manifest
from speechssl.data.sources import rows_of
from speechssl.score.tune import posteriors_of
from speechssl.score.wer import error_rates
from speechssl.text.decode import greedy
from speechssl.text.decoders import decode
from speechssl.text.lexicon import Lexicon
from speechssl.text.ngram import BEGIN, END, UNKNOWN, Ngram, open_lm
from speechssl.text.search import Search
from speechssl.use.language import normaliser_of, tuned


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """(result, seconds of this process's work)."""
    start = time.process_time()
    result = function()
    return result, time.process_time() - start


def side_by_side(frames: list[torch.Tensor], model: Any, search: dict[str, Any]) -> dict[str, list[Any]]:
    """What each decoder finds: (texts, scores, seconds)."""
    found: dict[str, list[Any]] = {"beam": [], "flashlight": []}
    for log_probs_TV in frames:
        for decoder, rows in found.items():
            how = Search(decoder=decoder, **search)
            rows.append(timed(lambda how=how, x=log_probs_TV: decode(x, model.tokenizer, how)[0]))
    return found


def main(source: str, table: str, lm_file: str, count: str = "200") -> None:
    torch.set_num_threads(1)
    model, lm = speechssl.load(source), open_lm(Path(lm_file))
    assert isinstance(lm, Ngram), "the words of the lexicon are those of an ARPA file"
    rows = Manifest.of(rows_of([Path(table)], "")[i] for i in range(int(count)))
    said, normal = rows.column("text"), normaliser_of(model, "auto", {})
    frames, forward = timed(lambda: posteriors_of(model, rows))
    _, spelled = timed(lambda: [greedy(x, model.tokenizer, model.config.letters, model.silence) for x in frames])
    hours = sum(map(len, frames)) / model.frame_rate / 3600
    print(
        f"{len(frames)} rows, {hours * 60:.1f} minutes: forward {forward:.1f} s, greedy with word times {spelled:.2f} s"
    )
    print(f"  greedy is {100 * spelled / forward:.1f} % of the forward pass")

    def wer(texts: list[str]) -> float:
        return error_rates(
            said, texts, ids=rows.column("id"), speakers=rows.column("speaker"), normaliser=normal
        ).wer.value

    print(f"  WER greedy {100 * wer([decode(x, model.tokenizer)[0].text for x in frames]):.1f} %")
    words = Lexicon(word for word in lm.words if word not in (BEGIN, END, UNKNOWN))
    weights = tuned(Path(lm_file))
    print("search, beam 100   WER ours, theirs   ours worse by > 0.01   ours - theirs: median, least   s ours, theirs")
    for name, parts in (("LM and lexicon", {"lm": lm, "lexicon": words}), ("LM", {"lm": lm}), ("plain", {})):
        found = side_by_side(frames, model, parts | weights)
        ours, theirs = (np.array([one.score for one, _ in found[decoder]]) for decoder in ("beam", "flashlight"))
        rates = [100 * wer([one.text for one, _ in results]) for results in found.values()]
        seconds = [sum(s for _, s in results) for results in found.values()]
        worse, gap = 100 * float((ours < theirs - 1e-2).mean()), ours - theirs
        print(
            f"{name:<18} {rates[0]:>8.1f} {rates[1]:>7.1f}   {worse:>18.1f} %   {np.median(gap):>20.4f} {gap.min():>7.4f}   "
            f"{seconds[0]:>6.1f} {seconds[1]:>7.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
