"""What a model hears in noise and music: words that it is not sure of."""

import torch
from torch import Tensor

from speechssl.core.packed import Geometry
from speechssl.text.decode import SAMPLE_RATE, Run, collapse
from speechssl.text.tokenizer import CharTokenizer
from speechssl.text.transcript import PAUSE


def doubtful(
    tokens_T: Tensor, scores_T: Tensor, tokenizer: CharTokenizer, geometry: Geometry, confidence: float
) -> Tensor:
    """Which frames (T,) bool hold what is said between two pauses of a second if its characters have a mean probability below
    `confidence`.

    All that lies between the pauses is judged together, so that one unsure word in a sentence stays. tokens_T, scores_T: the best
    token of each frame and its probability.
    """
    scores, pause = scores_T.tolist(), round(PAUSE * SAMPLE_RATE / geometry.hop)
    groups: list[list[Run]] = []
    for run in collapse(tokens_T, tokenizer.blank):
        if run.token == tokenizer.delimiter:
            continue
        if not groups or run.first - groups[-1][-1].stop >= pause:
            groups.append([])
        groups[-1].append(run)
    doubt_T = torch.zeros(len(tokens_T), dtype=torch.bool)
    for runs in groups:
        if sum(max(scores[run.first : run.stop]) for run in runs) < confidence * len(runs):
            doubt_T[max(0, runs[0].first - pause // 2) : runs[-1].stop + pause // 2] = True
    return doubt_T
