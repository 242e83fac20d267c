"""Any diffusers text-to-image pipeline seen as sample / predict / decode. Only here are diffusers and peft known."""

from .pipeline import Generator, GeneratorConfig, Trajectory, bars_only_on_a_terminal

__all__ = ["Generator", "GeneratorConfig", "Trajectory", "bars_only_on_a_terminal"]
