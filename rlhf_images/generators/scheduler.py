"""Three stand-ins for a pipeline's scheduler, by which its own ``__call__`` does our work.

`Recording` samples with any kernel and keeps what it saw; `Catching` stops the call once the denoiser has spoken;
`Empty` makes the call decode the latents it was given. Everything else that a pipeline asks of its scheduler (config,
shift, training times) is answered by the real one.
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, final

import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.schedulers.scheduling_utils import SchedulerOutput
from torch import Tensor

from ..errors import BadInput
from ..math.kernels import Gaussian, Kernel, ode
from ..math.path import Output, Path, Rectified, VariancePreserving

LEAST_NOISE = 0.9
"""Share of noise with which sampling has to begin: a network that is given pure noise as less of it draws nothing."""


@final
class Schedule:
    """The noise path and the sampling times of a pipeline, read from its scheduler's config.

    The times are those of diffusers' first-order solver on the same config, `FlowMatchEulerDiscreteScheduler` for a
    rectified flow and `DDIMScheduler` for a variance-preserving model, whatever solver it was shipped with; but the
    multistep solvers (DPM, DEIS, UniPC) have times of their own, which do not spend a step where x is clean.
    """

    def __init__(self, shipped: Any) -> None:
        config = shipped.config
        kind = config.get("prediction_type", "flow_prediction" if "FlowMatch" in type(shipped).__name__ else "epsilon")
        self.output: Output = kind
        self.path: Path
        if kind == "flow_prediction":
            self.real: Any = _made(FlowMatchEulerDiscreteScheduler, {**config, "shift": _shift(config)})
            self.path = Rectified()
        elif hasattr(shipped, "alphas_cumprod") and kind in ("epsilon", "v_prediction", "sample"):
            self.real = _made(DDIMScheduler, {**config, "beta_schedule": "linear", "trained_betas": None})
            self.path = VariancePreserving(shipped.alphas_cumprod.float())  # made by whatever rule it has for them
        else:
            raise BadInput(
                f"{type(shipped).__name__}: neither a rectified flow nor a discrete variance-preserving scheduler"
            )
        self.multistep: Any = _made(type(shipped), config) if "solver_order" in config else None
        self.size: int = self.real.config.num_train_timesteps

    def times(self, steps: int | None, device: Any, sigmas: Any, mu: float | None) -> Tensor:
        """Return the ``steps + 1`` times in [0, 1], falling; the last is where sampling ends."""
        if isinstance(self.path, Rectified):
            return self._flow_times(steps, device, sigmas, mu)
        for solver in filter(None, (self.multistep, self.real)):
            solver.set_timesteps(steps, device=device)
            native = torch.as_tensor(solver.timesteps, device=device).double()
            if bool((native.diff() < 0).all()):
                break
        end = 0.0 if self.real.config.set_alpha_to_one else 1 / self.size  # SD1.5 stops one training step from clean
        times = (native + 1) / self.size
        return torch.cat([times, times.new_tensor([end])]).float()

    def _flow_times(self, steps: int | None, device: Any, sigmas: Any, mu: float | None) -> Tensor:
        if self.multistep is not None and sigmas is None:
            self.multistep.set_timesteps(steps, device=device, **({} if mu is None else {"mu": mu}))
            times = torch.as_tensor(self.multistep.sigmas, device=device, dtype=torch.float32)
            if bool((times.diff() < 0).all()):
                return times
        self.real.set_timesteps(steps, device=device, sigmas=sigmas, mu=mu)
        return torch.as_tensor(self.real.sigmas, device=device, dtype=torch.float32)

    def native(self, t: Tensor) -> Tensor:
        """Return ``t`` in the unit that the pipeline hands its denoiser: thousandths, or the integer training time."""
        if isinstance(self.path, VariancePreserving):
            return self.path.index(t) - 1
        if self.multistep is not None:  # those cut the thousandths off, also on a flow (Sana)
            return (t.double() * self.size + 1e-3).long()
        return t * self.size

    def unshifted(self, t: Tensor, mu: float | None) -> Tensor:
        """Return ``t`` on a rectified path as it was before the schedule's shift, in thousandths.

        That is what a pipeline's denoiser is given where it hands its scheduler times beside the sigmas (CogView4).
        """
        before = torch.arange(self.size, 0, -1, dtype=torch.float32) / self.size
        self.real.set_timesteps(sigmas=before.numpy(), mu=mu)
        after = self.real.sigmas[:-1].flip(0).to(t.device, t.dtype).contiguous()
        right = torch.searchsorted(after, t.contiguous()).clamp(1, self.size - 1)
        share = (t - after[right - 1]) / (after[right] - after[right - 1])
        native = right + share.clamp(min=-1)  # thousandths count from 1: `right` is the number of its left neighbour
        return torch.round(native * 100) / 100  # the schedule's own are whole, but for the rounding of the shift

    def check(self, steps: int) -> None:
        """Refuse so few ``steps`` that sampling would not begin in noise."""
        if isinstance(self.path, Rectified):
            return
        first = self.times(steps, "cpu", None, None)[:1]
        if float(self.path.sigma(first)) < LEAST_NOISE:
            raise BadInput(
                f"generator.steps: {steps} steps of this scheduler begin at {float(first):.0%} of the noise path; "
                "take more of them"
            )


def _made(kind: Any, config: Mapping[str, Any]) -> Any:
    """Return a scheduler of class ``kind`` with what it knows of another's config."""
    return kind(**{name: config[name] for name in inspect.signature(kind).parameters if name in config})


def _shift(config: Mapping[str, Any]) -> float:
    """Return the shift of a flow's times, which solvers made for diffusion (Sana's) call by another name."""
    return float(config.get("flow_shift", config.get("shift", 1.0)))


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
        self.times = self.schedule.times(num_inference_steps, device, sigmas, mu)
        self.timesteps = self.schedule.native(self.times[:-1])
        if sigmas is not None and timesteps is not None:
            self.timesteps = self.schedule.unshifted(self.times[:-1], mu)

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
        del num_inference_steps, device
        self.timesteps = self.schedule.native(self.t)[None]
        if sigmas is not None and timesteps is not None:
            self.timesteps = self.schedule.unshifted(self.t, mu)[None]

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
