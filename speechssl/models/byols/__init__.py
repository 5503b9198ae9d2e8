"""BYOL-S and its encoders."""
