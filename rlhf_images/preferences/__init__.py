"""Pairs of pictures, what people chose, and where both are kept."""

from .events import Choice, Event, EventType
from .pairs import LabelledPair, Pairs, Picture, PreferencePair
from .store import Store

__all__ = ["Choice", "Event", "EventType", "LabelledPair", "Pairs", "Picture", "PreferencePair", "Store"]
