"""Reinforcement learning from human feedback for image generators."""
