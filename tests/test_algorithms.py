"""What every algorithm promises (architecture §5), over the table of algorithms and both noise paths."""

import dataclasses
import functools
import itertools

import pytest
import torch
from families import PROMPTS, family

from rlhf_images.algorithms import ALGORITHMS, Scored
from rlhf_images.algorithms.direct import DirectBackpropagation
from rlhf_images.algorithms.policy_gradient import PolicyGradient
from rlhf_images.errors import NonFinite
from rlhf_images.generators import Generator
from rlhf_images.generators.lora import LoraConfig, make_trainable
from rlhf_images.math.objectives import squared_error
from rlhf_images.math.path import Prediction, over
from rlhf_images.policy import OptimizerConfig, Policy
from rlhf_images.processes import Processes
from rlhf_images.randomness import Randomness
from rlhf_images.reward import Capabilities, FunctionReward, Reward, Scores

GROUP = 4

UNANCHORED = {
    "nft": {"kl_weight": 0.0},
    "awm": {"kl_weight": 0.0, "lag_weight": 0.0},
    "ram": {},
    "grpo": {"kl_weight": 0.0},
    "grpo_guard": {"kl_weight": 0.0},
    "dppo": {},
    "ddpo": {},
}
"""Algorithms whose pull comes from the advantages alone, and what switches their anchors off."""

ANCHORED = [name for name, settings in UNANCHORED.items() if "kl_weight" in ALGORITHMS[name].__dataclass_fields__]

RAISING = {
    "awm": {"kl_weight": 0.0, "lag_weight": 0.02},
    "ram": {"multiplier": 10.0},
    "rwr": {"temperature": 0.3},
    "grpo": {"kl_weight": 0.0, "clip": 0.02},
    "grpo_guard": {"kl_weight": 0.0, "clip": 0.02},
    "dppo": {"bound": 0.02},
    "ddpo": {"clip": 0.02},
    "online_dpo": {"beta": 20.0},
}
"""Settings for a toy latent of a few dozen elements, where the published ones are for tens of thousands."""


@pytest.fixture(params=["SD3", "CogView3+"])
def path(request):
    return request.param


@pytest.fixture
def policy(path):
    pipe, config = family(path)
    generator = Generator(pipe, config)
    make_trainable(generator, LoraConfig(rank=4, alpha=8), seed=0)
    return generator


def start(generator, algorithm, lr=1e-3):
    return Policy(generator, algorithm.snapshots(), OptimizerConfig(lr=lr), Processes())


def examples_of(policy, algorithm, advantages, step=0):
    prompts = [prompt for prompt in PROMPTS[:2] for _ in range(GROUP)]
    randomness = Randomness(7, step)
    rollout = algorithm.rollout(policy.generator, policy.snapshots, prompts, list(range(8)), randomness, 8)
    if callable(advantages):
        advantages = advantages(rollout)
    return algorithm.examples(rollout, scored(advantages, range(8)), policy.generator, randomness)


def scored(advantages, index):
    """What the loop would hand over for the pictures ``index`` of all, had their scores been their advantages."""
    advantages_PK = advantages.view(-1, GROUP)
    return Scored(advantages_PK, torch.ones_like(advantages_PK).bool(), advantages_PK, list(index), gather)


def gather(values, rows, total):
    whole = torch.zeros(total, *values.shape[1:])
    whole[list(rows)] = values
    return whole


NO_REWARD = FunctionReward(lambda images, prompts: 1 / 0)  # nobody may ask it


class Brightness(Reward):
    can = Capabilities(differentiable=True)

    def score(self, *, images, prompts):
        return Scores.of(images.flatten(1).mean(1))


def reward_for(algorithm):
    """Only those that say so may look at the reward."""
    return Brightness() if algorithm.differentiates_reward else NO_REWARD


def losses_of(policy, algorithm, examples):
    return algorithm.loss(policy.generator, policy.snapshots, reward_for(algorithm), examples)


def tensors(batch):
    columns = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    return {name: column for name, column in columns.items() if isinstance(column, torch.Tensor)}


def stir(policy):
    """Weights other than those of the snapshots."""
    with torch.no_grad():
        for i, parameter in enumerate(policy.parameters.values()):
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i)))


def gradient(policy, algorithm, examples):
    policy.optimizer.zero_grad()
    losses_of(policy, algorithm, examples)[0].mean().backward()
    return torch.cat([p.grad.flatten() for p in policy.parameters.values() if p.grad is not None])


@pytest.fixture(params=ALGORITHMS.values(), ids=ALGORITHMS)
def kind(request):
    return request.param


ADVANTAGES = torch.tensor([0.3, -1.0, 1.2, -0.5, 0.1, 0.4, 1.5, -2.0])


@pytest.mark.parametrize("name", UNANCHORED)
def test_zero_advantages_give_no_policy_gradient_on_policy(name, policy):
    algorithm = ALGORITHMS[name](**UNANCHORED[name])
    policy = start(policy, algorithm)
    nothing = gradient(policy, algorithm, examples_of(policy, algorithm, torch.zeros(8))).abs().max()
    something = gradient(policy, algorithm, examples_of(policy, algorithm, ADVANTAGES)).abs().max()
    assert nothing < 1e-4 * something


@pytest.mark.parametrize("name", ANCHORED)
def test_the_kl_alone_has_a_gradient(name, policy):
    free = UNANCHORED[name]
    algorithm = ALGORITHMS[name](**{**free, "kl_weight": 1.0})
    policy = start(policy, algorithm)
    stir(policy)
    if "behaviour" in policy.snapshots.copies:
        policy.snapshots.take("behaviour")
    examples = examples_of(policy, algorithm, torch.zeros(8))
    without = gradient(policy, ALGORITHMS[name](**{**free, "kl_weight": 0.0}), examples).abs().max()
    assert gradient(policy, algorithm, examples).abs().max() > 100 * without
    assert (losses_of(policy, algorithm, examples)[1]["kl"] > 0).all()


def test_a_permuted_batch_has_the_same_losses(kind, policy):
    algorithm = kind()
    policy = start(policy, algorithm)
    examples = examples_of(policy, algorithm, ADVANTAGES)
    stir(policy)
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(0)).tolist()
    with torch.no_grad():
        losses = losses_of(policy, algorithm, examples)[0]
        permuted = losses_of(policy, algorithm, examples.select(order))[0]
    torch.testing.assert_close(permuted, losses[order], rtol=1e-4, atol=1e-5 * float(losses.abs().max()))


def test_micro_batches_of_one_give_the_same_gradient(kind, policy):
    algorithm = kind()
    policy = start(policy, algorithm)
    examples = examples_of(policy, algorithm, ADVANTAGES)
    examples = examples.select(list(range(0, len(examples), 3)))
    whole = gradient(policy, algorithm, examples)
    policy.optimizer.zero_grad()
    for micro in examples.split(1):
        (losses_of(policy, algorithm, micro)[0].sum() / len(examples)).backward()
    parts = torch.cat([p.grad.flatten() for p in policy.parameters.values() if p.grad is not None])
    torch.testing.assert_close(parts, whole, rtol=1e-3, atol=1e-4 * float(whole.abs().max()))


def test_examples_do_not_depend_on_the_slice(kind, policy):
    """Half the pictures give exactly the half of the examples: the numbers hang on global indices."""
    algorithm = kind()
    policy = start(policy, algorithm)
    prompts, index, randomness = [PROMPTS[0]] * 4, [4, 5, 6, 7], Randomness(3, 1)
    whole = algorithm.rollout(policy.generator, policy.snapshots, prompts, index, randomness, 4)
    half = algorithm.rollout(policy.generator, policy.snapshots, prompts[2:], index[2:], randomness, 1)
    examples = [
        algorithm.examples(part, scored(ADVANTAGES, part.index), policy.generator, randomness) for part in (whole, half)
    ]
    expected = examples[0].select([row for row, image in enumerate(examples[0].image) if image >= 6])
    assert expected.image == examples[1].image
    for name, column in tensors(expected).items():
        torch.testing.assert_close(column, tensors(examples[1])[name], rtol=0, atol=1e-4)


def test_a_non_finite_example_refuses_the_update_and_leaves_the_weights(kind, policy):
    algorithm = kind()
    policy = start(policy, algorithm)
    examples = examples_of(policy, algorithm, ADVANTAGES)
    poisoned = next(column for column in tensors(examples).values() if column.ndim > 1)
    poisoned[2].fill_(torch.nan)
    before = {name: value.detach().clone() for name, value in policy.parameters.items()}
    with pytest.raises(NonFinite):
        policy.update(algorithm, reward_for(algorithm), examples, len(examples), 3, {})
    assert all(torch.equal(before[name], value) for name, value in policy.parameters.items())
    assert not policy.optimizer.state


def test_thirty_steps_raise_an_exact_reward(kind, path):
    """The mean of the final latents (of the pictures, for its gradient), from a base fitted to standard normal ones.

    A random network will not do: forward-process objectives assume that the base denoises its own samples.
    """
    generator = fitted(path)
    algorithm = kind(**RAISING.get(kind.name, {}))
    rates = {PolicyGradient: 2e-3, DirectBackpropagation: 3e-3}
    policy = start(generator, algorithm, next((lr for base, lr in rates.items() if isinstance(algorithm, base)), 1e-3))

    def level(rollout):
        levels = (rollout.images if algorithm.differentiates_reward else rollout.x0).flatten(1).mean(1)
        seen.append(float(levels.mean()))
        grouped = levels.view(2, GROUP)
        return ((grouped - grouped.mean(1, keepdim=True)) / grouped.std()).flatten()

    seen = []
    for step in range(30):
        examples = examples_of(policy, algorithm, level, step)
        policy.update(algorithm, reward_for(algorithm), examples, len(examples), len(examples), {})
        algorithm.after_step(policy.snapshots, step)
    first, last = (torch.tensor(part) for part in (seen[:5], seen[-5:]))
    assert last.mean() > first.mean() + (0.003 if algorithm.differentiates_reward else 0.1), seen


@functools.cache
def fitted_weights(path):
    pipe, config = family(path)
    generator = Generator(pipe, config)
    make_trainable(generator, None, seed=0)
    fit_to_a_normal(generator)
    return {name: value.detach().clone() for name, value in generator.parameters.items()}


def fitted(path):
    pipe, config = family(path)
    generator = Generator(pipe, config)
    make_trainable(generator, None, seed=0)
    generator.denoiser.load_state_dict(fitted_weights(path), strict=False)
    return generator


def fit_to_a_normal(generator):
    shape = generator.sample(PROMPTS[:1], Randomness(0).generators("shape", [0])).x_TB[0].shape[1:]
    optimizer = torch.optim.AdamW(generator.parameters.values(), lr=3e-3)
    for step in range(80):
        randomness, rows = Randomness(0, step), range(16)
        x0, eps = randomness.normal("x0", rows, shape), randomness.normal("eps", rows, shape)
        t = randomness.uniform("t", rows).clamp(0.01, 0.99)
        prediction = generator.predict([PROMPTS[i % 2] for i in rows], generator.path.add_noise(x0, eps, t), t)
        velocity, truth = (generator.path.velocity(p, t) for p in (prediction, Prediction(x0, eps)))
        optimizer.zero_grad()
        squared_error(velocity, truth).mean().backward()
        optimizer.step()


def test_only_differentiable_rewards_are_learnt_through(kind):
    assert kind().differentiates_reward != kind().compares


def test_draft_through_every_step_is_the_gradient_of_the_whole_chain(path):
    """Against autograd through plain sampling, written out."""
    pipe, config = family(path)
    generator = Generator(pipe, config)
    make_trainable(generator, LoraConfig(rank=4, alpha=8), seed=0)
    algorithm = ALGORITHMS["draft"](last_steps=config.steps)
    policy = start(generator, algorithm)
    stir(policy)
    examples = examples_of(policy, algorithm, ADVANTAGES)
    found = gradient(policy, algorithm, examples)
    x, times = examples.x, examples.times[0]
    for t, t_next in itertools.pairwise(times):
        prediction = generator.predict(examples.prompts, x, t.expand(8))
        alpha, sigma = over(generator.path.alpha(t_next), x), over(generator.path.sigma(t_next), x)
        x = alpha * prediction.x0 + sigma * prediction.eps
    policy.optimizer.zero_grad()
    (-generator.decode(examples.prompts, x).flatten(1).mean(1)).mean().backward()
    expected = torch.cat([p.grad.flatten() for p in policy.parameters.values() if p.grad is not None])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6 * float(expected.abs().max()))


def test_direct_align_knows_its_noise(path):
    """From x and the known noise alone the sampled picture comes back."""
    algorithm, randomness = ALGORITHMS["direct_align"](times_per_image=3), Randomness(7)
    policy = start(fitted(path), algorithm)
    rollout = algorithm.rollout(policy.generator, policy.snapshots, PROMPTS[:1] * 8, list(range(8)), randomness, 8)
    examples = algorithm.examples(rollout, scored(ADVANTAGES, range(8)), policy.generator, randomness)
    noise_path = policy.generator.path
    alpha, sigma = (over(share(examples.t), examples.x) for share in (noise_path.alpha, noise_path.sigma))
    recovered = (examples.x - sigma * examples.eps) / alpha
    torch.testing.assert_close(recovered, rollout.x0.repeat_interleave(3, 0), rtol=0, atol=1e-3)
    torch.testing.assert_close(examples.t - examples.t_next, torch.full((24,), 0.1))
