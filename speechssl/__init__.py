"""speechssl: self-supervised learning of speech representations.

import speechssl
model = speechssl.load("runs/mine")
model.embed("clip.wav")        # one vector
model.transcribe("clip.wav")   # text and word times, if the model was fine-tuned
"""

from speechssl.core.errors import InputError

__version__ = "0.1.0"
__all__ = ["InputError", "SpeechModel", "load"]


def __getattr__(name: str):
    """Import torch only when a model is asked for."""
    if name in ("load", "SpeechModel"):
        from speechssl.use import api

        return getattr(api, name)
    raise AttributeError(f"module 'speechssl' has no attribute {name!r}")
