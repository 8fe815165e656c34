from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import Attention
from torch import nn

from hasten.errors import HastenError
from hasten.measure.clock import Clock, settled
from hasten.measure.profile import OTHER, OUTSIDE, modules, profile
from hasten.measure.roofline import Peaks
from hasten.measure.work import Counter


class Hands:
    def __init__(self) -> None:
        self.ns = 0
        self.clock = Clock(read_ns=lambda: self.ns)

    def move(self, seconds: float) -> None:
        self.ns += round(seconds * 1e9)


class Slow(nn.Module):
    """A leaf that takes scripted seconds."""

    def __init__(self, hands, seconds):
        super().__init__()
        self.hands, self.seconds = hands, seconds

    def forward(self, x):
        self.hands.move(self.seconds)
        return x


class Projection(Slow):
    pass


class TinyAttention(nn.Module):
    """3 s of its own around two projections of 1 s."""

    def __init__(self, hands):
        super().__init__()
        self.hands, self.to_q, self.to_out = hands, Projection(hands, 1.0), Projection(hands, 1.0)

    def forward(self, x):
        x = self.to_q(x)
        self.hands.move(3.0)
        return self.to_out(x)


class Net(nn.Module):
    def __init__(self, hands):
        super().__init__()
        self.hands = hands
        self.blocks = nn.Sequential(Slow(hands, 4.0), TinyAttention(hands), Slow(hands, 2.0))

    def forward(self, x):
        self.hands.move(5.0)
        return self.blocks(x)


def test_each_second_is_charged_once_and_to_the_innermost():
    hands = Hands()
    net = Net(hands)
    rows = {row.name: row for row in profile(lambda: net(torch.zeros(1)), net, repeats=3, clock=hands.clock)}
    seconds = {name: row.seconds for name, row in rows.items()}
    assert seconds == pytest.approx({"Slow": 6.0, "attention": 3.0, "Projection": 2.0, OTHER: 5.0})
    assert {name: row.calls for name, row in rows.items()} == {"Slow": 2, "attention": 1, "Projection": 2, OTHER: 0}
    assert rows["Slow"].share == pytest.approx(6 / 16)
    assert sum(row.share for row in rows.values()) == pytest.approx(1.0)
    assert list(rows) == ["Slow", OTHER, "attention", "Projection"]
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in net.modules())


def test_figures_are_per_evaluation_when_the_call_makes_several():
    hands = Hands()
    net = Net(hands)

    def call():
        for _ in range(4):
            net(torch.zeros(1))

    rows = {row.name: row for row in profile(call, net, repeats=1, clock=hands.clock)}
    assert rows["Slow"].seconds == pytest.approx(6.0)
    assert rows["Slow"].calls == 2
    assert sum(row.seconds for row in rows.values()) == pytest.approx(16.0)


def test_hooks_are_gone_after_a_call_that_raises():
    class Broken(nn.Module):
        calls = 0

        def forward(self, x):
            self.calls += 1
            if self.calls > 2:
                raise RuntimeError("out of luck")
            hands.move(1.0)
            return x

    hands = Hands()
    net = nn.Sequential(Broken())
    with pytest.raises(RuntimeError, match="out of luck"):
        profile(lambda: net(torch.zeros(1)), net, clock=hands.clock)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in net.modules())


def test_a_call_that_never_reaches_the_module_is_refused():
    hands = Hands()
    with pytest.raises(HastenError, match="never reached the module"):
        profile(lambda: hands.move(1.0), nn.Linear(2, 2), repeats=1, clock=hands.clock)


@pytest.fixture(params=[torch.no_grad, torch.inference_mode])
def without_gradients(request):
    return request.param


def work(module, *inputs, context=torch.no_grad):
    """Rows by kind of one call of a module that does real work, on hands that any call moves."""
    hands = Hands()

    def call():
        hands.move(1.0)
        with context():
            module(*inputs)

    return {row.name: row for row in profile(call, module, 1, Peaks(1e9, 1e9), hands.clock)}


def test_flops_and_bytes_of_a_convolution_by_hand(without_gradients):
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, 8, 3, stride=2, groups=4, bias=False), nn.Conv2d(8, 2, 1)
    )
    rows = work(net, torch.zeros(2, 3, 9, 9), context=without_gradients)
    dense = 2 * (2 * 8 * 9 * 9) * 3 * 9
    grouped = 2 * (2 * 8 * 4 * 4) * 2 * 9
    assert rows["Conv2d 3x3"].flops == dense + grouped
    assert rows["Conv2d 1x1"].flops == 2 * (2 * 2 * 4 * 4) * 8
    first, second = 2 * 3 * 81 + (8 * 27 + 8) + 2 * 8 * 81, 2 * 8 * 81 + 8 * 18 + 2 * 8 * 16
    assert rows["Conv2d 3x3"].bytes == 4 * (first + second)
    assert rows["SiLU"].bytes == 4 * 2 * (2 * 8 * 81)
    assert rows["SiLU"].flops == 0
    assert rows["Conv2d 3x3"].bound_seconds == pytest.approx(max(dense + grouped, 4 * (first + second)) / 1e9)


def test_flops_and_bytes_of_a_linear_layer_by_hand(without_gradients):
    rows = work(nn.Sequential(nn.Linear(5, 7), nn.Dropout(0.5).eval()), torch.zeros(2, 3, 5), context=without_gradients)
    assert rows["Linear"].flops == 2 * 6 * 5 * 7
    assert rows["Linear"].bytes == 4 * (6 * 5 + 5 * 7 + 7 + 6 * 7)
    assert rows["Dropout"].bytes == 0  # evaluation hands the same tensor on
    assert rows[OTHER].bytes == rows[OTHER].flops == 0


def test_attention_is_counted_apart_from_its_projections(without_gradients):
    tokens, width = 10, 16
    attention = Attention(query_dim=width, heads=2, dim_head=8).eval()
    rows = work(attention, torch.zeros(3, tokens, width), context=without_gradients)
    assert rows["Linear"].flops == 4 * 2 * (3 * tokens) * width * width
    assert rows["Linear"].calls == 4
    assert rows["attention"].flops == 2 * 2 * 3 * tokens * tokens * width  # scores, and the sum they weight
    assert rows["attention"].bytes >= 4 * 4 * 3 * tokens * width  # queries, keys, values, result


def test_work_between_the_leaves_is_other_and_views_are_free(without_gradients):
    class Joins(nn.Module):
        def __init__(self):
            super().__init__()
            self.leaf = nn.Identity()

        def forward(self, x):
            x = self.leaf(x).reshape(2, 6).t()
            y = torch.cat([x, x])
            y.add_(1.0)
            return y

    rows = work(Joins(), torch.zeros(3, 4), context=without_gradients)
    assert rows[OTHER].bytes == 4 * ((12 + 12 + 24) + (24 + 24))
    assert rows["Identity"].bytes == 0


def test_flops_of_transposed_convolutions_and_of_fused_attention_by_hand(without_gradients):
    rows = work(nn.ConvTranspose2d(4, 6, 3, stride=2), torch.zeros(2, 4, 5, 5), context=without_gradients)
    assert rows["ConvTranspose2d 3x3"].flops == 2 * (2 * 4 * 5 * 5) * 6 * 9  # each input pixel meets the whole kernel

    class Scores(nn.Module):
        def forward(self, q, k, v):
            return nn.functional.scaled_dot_product_attention(q, k, v)

    q, k, v = torch.zeros(2, 3, 7, 8), torch.zeros(2, 3, 11, 8), torch.zeros(2, 3, 11, 8)
    assert work(Scores(), q, k, v, context=without_gradients)["Scores"].flops == 2 * (2 * (2 * 3) * 7 * 11 * 8)


def test_flops_of_a_backward_pass_by_hand():
    convolution, x = nn.Conv2d(3, 8, 3, padding=1), torch.zeros(2, 3, 9, 9, requires_grad=True)
    errors = convolution(x).sum()
    with Counter() as counter:
        errors.backward()
    assert counter.total.flops == 2 * 2 * (2 * 8 * 81) * 27  # one product for the weights, one for the input


def test_the_tree_is_in_order_of_calls_and_inclusive_of_what_is_called():
    hands = Hands()
    net = Net(hands)

    def call():
        hands.move(0.5)
        net(torch.zeros(1))

    found = modules(call, net, 4, clock=hands.clock)
    tree = [(row.depth, row.name, row.inclusive_seconds, row.exclusive_seconds) for row in found.rows]
    assert tree == [
        (0, OUTSIDE, pytest.approx(16.5), pytest.approx(0.5)),
        (1, "Net", pytest.approx(16.0), pytest.approx(5.0)),
        (2, "blocks", pytest.approx(11.0), pytest.approx(0.0)),
        (3, "blocks.0", pytest.approx(4.0), pytest.approx(4.0)),
        (3, "blocks.1", pytest.approx(5.0), pytest.approx(3.0)),
        (4, "blocks.1.to_q", pytest.approx(1.0), pytest.approx(1.0)),
        (4, "blocks.1.to_out", pytest.approx(1.0), pytest.approx(1.0)),
        (3, "blocks.2", pytest.approx(2.0), pytest.approx(2.0)),
    ]
    assert found.whole_seconds == pytest.approx(16.5)
    assert found.residual_seconds == pytest.approx(0.0)
    assert found.overhead == pytest.approx(1.0)


def test_time_that_only_the_plain_evaluation_takes_is_the_residual_and_not_hidden_in_a_row():
    hands = Hands()

    class Shy(nn.Module):
        def forward(self, x):
            hands.move(1.0 if self._forward_hooks else 2.0)
            return x

    net = Shy()
    found = modules(lambda: net(torch.zeros(1)), net, 3, clock=hands.clock)
    assert found.whole_seconds == pytest.approx(2.0)
    assert found.residual_seconds == pytest.approx(1.0)
    assert found.overhead == pytest.approx(0.5)


@pytest.mark.alone
def test_rows_of_a_real_network_add_up_to_its_measured_seconds():
    """By this process's own CPU time, on one thread, so that other programs don't count."""
    from hasten.model.folder import unet

    net = unet((3, 32, 32), 4, [32, 64], 1, [1], 16, 8).eval()  # so large that hooks cost next to nothing
    x, time_, label = torch.zeros(16, 3, 32, 32), torch.zeros(16), torch.zeros(16, dtype=torch.long)

    def call():
        with torch.inference_mode():
            net(x, time_, label)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        clock = Clock(read_ns=time.process_time_ns)
        for _ in range(12):  # a neighbour in the same caches can slow one of the two down
            with settled():
                before = [clock.time(call)[0] for _ in range(3)]
                found = modules(call, net, repeats=7, clock=clock)
                after = [clock.time(call)[0] for _ in range(3)]
            rows = found.kinds
            whole, alone = sum(row.exclusive_seconds for row in found.rows), np.median(before + after)
            if whole == pytest.approx(alone, rel=0.05):
                break
    finally:
        torch.set_num_threads(threads)
    assert whole == pytest.approx(alone, rel=0.05)
    assert sum(row.seconds for row in rows) == pytest.approx(whole)
    assert 0.9 < found.overhead < 1.2
    assert 0.5 * whole < sum(row.seconds for row in rows if row.name != OTHER) < whole
    assert {"Conv2d 3x3", "Conv2d 1x1", "GroupNorm", "SiLU", "Linear", "attention"} <= {row.name for row in rows}
