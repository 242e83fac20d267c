"""The meter against torch's profiler, which counts and weighs real tensors by other code."""

import copy
import gc
import math

import pytest
import torch
from families import PROMPTS, family, full
from test_plan import held_at_most
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile

from rlhf_images.generators import Generator
from rlhf_images.meter import META, Meter
from rlhf_images.randomness import Randomness

PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::conv2d")


def predicted(pipe, config):
    """The FLOPs of one prediction, after all else has been tried."""
    generator = Generator(pipe, config)
    rollout = generator.sample(PROMPTS[:2], Randomness(0).generators("sample", [0, 1]))
    x, t = rollout.x_TB[0], rollout.times[:1].expand(2)

    def predict():
        with torch.no_grad():
            generator.predict(PROMPTS[:2], x, t)

    predict()
    return predict


def profiled(run):
    """What the profiler makes of the products of ``run``.

    It knows no fused attention, so there is none; and of transposed convolutions only the shapes.
    """
    seen = {"activities": [ProfilerActivity.CPU], "with_flops": True, "record_shapes": True}
    with sdpa_kernel(SDPBackend.MATH), profile(**seen) as profiler:
        run()
    events = profiler.key_averages(group_by_input_shape=True)
    known = sum(event.flops for event in events if event.key in PRODUCTS)
    transposed = [event for event in events if event.key == "aten::conv_transpose2d"]
    return known + sum(
        2 * event.count * math.prod(x) * math.prod(weight[1:])
        for event in transposed
        for x, weight, *_ in [event.input_shapes]
    )


def without_values(pipe):
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            part.to(META)
    return pipe


def counts(name):
    pipe, config = family(name)
    real = profiled(predicted(copy.deepcopy(pipe), config))
    with Meter() as meter:
        predict = predicted(without_values(pipe), config)
        before = meter.work
        predict()
    return (meter.work - before).flops, real


SLOW = ["Kandinsky 3"]
"""Hundreds of layers, however narrow."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.campaign if name in SLOW else ()) for name in full()]
)
def test_flops_without_values_are_a_profiler_s(name):
    counted, real = counts(name)
    assert counted == pytest.approx(real, rel=0.02)


def test_a_layer_forward_and_backward():
    """4 × 8 inputs by 16 outputs: 2·4·8·16 FLOPs a product, and one product more for each gradient."""
    for device in ("cpu", "meta"):
        layer, x = nn.Linear(8, 16, bias=False, device=device), torch.ones(4, 8, device=device, requires_grad=True)
        with Meter() as meter:
            y = layer(x)
            assert meter.work.flops == 2 * 4 * 8 * 16
            y.sum().backward()
        assert meter.work.flops == 3 * 2 * 4 * 8 * 16


def test_what_is_held_is_known_to_the_byte():
    with Meter() as meter:
        kept = torch.zeros(100)
        gone = torch.zeros(1000)
        view = kept[10:]
        del gone
        gc.collect()
        assert (meter.live, meter.peak) == (400, 4400)
        meter.mark()
        del kept
        assert meter.live == meter.peak == 400
        del view
        assert meter.live == 0


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="convolutions are not oneDNN's")
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize(
    ("shape", "out", "kernel", "stride"),
    [
        ((8, 16, 16, 16), 32, 3, 1),
        ((8, 4, 16, 16), 16, 3, 1),
        ((8, 32, 16, 16), 4, 3, 1),
        ((1, 16, 16, 16), 16, 3, 1),
        ((1, 32, 64, 64), 32, 3, 1),
        ((8, 16, 16, 16), 16, 1, 1),
    ],
)
def test_what_a_convolution_holds_is_what_the_allocator_gives(shape, out, kernel, stride, backward):
    """And on meta, where nothing is held."""
    x, weight = torch.ones(shape), torch.ones(out, shape[1], kernel, kernel)
    y = nn.functional.conv2d(x, weight, None, stride, kernel // 2)

    def work(*tensors):
        x, weight, y = tensors
        ways = [stride, stride], [kernel // 2] * 2, [1, 1], False, [0, 0], 1
        if backward:
            return torch.ops.aten.convolution_backward(y, x, weight, [0], *ways, [True, True, False])
        return torch.ops.aten.convolution(x, weight, None, *ways)

    work(x, weight, y)
    real = held_at_most(lambda: work(x, weight, y))[0]
    for device in ("cpu", "meta"):
        given = [tensor.to(device) for tensor in (x, weight, y)]
        with Meter(cpu=True) as meter:
            work(*given)
        assert meter.peak == pytest.approx(real, rel=0.1)


def test_what_no_weight_has_met_keeps_its_value():
    """A mask selects, a number is read: a pipeline goes on as it would."""
    table = torch.empty(10, 4, device=META)
    with Meter():
        tokens = torch.tensor([1, 2, 0], device=META)
        assert tokens.tolist() == [1, 2, 0]
        embedded = table[tokens]
        assert embedded.device == META
        assert embedded[tokens > 0].shape == (2, 4)
        assert (embedded.float() @ torch.ones(4, 2)).shape == (3, 2)
        filled = torch.zeros(3, 4)
        filled[:2] = embedded[:2]
        assert filled.device.type == "cpu"


def test_attention_is_fused_on_meta_and_counted_as_it_is():
    """No matrix of all pairs is held; and its FLOPs are those of two products of L × S × d."""
    q = torch.empty(1, 2, 64, 8, device=META, requires_grad=True)
    with Meter() as meter:
        out = nn.functional.scaled_dot_product_attention(q, q, q)
        assert meter.work.flops == 2 * 2 * 2 * 64 * 64 * 8
        assert meter.live < 2 * 64 * 64 * 4
        out.sum().backward()
    assert meter.work.flops == 2 * 2 * 2 * 64 * 64 * 8 * 3.5  # five products backward for two forward
