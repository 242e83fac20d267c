"""Direct-Align, with SRPO's relative reward (Shen et al. 2025, "Directly Aligning the Full Diffusion Trajectory").

A finished picture is noised by a *known* eps to any time t, moved by one short step with gradient, and x0 is recovered
exactly from what eps is known to be: so early times can be trained as well as late ones, where rewards are easily
hacked. SRPO scores (1 + k)·r(positive words + prompt) − r(negative words + prompt), which cancels what the reward likes
whatever the words.

Where we differ from the authors' code: both rewards are read off the same picture, one step towards clean, where theirs
takes the negative one off a step towards noise; the schedule of discounts is left out (the recovery's factor
reach/alpha' weighs times); the noise is always fresh.
"""

from dataclasses import dataclass
from typing import Literal, cast, final

from torch import Tensor

from ..config import Count, Fraction, Weight
from ..generators import Generator
from ..math.kernels import ode
from ..math.path import over
from ..randomness import Randomness
from ..reward import Reward
from ..sampling import Rollout
from ..snapshots import Snapshots
from .base import Examples, Scored
from .direct import DirectBackpropagation, known, shortfall


@final
@dataclass(frozen=True)
class KnownNoise(Examples):
    """``x (N, …)`` at ``t (N,)``, of known ``eps``, to be moved to ``t_next``."""

    image: list[int]
    prompts: list[str]
    x: Tensor
    eps: Tensor
    t: Tensor
    t_next: Tensor


@final
@dataclass(frozen=True)
class DirectAlign(DirectBackpropagation):
    """Hyperparameters of Direct-Align and SRPO."""

    name: Literal["direct_align"] = "direct_align"
    times_per_image: Count = 2
    """Noisy times learnt from each picture."""
    reach: Fraction = 0.1
    """How far a step goes, in t."""
    latest: Fraction = 0.8
    """Times lie below this: near pure noise the recovery would divide by next to nothing."""
    positive: str = ""
    """Words put before the prompt that the reward reads."""
    negative: str | None = None
    """Words put before the prompt in the reward that is taken off; null takes none off."""
    k: Weight = 0.1
    """How much more the positive reward counts than the negative one."""

    def check(self, steps: int) -> None:
        """Refuse times between which there is nothing."""
        del steps
        if not self.reach < self.latest < 1:
            raise ValueError(f"reach {self.reach} < latest {self.latest} < 1 is needed, so that x0 can be recovered")

    def examples(self, rollout: Rollout, scored: Scored, generator: Generator, randomness: Randomness) -> KnownNoise:
        """Return each picture under known noise at `times_per_image` random times."""
        del scored
        number, path = self.times_per_image, generator.path
        x0 = rollout.x0.repeat_interleave(number, 0)
        eps = randomness.normal("known noise", rollout.index, (number, *rollout.x0.shape[1:])).flatten(0, 1).to(x0)
        uniform = randomness.uniform("known noise time", rollout.index, (number,)).flatten().to(x0)
        t = self.reach + uniform * (self.latest - self.reach)
        return KnownNoise(
            image=[i for i in rollout.index for _ in range(number)],
            prompts=[prompt for prompt in rollout.prompts for _ in range(number)],
            x=path.add_noise(x0, eps, t),
            eps=eps,
            t=t,
            t_next=t - self.reach,
        )

    def loss(
        self, generator: Generator, snapshots: Snapshots, reward: Reward, examples: Examples
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return minus the (relative) reward of the recovered pictures, and ``reward_learnt``."""
        del snapshots
        batch, path = cast(KnownNoise, examples), generator.path
        prediction = generator.predict(batch.prompts, batch.x, batch.t)
        moved = ode(path, prediction, batch.x, batch.t, batch.t_next).mean
        alpha, sigma = over(path.alpha(batch.t_next), moved), over(path.sigma(batch.t_next), moved)
        x0 = (moved - sigma * batch.eps) / alpha
        score = self._relative(generator, reward, batch.prompts, x0)
        return shortfall(score, self.margin), {"reward_learnt": score.detach()}

    def _relative(self, generator: Generator, reward: Reward, prompts: list[str], x0: Tensor) -> Tensor:
        def under(words: str) -> list[str]:
            return [f"{words} {prompt}".strip() for prompt in prompts]

        images = generator.decode(prompts, x0)
        positive = known(reward, images, under(self.positive))
        if self.negative is None:
            return positive
        return (1 + self.k) * positive - known(reward, images, under(self.negative))
