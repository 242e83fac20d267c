"""Numbers that are not finite, put into a run at one of eight points of one process, as a fault there would."""

from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path

import rewards_for_tests
import torch

from rlhf_images import evaluator, finetune
from rlhf_images.algorithms.nft import NFT
from rlhf_images.generators import loading
from rlhf_images.policy import Policy
from rlhf_images.processes import Processes
from rlhf_images.sharding import local

STEP = 1
"""The step of the run, counted from 0, in which they appear."""


def poison(point: str, victim: int, number: float, file: str, rank: int) -> None:
    """Change the code of process ``victim``; every process tells in ``file`` what a refused step leaves of it."""
    learn = finetune.learn

    @wraps(learn)
    def watched(parts: finetune.Parts, step: int) -> dict[str, float]:
        before = state(parts.policy)
        if rank == victim and step == STEP and point in POINTS:
            POINTS[point](number)
        try:
            return learn(parts, step)
        except BaseException as error:
            same = all(torch.equal(a, b) for a, b in zip(before, state(parts.policy), strict=True))
            told = f"{type(error).__name__} in step {step}, weights {'unchanged' if same else 'changed'}"
            Path(f"{file}.{rank}").write_text(told)
            raise

    finetune.learn = watched
    if rank == victim and point in EARLIER:
        EARLIER[point](number)


def state(policy: Policy) -> list[torch.Tensor]:
    """Return copies of the weights, the snapshots and the optimiser's state."""
    tensors = [*policy.parameters.values()]
    tensors += [value for copy in policy.snapshots.copies.values() for value in copy.values()]
    slots = policy.optimizer.state_dict()["state"].values()
    tensors += [torch.as_tensor(value) for slot in slots for value in slot.values()]
    return [local(tensor.detach()).clone() for tensor in tensors]


def latents(number: float) -> None:
    """The last latents of one picture; the picture itself is sound."""
    rollout = NFT.rollout

    def poisoned(*arguments: object) -> object:
        drawn = rollout(*arguments)
        drawn.x0[0].view(-1)[0] = number
        return drawn

    NFT.rollout = poisoned


def images(number: float) -> None:
    """One pixel."""
    rollout = NFT.rollout

    def poisoned(*arguments: object) -> object:
        drawn = rollout(*arguments)
        drawn.images[-1, 0, 0, 0] = number
        return drawn

    NFT.rollout = poisoned


def reward(number: float) -> None:
    """One score."""
    score = rewards_for_tests.Signed.score

    def poisoned(self: object, **pictures: object) -> object:
        scores = score(self, **pictures)
        scores.mean[0] = number
        return type(scores).of(scores.mean, components=scores.components)

    rewards_for_tests.Signed.score = poisoned


def advantage(number: float) -> None:
    """One advantage, though every score is finite."""
    advantages = finetune._advantages

    def poisoned(*arguments: object) -> torch.Tensor:
        values = advantages(*arguments)
        values[0, 0] = number
        return values

    finetune._advantages = poisoned


def loss(number: float) -> None:
    """One example's loss."""
    compute = NFT.loss

    def poisoned(*arguments: object) -> object:
        losses, metrics = compute(*arguments)
        return losses * torch.tensor([number] + [1.0] * (len(losses) - 1)), metrics

    NFT.loss = poisoned


def gradient(number: float) -> None:
    """One element of one gradient; the loss is sound."""
    total = Processes.sum_gradients

    def poisoned(self: Processes, parameters: object, value: float) -> float:
        parameters = list(parameters)
        local(parameters[0].grad).view(-1)[0] = number
        return total(self, parameters, value)

    Processes.sum_gradients = poisoned


def weights(number: float) -> None:
    """One weight of the autoencoder, as it is loaded."""
    place = loading.place

    def poisoned(pipe: object, *arguments: object) -> None:
        place(pipe, *arguments)
        next(pipe.vae.parameters()).data.view(-1)[0] = number

    loading.place = poisoned


def evaluation(number: float) -> None:
    """One pixel of a picture of the second evaluation, after step 2."""
    draw, calls = evaluator.sample, [0]

    def poisoned(*arguments: object, **options: object) -> object:
        drawn = draw(*arguments, **options)
        calls[0] += 1
        if calls[0] == 2:
            drawn.images[0, 0, 0, 0] = number
        return drawn

    evaluator.sample = poisoned


POINTS: dict[str, Callable[[float], None]] = {
    "latents": latents,
    "images": images,
    "reward": reward,
    "advantage": advantage,
    "loss": loss,
    "gradient": gradient,
}
"""What happens within step `STEP`."""
EARLIER: dict[str, Callable[[float], None]] = {"weights": weights, "evaluation": evaluation}
"""What is prepared before the run begins."""


def poisoning(point: str, victim: int, number: float, file: Path) -> Callable[[int], None]:
    """Return what each process of a launch is to call first."""
    return partial(poison, point, victim, number, str(file))
