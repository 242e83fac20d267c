"""Three stand-ins for a pipeline's scheduler, by which its own ``__call__`` does our work.

`Recording` samples with any kernel and keeps what it saw; `Catching` stops the call once the denoiser has spoken;
`Empty` makes the call decode the latents it was given. Everything else that a pipeline asks of its scheduler (config,
shift, training times) is answered by the real one.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, final

import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.schedulers.scheduling_utils import SchedulerOutput
from torch import Tensor

from ..errors import BadInput
from ..math.kernels import Gaussian, Kernel, ode
from ..math.path import Output, Path, Rectified, VariancePreserving


@final
class Schedule:
    """The noise path and the sampling times of a pipeline, read from its scheduler's config.

    A rectified flow keeps diffusers' `FlowMatchEulerDiscreteScheduler` for its times (shift, dynamic or not); a
    variance-preserving model gets `DDIMScheduler` on its own betas and spacing, whatever solver it was shipped with.
    """

    def __init__(self, shipped: Any) -> None:
        config = shipped.config
        kind = config.get("prediction_type", "flow_prediction" if "FlowMatch" in type(shipped).__name__ else "epsilon")
        self.output: Output = kind
        self.path: Path
        if kind == "flow_prediction" or "FlowMatch" in type(shipped).__name__:
            changes = {"shift": config["flow_shift"]} if "flow_shift" in config else {}
            self.real: Any = FlowMatchEulerDiscreteScheduler.from_config(config, **changes)
            self.path, self.output = Rectified(), "flow_prediction"
        elif "beta_schedule" in config and kind in ("epsilon", "v_prediction", "sample"):
            self.real = DDIMScheduler.from_config(config)
            self.path = VariancePreserving(self.real.alphas_cumprod)
        else:
            raise BadInput(
                f"{type(shipped).__name__}: neither a rectified flow nor a discrete variance-preserving scheduler"
            )
        self.size: int = self.real.config.num_train_timesteps

    def times(self, steps: int | None, device: Any, sigmas: Any, mu: float | None) -> Tensor:
        """Return the ``steps + 1`` times in [0, 1], falling; the last is where sampling ends."""
        if isinstance(self.path, Rectified):
            self.real.set_timesteps(steps, device=device, sigmas=sigmas, mu=mu)
            sigmas = self.real.sigmas
            return torch.as_tensor(sigmas, device=device, dtype=torch.float32)
        self.real.set_timesteps(steps, device=device)
        end = 0.0 if self.real.config.set_alpha_to_one else 1 / self.size  # SD1.5 stops one training step from clean
        times = (self.real.timesteps.double() + 1) / self.size
        return torch.cat([times, times.new_tensor([end])]).float()

    def native(self, t: Tensor) -> Tensor:
        """Return ``t`` in the unit that the pipeline hands its denoiser: thousandths, or the integer training time."""
        if isinstance(self.path, VariancePreserving):
            return self.path.index(t) - 1
        return t * self.size


class StandIn(ABC):
    """What a pipeline calls on its scheduler. Abstract: `Recording`, `Catching` or `Empty`."""

    order = 1
    init_noise_sigma = 1.0

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.timesteps = torch.zeros(0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["schedule"].real, name)

    def __len__(self) -> int:
        return self.schedule.size

    @abstractmethod
    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        sigmas: Any = None,
        timesteps: Any = None,
        mu: float | None = None,
    ) -> None:
        """Fix the times that the pipeline will walk through."""

    @abstractmethod
    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, **options: Any) -> Any:
        """Take the denoiser's word at ``sample``."""

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Do nothing: our stand-ins count their own steps."""
        del begin_index

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """Return ``sample`` as it is: both paths give the network x itself."""
        del timestep
        return sample


@final
class Recording(StandIn):
    """Samples: each step reads the output, asks a kernel for a Gaussian, draws from it, and keeps x in float32.

    Steps whose number is in ``drawn`` (None: all) take ``kernel``, the others the ODE. The denoiser sees x rounded to
    its own dtype; a later replay rounds the same float32 x the same way.
    """

    def __init__(
        self, schedule: Schedule, kernel: Kernel, noise: Callable[[torch.Size], Tensor], drawn: range | None = None
    ) -> None:
        super().__init__(schedule)
        self.kernel, self.noise, self.drawn = kernel, noise, drawn
        self.x: list[Tensor] = []
        self.gaussians: list[Gaussian] = []
        self.times = torch.zeros(0)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        sigmas: Any = None,
        timesteps: Any = None,
        mu: float | None = None,
    ) -> None:
        """Take the times from the real scheduler."""
        del timesteps
        self.times = self.schedule.times(num_inference_steps, device, sigmas, mu)
        self.timesteps = self.schedule.native(self.times[:-1])

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, **options: Any) -> Any:
        """Return the next x, drawn from the kernel's Gaussian."""
        del timestep
        if not self.x:
            self.x.append(sample.float())
        number, x, path = len(self.x) - 1, self.x[-1], self.schedule.path
        t, t_next = (self.times[i].expand(len(x)) for i in (number, number + 1))
        kernel = self.kernel if self.drawn is None or number in self.drawn else ode
        gaussian = kernel(path, path.read(model_output.float(), x, t, self.schedule.output), x, t, t_next)
        stochastic = bool((gaussian.std > 0).all())
        x_next = gaussian.draw(self.noise(x.shape).to(x)) if stochastic else gaussian.mean
        self.gaussians.append(gaussian)
        self.x.append(x_next)
        returned = x_next.to(sample.dtype)
        return (returned,) if options.get("return_dict") is False else SchedulerOutput(prev_sample=returned)


class Caught(Exception):
    """Leaves the pipeline's loop with the denoiser's output."""


@final
class Catching(StandIn):
    """One pseudo-step at time ``t``, ``()`` or ``(B,)``, which pipelines expand over the batch; keeps the output."""

    def __init__(self, schedule: Schedule, t: Tensor) -> None:
        super().__init__(schedule)
        self.t, self.model_output = t, torch.zeros(0)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        sigmas: Any = None,
        timesteps: Any = None,
        mu: float | None = None,
    ) -> None:
        """Make ``t`` the only time of the schedule."""
        del num_inference_steps, device, sigmas, timesteps, mu
        self.timesteps = self.schedule.native(self.t)[None]

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, **options: Any) -> Any:
        """Keep the output and leave."""
        del timestep, sample, options
        self.model_output = model_output
        raise Caught


@final
class Empty(StandIn):
    """A schedule without steps."""

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        sigmas: Any = None,
        timesteps: Any = None,
        mu: float | None = None,
    ) -> None:
        """Leave no time to walk through."""
        del num_inference_steps, sigmas, timesteps, mu
        self.timesteps = torch.zeros(0, device=device)

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, **options: Any) -> Any:
        """Never called: there is no step."""
        del model_output, timestep, sample, options
        raise AssertionError("an empty schedule has no step")
