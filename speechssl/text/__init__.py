"""Transcripts: normalisers, tokenizer, decoding."""
