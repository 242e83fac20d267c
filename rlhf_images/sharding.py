"""Sharding: each process keeps its part of every weight of the denoiser (FSDP2), and gathers a block when it runs.

Adapters stay whole in every process: they are small, and learnt by the sum of gradients that replicas use. All weights,
where these are trained, are `DTensor`; their gradients arrive summed and in parts, as do the optimiser's moments.
Checkpoints and tuned weights are whole tensors, the same by any number of processes, sharded or not.
"""

from collections.abc import Mapping
from typing import Any

import torch
from accelerate.utils import FullyShardedDataParallelPlugin
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from .errors import BadInput


def read_options() -> FullyShardedDataParallelPlugin:
    """Return what accelerate's config asks for, as it left it in the environment; refuse what is not done."""
    options = FullyShardedDataParallelPlugin()
    if options.fsdp_version != 2:
        raise BadInput("fsdp_config: version 1 is not supported; set fsdp_version: 2")
    if isinstance(options.cpu_offload, torch.distributed.fsdp.CPUOffloadPolicy):
        raise BadInput("fsdp_config: fsdp_offload_params is not supported; set it to false")
    if options.activation_checkpointing:
        raise BadInput(
            "fsdp_config: fsdp_activation_checkpointing is the run's own 'generator.recompute_activations'; set it to"
            " false here"
        )
    return options


def shard(network: Any, options: FullyShardedDataParallelPlugin, device: torch.device, count: int) -> None:
    """Shard ``network`` over ``count`` processes, block by block; what is trained of an adapter stays whole.

    The blocks are those that ``options`` names, else those that its class says repeat, or must not be split.
    """
    trained = {parameter for parameter in network.parameters() if parameter.requires_grad}
    whole = trained if len(trained) < sum(1 for _ in network.parameters()) else set[nn.Parameter]()
    mesh = init_device_mesh(device.type, (count,))
    names = (
        options.transformer_cls_names_to_wrap
        or getattr(network, "_repeated_blocks", None)
        or getattr(network, "_no_split_modules", None)
        or []
    )
    blocks = [module for module in network.modules() if type(module).__name__ in names]
    if options.transformer_cls_names_to_wrap and not blocks:
        raise BadInput(f"fsdp_config: {type(network).__name__} has no block {', '.join(names)}; leave the names out")
    again = bool(options.reshard_after_forward)
    if not (again or whole):
        raise BadInput(
            "fsdp_config: fsdp_reshard_after_forward: false is for adapters; where all weights are trained they change"
            " between two forward passes; set it to true"
        )
    for block in (*reversed(blocks), network):  # what lies within another comes first
        fully_shard(block, mesh=mesh, reshard_after_forward=again, ignored_params=whole)
    for module in network.modules():
        if isinstance(module, FSDPModule):  # losses are divided by the update's total, so gradients are a sum
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def local(tensor: Tensor) -> Tensor:
    """Return what this process has of ``tensor``: a view of it, to be changed in place."""
    part: Tensor = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return part


def whole(tensor: Tensor) -> Tensor:
    """Return all of ``tensor``; every process has to ask."""
    gathered: Tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return gathered


def gathered(tensors: Mapping[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """Return ``tensors`` whole, those that were in parts on the host, or nothing where this process does not ``keep``.

    Every process has to ask.
    """
    kept = {}
    for name, tensor in tensors.items():
        all_of_it = whole(tensor.detach())
        if keep:
            kept[name] = all_of_it.cpu() if isinstance(tensor, DTensor) else all_of_it
    return kept


def like(value: Tensor, other: Tensor) -> Tensor:
    """Return whole ``value`` lying as ``other`` does; without a word to other processes."""
    if not isinstance(other, DTensor):
        return value
    mesh, placements = other.device_mesh, other.placements
    return distribute_tensor(value.to(other.device), mesh, placements, src_data_rank=None)


def is_sharded(parameters: Mapping[str, Tensor]) -> bool:
    """Return whether what is trained lies in parts."""
    return any(isinstance(parameter, DTensor) for parameter in parameters.values())
