"""Seeds for all randomness in training, each derived from its purpose."""

import hashlib


def noise_key(*parts: int | str) -> int:
    """A 63-bit seed from (purpose, seed, epoch, utterance ...), the same in every process and on every machine."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
