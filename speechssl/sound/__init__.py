"""From files to waves to spectrograms."""
