"""What is optimised: one file per objective, and the one table of them."""

from speechssl.objectives.byol import Byol
from speechssl.objectives.classify import Classify
from speechssl.objectives.ctc import CTC
from speechssl.objectives.data2vec import Data2Vec
from speechssl.objectives.dinosr import DinoSR
from speechssl.objectives.hubert import Hubert
from speechssl.objectives.protocol import Objective
from speechssl.objectives.wav2vec2 import Wav2Vec2

OBJECTIVES: dict[str, type[Objective]] = {  # by the `kind` of a recipe; a verb's first is its default
    "wav2vec2": Wav2Vec2,
    "hubert": Hubert,
    "data2vec": Data2Vec,
    "dinosr": DinoSR,
    "byol-s": Byol,
    "ctc": CTC,
    "classify": Classify,
}
