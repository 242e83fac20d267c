"""From pictures to latents, for any pipeline: the autoencoder's own encoder, and the pipeline's own tail backwards.

What a pipeline does to its final latents before it hands them to its autoencoder (unpack, scale, shift, whiten) moves
and scales each number by itself: z = J·x + b, with one entry in each row and column of J. So Jᵀ·J is diagonal, and
x = Jᵀ·(z − b) / (Jᵀ·J·1), both by automatic differentiation through the pipeline's own code. No family has code here.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..errors import BadInput


def encoded(vae: Any, images: Tensor, like: Tensor) -> Tensor:
    """Return what the decoder of ``vae`` would have to be given for pictures ``(B, 3, H, W)`` in [0, 1].

    ``like`` is such an input: one of videos has an axis for frames. A distribution gives its mode.
    """
    parameter = next(vae.parameters())
    pixels = (images * 2 - 1).to(parameter.device, parameter.dtype)
    channels = vae.config.get("in_channels", vae.config.get("input_channels", 3))
    if channels == 4:  # colours and how opaque they are
        pixels = torch.cat([pixels, torch.ones_like(pixels[:, :1])], 1)
    answer = vae.encode(pixels[:, :, None] if like.ndim == 5 else pixels)
    if hasattr(answer, "latent_dist"):
        z: Tensor = answer.latent_dist.mode()
    else:
        z = answer.latent if hasattr(answer, "latent") else answer.latents
    if z.shape[1:] != like.shape[1:]:
        raise BadInput(f"pictures of {tuple(images.shape[-2:])} pixels do not have the size of this generator's")
    return z


def solved(tail: Callable[[Tensor], Tensor], z: Tensor, shape: torch.Size) -> Tensor:
    """Return the latents of ``shape`` that ``tail`` turns into ``z``; ``tail`` scales and moves single numbers only."""
    with torch.enable_grad():
        x = torch.zeros(shape, device=z.device, requires_grad=True)
        offset = tail(x)
        probe = torch.ones_like(offset, requires_grad=True)
        (back,) = torch.autograd.grad(offset, x, probe, create_graph=True)
        (forth,) = torch.autograd.grad(back, probe, torch.ones_like(back), retain_graph=True)
        (scales,) = torch.autograd.grad(offset, x, forth, retain_graph=True)
        (wanted,) = torch.autograd.grad(offset, x, (z - offset).detach())
    return (wanted / scales).detach()


@contextmanager
def instead_of_decoding(vae: Any, heard: Callable[[Tensor], None]) -> Iterator[None]:
    """Give ``heard`` what would be decoded within the ``with``; it is expected to leave by an exception."""
    own = vae.__dict__.get("decode")
    vae.__dict__["decode"] = lambda z, *_, **__: heard(z)
    try:
        yield
    finally:
        del vae.__dict__["decode"]
        if own is not None:
            vae.__dict__["decode"] = own
