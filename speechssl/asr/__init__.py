"""From CTC posteriors to words, times, files and scores."""
