"""What the policy-gradient algorithms share: sampling as a Markov decision process, one Gaussian a step.

Within a window of steps the next x is drawn from a kernel's Gaussian, elsewhere it follows the ODE; the policy gradient
is taken at the drawn steps alone. The window is the same for all pictures of a step, or groups could not be compared.
Log-probabilities are means over latent elements (see `kernels`).
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, cast, final

import torch
from torch import Tensor

from ..config import Count, Fraction, Positive, Weight
from ..errors import BadInput
from ..generators import Generator
from ..math.kernels import KERNELS, Gaussian, Kernel
from ..math.path import Path, Rectified
from ..randomness import Randomness
from ..reward import Reward
from ..sampling import Rollout, sample
from ..snapshots import Snapshots
from .base import Algorithm, Examples, Scored


@final
@dataclass(frozen=True)
class Window:
    """Which sampling steps are drawn at random and trained. The last never is: its noise would stay in the picture."""

    size: Count | None = None
    """Number of steps; null is all but the last."""
    placed: Literal["first", "random", "sliding"] = "first"
    """``random``: anew each training step (Flow-GRPO-Fast). ``sliding``: from noise to clean and again (MixGRPO)."""
    within: Fraction = 1.0
    """A random window starts in this first share of its possible starts; the early half (0.5) matters most."""
    every: Count = 25
    """A sliding window moves on by one sampling step each time this many training steps are done."""

    def steps(self, total: int, randomness: Randomness) -> range:
        """Return the numbers of the drawn steps of a schedule of ``total`` steps, at training step of `randomness`."""
        size = self.size or total - 1
        starts = total - size  # a window starts at 0 … starts − 1, so that it ends before the last step
        if self.placed == "sliding":
            start = randomness.step // self.every % starts
        elif self.placed == "random":
            start = int(randomness.uniform("window", [0]) * max(1, round(starts * self.within)))
        else:
            start = 0
        return range(start, start + size)


@final
@dataclass(frozen=True)
class Transitions(Examples):
    """Drawn steps ``x (N, …)`` at ``t (N,)`` to ``x_next`` at ``t_next``, and the Gaussian they were drawn from."""

    image: list[int]
    prompts: list[str]
    x: Tensor
    x_next: Tensor
    t: Tensor
    t_next: Tensor
    mean: Tensor
    std: Tensor
    advantage: Tensor

    @property
    def behaviour(self) -> Gaussian:
        """Return the policy that drew them."""
        return Gaussian(self.mean, self.std)


@dataclass(frozen=True)
class PolicyGradient(Algorithm):
    """Abstract: the decision process. What is done with a step's two Gaussians is each algorithm's `surrogate`."""

    kernel: Literal["auto", "flow_sde", "dance_sde", "cps", "ddim"] = "auto"
    """How a drawn step is drawn; ``auto`` is flow_sde for rectified flows and ddim for variance-preserving models."""
    eta: Positive | None = None
    """The kernel's noise; null is its published one: flow_sde 0.7, dance_sde 0.3, cps 0.8, ddim 1."""
    window: Window = field(default_factory=Window)
    """Which steps are drawn and trained."""
    advantage_clip: Positive = 5.0
    """Advantages beyond this count as this."""
    kl_weight: Weight = 0.0
    """Of the KL of each step's Gaussian to the reference's, a mean over latent elements. 0 saves a forward pass."""

    @abstractmethod
    def surrogate(self, new: Gaussian, batch: Transitions) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the policy loss ``(N,)`` of a step's new Gaussian, with gradient, and metrics ``(N,)`` without."""

    def check(self, steps: int) -> None:
        """Refuse a window that does not fit."""
        if self.eta is not None and self.eta > 1 and self.kernel in ("cps", "ddim"):
            raise ValueError(f"eta {self.eta}: the kernel {self.kernel} takes at most 1")
        if steps < 2:
            raise ValueError(f"{self.__class__.__name__} draws steps before the last one; use 2 sampling steps or more")
        if self.window.size is not None and self.window.size >= steps:
            raise ValueError(
                f"a window of {self.window.size} does not fit before the last of {steps} sampling steps;"
                f" use at most {steps - 1}"
            )

    def check_path(self, path: Path) -> None:
        """Refuse a kernel that is made for another one."""
        self.drawing(path)

    def snapshots(self) -> tuple[str, ...]:
        """Return the reference where the KL is on."""
        return ("reference",) if self.kl_weight else ()

    def rollout(
        self,
        generator: Generator,
        snapshots: Snapshots,
        prompts: Sequence[str],
        index: Sequence[int],
        randomness: Randomness,
        micro_size: int,
    ) -> Rollout:
        """Return pictures whose steps within the window are drawn by the kernel."""
        del snapshots
        drawn = self.window.steps(generator.config.steps, randomness)
        kernel, keep = self.drawing(generator.path), range(drawn.start, drawn.stop + 1)
        return sample(generator, prompts, index, randomness, micro_size, kernel, drawn, keep=keep)

    def examples(self, rollout: Rollout, scored: Scored, generator: Generator, randomness: Randomness) -> Transitions:
        """Return every drawn step of every picture, all pictures of a time together."""
        del generator, randomness
        pictures, steps = rollout.drawn.shape
        step = rollout.drawn.T.flatten()
        row = torch.arange(pictures).repeat(steps)
        advantage = scored.of_mine(scored.advantages_PK).clamp(-self.advantage_clip, self.advantage_clip)
        return Transitions(
            image=[i for _ in range(steps) for i in rollout.index],
            prompts=[prompt for _ in range(steps) for prompt in rollout.prompts],
            x=rollout.latents(row, step),
            x_next=rollout.latents(row, step + 1),
            t=rollout.times[row, step],
            t_next=rollout.times[row, step + 1],
            mean=rollout.means.transpose(0, 1).flatten(0, 1),
            std=rollout.stds.T.flatten(),
            advantage=advantage.to(rollout.x)[row],
        )

    def loss(
        self, generator: Generator, snapshots: Snapshots, reward: Reward, examples: Examples
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return surrogate + kl_weight·KL(policy ‖ reference) of each drawn step."""
        del reward
        batch = cast(Transitions, examples)
        new = self.drawn_from(generator, batch)
        loss, metrics = self.surrogate(new, batch)
        if not self.kl_weight:
            return loss, metrics
        with snapshots.use("reference"):
            reference = self.drawn_from(generator, batch)
        kl = new.kl(reference)
        return loss + self.kl_weight * kl, {**metrics, "kl": kl.detach()}

    def after_step(self, snapshots: Snapshots, step: int) -> None:
        """Do nothing: the policy is its own behaviour."""

    def drawn_from(self, generator: Generator, batch: Transitions) -> Gaussian:
        """Return the Gaussian from which the policy, as it is now, would draw each next x."""
        prediction = generator.predict(batch.prompts, batch.x, batch.t)
        return self.drawing(generator.path)(generator.path, prediction, batch.x, batch.t, batch.t_next)

    def drawing(self, path: Path) -> Kernel:
        """Return the kernel on ``path``. Raises `BadInput` for one that is not made for it."""
        rectified = isinstance(path, Rectified)
        name = ("flow_sde" if rectified else "ddim") if self.kernel == "auto" else self.kernel
        if name in ("flow_sde", "dance_sde") and not rectified:
            raise BadInput(f"algorithm.kernel: {name} is for rectified flows, this model is not one; use ddim or cps")
        make, published = KERNELS[name]
        return make(published if self.eta is None else self.eta)
