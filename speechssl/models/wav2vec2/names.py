"""The names of tensors that every file of the wav2vec 2.0 family shares: the body's prefix and weight norm's two tensors."""

BODY = "wav2vec2."
WEIGHT_NORM_G, WEIGHT_NORM_V = "parametrizations.weight.original0", "parametrizations.weight.original1"


def current_name(key: str) -> str:
    """`key` with weight norm's `weight_g` and `weight_v` renamed as torch has them since 2.1."""
    for old, new in ((".weight_g", WEIGHT_NORM_G), (".weight_v", WEIGHT_NORM_V)):
        if key.endswith(old):
            return f"{key.removesuffix(old)}.{new}"
    return key
