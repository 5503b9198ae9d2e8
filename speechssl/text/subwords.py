"""Subword units: frequent letter sequences by byte-pair encoding (Sennrich et al. 2016), within words, by sentencepiece.

Only the pieces are learned here, and they become symbols of a vocabulary like any other, beside the characters and the word
delimiter: a text is then split into the longest symbols, and whatever reads a vocab.json, transformers too, joins them again.
"""

import io
from collections.abc import Iterable

from speechssl.core.errors import InputError


def pieces_of(texts: Iterable[str], most: int) -> list[str]:
    """The sequences of letters to add to the characters of some texts for a vocabulary of about `most` symbols in all.

    InputError without the package sentencepiece, and for a size that the texts do not allow.
    """
    try:
        import sentencepiece
    except ImportError:
        raise InputError("text.symbols = subwords needs sentencepiece; pip install 'speechssl[subwords]'") from None
    words, model = [word for text in texts for word in text.split()], io.BytesIO()
    options = {"add_dummy_prefix": False, "normalization_rule_name": "identity", "character_coverage": 1.0}
    options |= {"split_by_unicode_script": False, "split_by_number": False, "bos_id": -1, "eos_id": -1}
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(words),
            model_writer=model,
            model_type="bpe",
            vocab_size=most,
            minloglevel=2,
            **options,
        )
    except RuntimeError as error:  # its message ends with the limit that was passed
        said = " ".join(str(error).rpartition("] ")[2].partition(" or decrease")[0].split())
        problem = said or "there are no words"
        raise InputError(
            f"text.vocab_size = {most} does not fit these transcripts, says sentencepiece: {problem.rstrip('.')}"
        ) from None
    found = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    pieces = [found.id_to_piece(number) for number in range(found.get_piece_size()) if not found.is_unknown(number)]
    return [piece for piece in pieces if len(piece) > 1 and "▁" not in piece and "|" not in piece]
