"""Any diffusers text-to-image pipeline seen as sample / predict / decode. The only place that imports diffusers and peft."""

from .pipeline import Generator, GeneratorConfig, Trajectory, bars_only_on_a_terminal

__all__ = ["Generator", "GeneratorConfig", "Trajectory", "bars_only_on_a_terminal"]
