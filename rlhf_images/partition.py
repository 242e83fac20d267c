"""Partition: every process keeps AdamW's moments of its share of what is trained (ZeRO, by DeepSpeed).

Weights stay whole everywhere, so processes run the network as they like; only gradients meet. With ZeRO-1 they are
summed once an update. With ZeRO-2 each pass's are, as they come, and each process keeps those of its share alone; so
all make as many passes as the one with most, of zeros where there is nothing more to learn from.
"""

import os
from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor, nn

from .descent import Descent
from .errors import BadInput
from .processes import Processes

SLOTS = ("exp_avg", "exp_avg_sq")
"""Of AdamW's state, the moments; ``step`` counts."""
BUCKET = 2**25
"""Gradients that DeepSpeed sums at a time, at most."""
SHARED_MEMORY = "deepspeed_shm_comm"
"""A kernel for sums on a CPU, which DeepSpeed would first have to compile."""


@final
class Partitioned(Descent):
    """DeepSpeed's ZeRO optimiser of ``stage`` 1 or 2, without its engine's loop.

    DeepSpeed hands gradients over in the order of the backward pass, which a process without an example has not; here
    it is that of the parameters, from the last to the first, on all of them.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        optimizer: torch.optim.Optimizer,
        processes: Processes,
        stage: int,
    ) -> None:
        self.parameters, self.processes, self.stage = parameters, processes, stage
        self._engine = _engine(list(parameters.values()), optimizer, processes.device, stage)
        self.zero = self._engine.optimizer
        for hook in self.zero._grad_acc_hooks:
            hook.remove()
        self._order = list(parameters.values())[::-1]
        self._handed, self._passes = 0, 0
        for parameter in self._order if stage == 2 else ():
            parameter.register_post_accumulate_grad_hook(self._came)

    def begin(self, passes: int) -> None:
        """Forget all gradients, and let all processes make as many passes as the one with most."""
        self.zero.zero_grad(set_to_none=True)
        self.zero.all_grad_tensors, self.zero.averaged_gradients = {}, {}
        self.zero.set_gradient_accumulation_boundary(self.stage == 1)
        self._passes = int(self.processes.largest(passes)) if self.stage == 2 else 1

    def add(self, loss: Tensor) -> None:
        """Add the gradient of ``loss``."""
        loss.backward()
        if self.stage == 2:
            self._pass()

    def total(self, value: float, scale: float) -> float:
        """Make the passes that are left, and sum ``value``."""
        while self._passes:
            self._pass()
        if self.stage == 2:
            self.zero.finalize_gradient_accumulation_boundary()
        for part in self._mine if scale != 1 else ():
            part.div_(scale)
        return self.processes.total(value)

    def clipped(self, most: float) -> float:
        """Scale the gradient of this process's share by the length of the whole."""
        mine = torch.nn.utils.get_total_norm(self._mine).view(1)
        length = float(self.processes.shared(mine, [self.processes.rank], self.processes.count).double().norm())
        for part in self._mine if length > most else ():
            part.mul_(most / (length + 1e-6))
        return length

    def step(self) -> None:
        """Move the weights of this process's share, and gather all."""
        with self.processes.together():
            self.zero.step()

    def tensors(self) -> dict[str, Tensor]:
        """Return AdamW's state, gathered parameter by parameter."""
        from deepspeed.utils import safe_get_full_optimizer_state

        found: dict[str, Tensor] = {}
        counts = [slots["step"] for slots in self.zero.optimizer.state.values()]  # one, or none before the first step
        for name, parameter in self.parameters.items() if counts else ():
            found[f"{name}/step"] = counts[0].clone()
            with self.processes.together():
                found |= {f"{name}/{slot}": safe_get_full_optimizer_state(parameter, slot).cpu() for slot in SLOTS}
        return found

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back weights and moments of this process's share."""
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        share = self.zero.single_partition_of_fp32_groups[0]
        if tensors:
            count = next(value for key, value in tensors.items() if key.endswith("/step"))
            zeros = {slot: torch.zeros_like(share) for slot in SLOTS}
            self.zero.optimizer.state[share] = {"step": count.clone(), **zeros}
            self.zero._lazy_init_hp_params_optimizer_state()
        for name, parameter in self.parameters.items():
            safe_set_full_fp32_param(parameter, parameter.data)
            for slot in SLOTS if tensors else ():
                safe_set_full_optimizer_state(parameter, tensors[f"{name}/{slot}"].to(share.device), slot)

    @property
    def _mine(self) -> list[Tensor]:
        """Return the gradients of this process's share, in pieces."""
        pieces: list[Tensor] = self.zero.averaged_gradients[0]
        return pieces

    def _came(self, parameter: nn.Parameter) -> None:
        """Hand over the gradients that have come and whose turn it is."""
        del parameter
        while self._handed < len(self._order) and self._order[self._handed].grad is not None:
            self._hand_over()

    def _hand_over(self) -> None:
        parameter = self._order[self._handed]
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        self.zero.setup_buckets()
        with self.processes.together():
            self.zero.reduce_ready_partitions_and_remove_grads(parameter, 0)
        self._handed += 1

    def _pass(self) -> None:
        """Hand over what is left of a pass, zeros where no gradient came, and end it."""
        while self._handed < len(self._order):
            self._hand_over()
        with self.processes.together():
            self.zero.overlapping_partition_gradients_reduce_epilogue()
        self._handed, self._passes = 0, self._passes - 1


def _engine(parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer, device: torch.device, stage: int) -> Any:
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    try:
        import deepspeed
    except ImportError as error:
        raise BadInput(f"DeepSpeed is not installed ({error}); pip install 'rlhf-images[deepspeed]'") from error
    deepspeed.utils.logger.setLevel("WARNING")
    deepspeed.ops.__compatible_ops__[SHARED_MEMORY] = False
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_allreduce_op": "sum",
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {
            "stage": stage,
            "overlap_comm": False,
            "reduce_bucket_size": min(BUCKET, sum(parameter.numel() for parameter in parameters)),
        },
    }
    return deepspeed.initialize(model=nn.ParameterList(parameters), optimizer=optimizer, config=config)[0]
