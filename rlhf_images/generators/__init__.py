"""Any diffusers text-to-image pipeline seen as sample / predict / decode. The only place that imports diffusers and peft."""

from .pipeline import Generator, GeneratorConfig, Trajectory

__all__ = ["Generator", "GeneratorConfig", "Trajectory"]
