"""Pairs of pictures, what people chose, and where both are kept."""

from .pairs import Choice, LabelledPair, Pairs, Picture, PreferencePair

__all__ = ["Choice", "LabelledPair", "Pairs", "Picture", "PreferencePair"]
