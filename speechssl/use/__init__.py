"""A loaded model over any number of clips: embeddings and transcripts."""
