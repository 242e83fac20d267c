"""What a run says of itself at its end."""

import time

import pytest
import torch

from rlhf_images.efficiency import Efficiency, said
from rlhf_images.generators import GeneratorConfig
from rlhf_images.meter import Meter

CPU = torch.device("cpu")
SIZE = 256


def stepping(efficiency, steps):
    """Steps of one product each, of which the first is the slowest and computes more."""
    left = right = torch.ones(SIZE, SIZE)
    for number in range(steps):

        def work(number=number):
            begun = time.perf_counter()
            for _ in range(3 if number == 0 else 1):
                left @ right
            return {"seconds_sampling": time.perf_counter() - begun, "seconds_learning": 0.0, "reward": 1.0}

        assert efficiency.step(work)["reward"] == 1.0


def test_the_second_step_is_counted_and_the_others_timed():
    efficiency = Efficiency(4, GeneratorConfig(path="none"), CPU)
    stepping(efficiency, 4)
    summary = efficiency.summary()
    assert summary["flops_per_step"] == 2 * SIZE**3
    assert summary["fraction"] == pytest.approx(summary["flops_per_second"] / summary["matmul_rate"])
    assert summary["flops_per_second"] == pytest.approx(2 * SIZE**3 / summary["seconds_per_step"])
    shares = [value for name, value in summary.items() if name.startswith("share_")]
    assert sum(shares) == pytest.approx(1)
    assert "of this device's matrix products" in said(summary)


def test_the_step_that_is_counted_computes_what_others_do():
    """Bit by bit, or a run that is continued would not be the one that never stopped: it counts another step."""
    attention = torch.nn.MultiheadAttention(32, 4, batch_first=True).eval()
    values = torch.randn(3, 7, 32, generator=torch.Generator().manual_seed(0))
    efficiency, answers = Efficiency(3, GeneratorConfig(path="none"), CPU), []

    def work():
        with torch.no_grad():
            answers.append(attention(values, values, values, need_weights=False)[0])
        return {"seconds_scoring": 1.0}

    for _ in range(3):
        efficiency.step(work)
    assert torch.equal(answers[0], answers[1])
    with Meter() as meter:  # in which torch does not fuse it, and may round otherwise
        work()
    torch.testing.assert_close(answers[0], answers[-1])
    assert efficiency.flops == meter.work.flops == 2 * 3 * 7 * 32 * (4 * 32 + 2 * 7)


def test_a_single_step_is_counted_and_timed():
    efficiency = Efficiency(1, GeneratorConfig(path="none"), CPU)
    stepping(efficiency, 1)
    assert efficiency.summary()["flops_per_step"] == 3 * 2 * SIZE**3


def test_a_compiled_network_is_only_timed():
    efficiency = Efficiency(3, GeneratorConfig(path="none", compile="inductor"), CPU)
    stepping(efficiency, 3)
    assert "fraction" not in efficiency.summary()
    assert said(efficiency.summary()).startswith("time: sampling")
