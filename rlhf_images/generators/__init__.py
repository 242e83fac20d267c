"""Any diffusers text-to-image pipeline seen as sample / predict / decode. Only here are diffusers and peft known."""

from .loading import bars_only_on_a_terminal
from .pipeline import Generator
from .settings import GeneratorConfig
from .trajectory import Trajectory

__all__ = ["Generator", "GeneratorConfig", "Trajectory", "bars_only_on_a_terminal"]
