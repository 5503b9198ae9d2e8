"""Arguments that several verbs have: their types and their help."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

MODEL = (
    "a run, a transformers folder, a fairseq, torchaudio or BYOL-S file, a state dict, the name of a shipped model, or a hub id; "
    "MODEL@fra: with an adapter of MMS, owner/name@REVISION: pinned, owner/name@REVISION:fra: both"
)
Model = Annotated[str, MODEL]
Pattern = Annotated[
    str,
    "for the folder of a corpus not listed above: a regular expression, searched for in each path below the folder, whose "
    r"groups are the speaker and the label, such as '(?P<speaker>[FM]_\d+)_.*_(?P<label>[A-Z]+)_\d+$'",
]
Label = Annotated[str, "column to predict"]
Where = Annotated[
    Sequence[str],
    "only rows with these values: split=test speaker=anna,ben keeps the rows of test that anna or ben spoke",
]
SPLIT = (
    "rows that its column `split` marks as dev or test are not trained on, and without --valid those of dev validate (the mark "
    "begins with train, training or tr; dev, devel, development, valid, validation or val; test, testing, eval or evaluation)"
)
VALID = "table(s) whose rows choose the best checkpoint (those of dev, if others are there too), or a folder"
Channel = Annotated[
    str,
    "of each file: mix (the mean; of channels in opposite phase the louder one), left, right, a number from 0, or each by "
    "itself; a row that names a channel keeps it",
]
Lm = Annotated[
    Path | None,
    "decode by beam search with this n-gram model: ARPA, or a binary one of KenLM (with its package); weights come from LM.json, "
    "which tune-lm writes",
]
LmWeight = Annotated[float | None, "factor on the language model's log-probabilities (without LM.json: 0.5)"]
WordScore = Annotated[
    float | None, "what each word gets in addition, or each character of such a model (without LM.json: 1)"
]
Decoder = Annotated[
    str,
    "auto: beam where a language model, a lexicon, hot words or several texts are asked for, else greedy; flashlight: the search "
    "of that package (extra `lm`), with the same scores",
    "speechssl.text.search:DECODERS",
]
Beam = Annotated[int, "how many texts the search keeps"]
LexiconFile = Annotated[Path | None, "a file with the only words that there are, one in each line"]
HotWords = Annotated[
    Sequence[str], "words to prefer, spelled as the transcripts are: anna, or anna=8 with another boost than 5 nats"
]
Device = Annotated[str, "auto (a GPU if there is one), cpu, cuda or cuda:N"]
Precision = Annotated[Literal["float32", "bf16"], "bf16: faster on a GPU, and equal up to rounding"]
Recipe = Annotated[Path, "a TOML file, such as those in recipes/; any value of it can be overridden"]
Run = Annotated[Path, "the run folder to create"]
Resume = Annotated[bool, "continue the run in --out where it stopped"]
FromScratch = Annotated[bool, "take only the sizes of --init, with random weights: the baseline for pretraining"]
