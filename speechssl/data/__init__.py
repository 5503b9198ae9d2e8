"""From folders of audio to micro-batches."""
