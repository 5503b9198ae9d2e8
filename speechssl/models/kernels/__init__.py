"""Layers that a CPU computes faster than torch does by default."""
