"""What every algorithm promises (architecture §5), over the table of algorithms and both noise paths."""

import pytest
import torch
from families import PROMPTS, family

from rlhf_images.algorithms import ALGORITHMS
from rlhf_images.errors import NonFinite
from rlhf_images.generators import Generator
from rlhf_images.generators.lora import LoraConfig, make_trainable
from rlhf_images.math.objectives import squared_error
from rlhf_images.math.path import Prediction
from rlhf_images.policy import OptimizerConfig, Policy
from rlhf_images.processes import Processes
from rlhf_images.randomness import Randomness

GROUP = 4


@pytest.fixture(params=["SD3", "SD1.5 v, DDIM"])
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
    return algorithm.examples(rollout, advantages, policy.generator, randomness)


def stir(policy):
    """Weights other than those of the snapshots."""
    with torch.no_grad():
        for i, parameter in enumerate(policy.parameters.values()):
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i)))


def gradient(policy, algorithm, examples):
    policy.optimizer.zero_grad()
    algorithm.loss(policy.generator, policy.snapshots, examples)[0].mean().backward()
    return torch.cat([p.grad.flatten() for p in policy.parameters.values() if p.grad is not None])


@pytest.fixture(params=ALGORITHMS.values(), ids=ALGORITHMS)
def kind(request):
    return request.param


def test_zero_advantages_give_no_policy_gradient_on_policy(kind, policy):
    algorithm = kind(kl_weight=0.0)
    policy = start(policy, algorithm)
    examples = examples_of(policy, algorithm, torch.zeros(8))
    nothing = gradient(policy, algorithm, examples).abs().max()
    something = gradient(policy, algorithm, examples_of(policy, algorithm, torch.randn(8))).abs().max()
    assert nothing < 1e-4 * something


def test_the_kl_alone_has_a_gradient(kind, policy):
    algorithm = kind(kl_weight=1.0)
    policy = start(policy, algorithm)
    stir(policy)
    policy.snapshots.take("behaviour")
    examples = examples_of(policy, algorithm, torch.zeros(8))
    without = gradient(policy, kind(kl_weight=0.0), examples).abs().max()
    assert gradient(policy, algorithm, examples).abs().max() > 100 * without
    assert (algorithm.loss(policy.generator, policy.snapshots, examples)[1]["kl"] > 0).all()


def test_a_permuted_batch_has_the_same_losses(kind, policy):
    algorithm = kind()
    policy = start(policy, algorithm)
    stir(policy)
    examples = examples_of(policy, algorithm, torch.randn(8))
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(0)).tolist()
    with torch.no_grad():
        losses = algorithm.loss(policy.generator, policy.snapshots, examples)[0]
        permuted = algorithm.loss(policy.generator, policy.snapshots, examples.select(order))[0]
    torch.testing.assert_close(permuted, losses[order], rtol=1e-4, atol=1e-5)


def test_examples_do_not_depend_on_the_slice(kind, policy):
    """Half the pictures give exactly the half of the examples: the numbers hang on global indices."""
    algorithm = kind()
    policy = start(policy, algorithm)
    prompts, index, randomness = [PROMPTS[0]] * 4, [4, 5, 6, 7], Randomness(3, 1)
    whole = algorithm.rollout(policy.generator, policy.snapshots, prompts, index, randomness, 4)
    half = algorithm.rollout(policy.generator, policy.snapshots, prompts[2:], index[2:], randomness, 1)
    examples = [algorithm.examples(r, torch.ones(len(r)), policy.generator, randomness) for r in (whole, half)]
    of_half = [row for row, image in enumerate(examples[0].image) if image >= 6]
    expected = examples[0].select(of_half)
    assert expected.image == examples[1].image
    torch.testing.assert_close(expected.x, examples[1].x, rtol=0, atol=1e-4)
    assert torch.equal(expected.t, examples[1].t)


def test_a_non_finite_example_refuses_the_update_and_leaves_the_weights(kind, policy):
    algorithm = kind()
    policy = start(policy, algorithm)
    examples = examples_of(policy, algorithm, torch.randn(8))
    examples.x0[3].fill_(torch.nan)
    before = {name: value.detach().clone() for name, value in policy.parameters.items()}
    with pytest.raises(NonFinite):
        policy.update(algorithm, examples, len(examples), 3, {})
    assert all(torch.equal(before[name], value) for name, value in policy.parameters.items())
    assert not policy.optimizer.state


def test_thirty_steps_raise_an_exact_reward(kind, path):
    """The mean of the final latents, from a base that was fitted to standard normal ones.

    A random network will not do: forward-process objectives assume that the base denoises its own samples.
    """
    pipe, config = family(path)
    generator = Generator(pipe, config)
    make_trainable(generator, None, seed=0)
    fit_to_a_normal(generator)
    algorithm = kind()
    policy = start(generator, algorithm, lr=1e-3)

    def level(rollout):
        levels = rollout.x0.flatten(1).mean(1)
        seen.append(float(levels.mean()))
        grouped = levels.view(2, GROUP)
        return ((grouped - grouped.mean(1, keepdim=True)) / grouped.std()).flatten()

    seen = []
    for step in range(30):
        examples = examples_of(policy, algorithm, level, step)
        policy.update(algorithm, examples, len(examples), len(examples), {})
        algorithm.after_step(policy.snapshots, step)
    first, last = (torch.tensor(part) for part in (seen[:5], seen[-5:]))
    assert last.mean() > first.mean() + 0.2


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
