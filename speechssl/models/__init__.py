"""Architectures only; no training code."""
