"""wav2vec 2.0 and the families that share its skeleton."""
