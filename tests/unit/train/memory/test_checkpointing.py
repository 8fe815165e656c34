"""Gradient checkpointing: the same gradients, the FLOPs of what runs twice, and what a planner says of both."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hasten.errors import BadInput
from hasten.measure.allocations import Tracker
from hasten.measure.work import Counter
from hasten.model.folder import unet
from hasten.train.memory import checkpointing, recompute
from hasten.train.weights import precision


def network(dropout: float = 0.0) -> torch.nn.Module:
    torch.manual_seed(0)
    made = unet((3, 16, 16), 4, [8, 16], 1, [1], 8, 4)
    for part in made.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = dropout
    return made


class Transformer(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(
            torch.nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True) for _ in range(3)
        )
        self.out = torch.nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.out(x)


X = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
T, LABELS = torch.tensor([1.0, 100.0, 500.0, 900.0]), torch.tensor([0, 1, 2, 3])


def loss(module: torch.nn.Module) -> torch.Tensor:
    torch.manual_seed(2)
    return module(X, T, class_labels=LABELS).sample.square().mean()


def test_blocks_of_a_unet() -> None:
    names = list(checkpointing.blocks(network()))
    assert "down_blocks.1.attentions.0" in names
    assert "up_blocks.1.resnets.1" in names
    assert "mid_block.resnets.0" in names
    assert not [a for a in names for b in names if a.startswith(f"{b}.")]


def test_blocks_of_other_modules() -> None:
    assert list(checkpointing.blocks(Transformer())) == ["layers.0", "layers.1", "layers.2"]
    pair = torch.nn.Sequential(torch.nn.Conv3d(1, 2, 3), torch.nn.Conv3d(2, 1, 3))
    assert list(checkpointing.blocks(torch.nn.Sequential(pair, torch.nn.ReLU(), torch.nn.Sequential(*pair)))) == [
        "0",
        "2",
    ]
    assert checkpointing.blocks(torch.nn.Linear(2, 2)) == {}


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_gradients_are_those_without(dropout: float, every: int, dtype: str) -> None:
    plain, again = network(dropout), network(dropout)
    checkpointing.checkpoint_(again, list(checkpointing.blocks(again))[::every])
    with precision.autocast(dtype, torch.device("cpu")):
        a, b = loss(plain), loss(again)
    assert torch.equal(a, b)
    a.backward()
    b.backward()
    for (name, ours), theirs in zip(again.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-7, msg=name)


def test_attention_on_a_cpu_is_in_float32_when_it_runs_again_too() -> None:
    seen: list[tuple[str, torch.dtype]] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if "attention" in str(func):
                seen.append((str(func), args[0].dtype))
            return func(*args, **(kwargs or {}))

    made = network()
    checkpointing.checkpoint_(made, checkpointing.blocks(made))
    with Watch():
        with precision.autocast("bfloat16", torch.device("cpu")):
            value = loss(made)
        value.backward()
    forward = [name for name, _ in seen if "backward" not in name]
    assert len(forward) == 2 * (len(seen) - len(forward)) > 0
    assert {dtype for _, dtype in seen} == {torch.float32}


def test_a_transformer_s_too_with_its_dropout() -> None:
    torch.manual_seed(0)
    plain = Transformer()
    torch.manual_seed(0)
    again = Transformer()
    checkpointing.checkpoint_(again, checkpointing.blocks(again))
    x = torch.randn(2, 5, 16)
    for module in (plain, again):
        torch.manual_seed(3)
        module(x).square().mean().backward()
    for ours, theirs in zip(again.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def flops(run) -> float:
    with Counter() as counter:
        run()
    return counter.total.flops


def test_the_flops_are_those_of_the_blocks_that_run_twice() -> None:
    """Forward and backward, and the forward of what is recomputed, up to the last tensor that is wanted again."""
    names = ["down_blocks.0.resnets.0", "mid_block.resnets.0"]
    plain, again = network(), network()
    checkpointing.checkpoint_(again, names)
    inside: list[float] = []
    for name in names:
        block = plain.get_submodule(name)
        forward = block.forward

        def counted(*args, forward=forward, block=block):
            with Counter() as counter:
                result = forward(*args)
            inside.append(counter.total.flops)
            return result

        block.forward = counted
        loss(plain)
        block.forward = forward
    extra = flops(lambda: loss(again).backward()) - flops(lambda: loss(plain).backward())
    # a block's last convolution is not run again: nothing of what it returns is kept for the backward pass
    last = 0.0
    for name, x in zip(names, (torch.zeros(4, 8, 16, 16), torch.zeros(4, 16, 8, 8)), strict=True):
        with Counter() as counter:
            plain.get_submodule(name).conv2(x)
        last += counter.total.flops
    assert extra == sum(inside) - last > 0


def test_evaluation_runs_once() -> None:
    again = network()
    checkpointing.checkpoint_(again, checkpointing.blocks(again))
    with torch.no_grad():
        assert flops(lambda: loss(again)) == flops(lambda: loss(network()))


def test_unknown_and_nested_blocks() -> None:
    with pytest.raises(BadInput, match=r"no block 'down_blocks.0.resnet.0'; did you mean 'down_blocks.0.resnets.0'"):
        checkpointing.checkpoint_(network(), ["down_blocks.0.resnet.0"])
    with pytest.raises(BadInput, match=r"down_blocks.0.resnets.0 lies in down_blocks.0; name one"):
        checkpointing.checkpoint_(network(), ["down_blocks.0", "down_blocks.0.resnets.0"])


def tracked(module: torch.nn.Module) -> int:
    tracker = Tracker(None, {"weights": list(module.parameters())})
    with tracker.following():
        loss(module).backward()
    return tracker.found().peak_bytes


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_peak_is_as_predicted(share: float) -> None:
    """Live tensors, followed one by one, within 10 % of what the planner says."""
    module = network()
    costs = recompute.measure(module, lambda: loss(module))
    assert all(parameter.grad is None for parameter in module.parameters())
    names = list(checkpointing.blocks(module))
    names = names[: round(share * len(names))]
    weights = sum(parameter.nbytes for parameter in module.parameters())
    again = network()
    checkpointing.checkpoint_(again, names)
    assert recompute.peak_bytes(costs, names, weights) == pytest.approx(tracked(again), rel=0.1)


def costs(*rows: tuple[int, float]) -> recompute.Costs:
    blocks = tuple(recompute.BlockCost(f"b{n}", saved, n, seconds) for n, (saved, seconds) in enumerate(rows))
    return recompute.Costs(blocks, 10, 0, 5, 1.0)


def cheapest(found: recompute.Costs, kept: int, budget: int) -> float | None:
    """By trying every set."""
    names = [block.name for block in found.blocks]
    best = None
    for bits in range(2 ** len(names)):
        chosen = {name for n, name in enumerate(names) if bits >> n & 1}
        if recompute.peak_bytes(found, chosen, kept) <= budget:
            seconds = sum(block.forward_seconds for block in found.blocks if block.name in chosen)
            best = seconds if best is None else min(best, seconds)
    return best


def test_the_choice_is_the_cheapest_that_fits_but_for_rounding() -> None:
    """Against all sets of 8 blocks, for 40 networks drawn by chance and budgets from tight to loose."""
    rng = torch.Generator().manual_seed(0)
    exact = 0
    for _ in range(40):
        rows = torch.rand(8, 2, generator=rng)
        found = costs(*((int(100 * a) + 1, float(b)) for a, b in rows))
        whole = recompute.peak_bytes(found, (), 100)
        for share in (0.95, 0.8, 0.7):
            best = cheapest(found, 100, int(share * whole))
            if best is None:
                continue
            chosen = recompute.choose(found, 100, int(share * whole))
            assert recompute.peak_bytes(found, chosen.names, 100) == chosen.peak_bytes <= int(share * whole)
            assert chosen.extra_seconds <= best * 1.1
            exact += chosen.extra_seconds <= best + 1e-9
    assert exact > 100


def test_nothing_is_recomputed_where_all_fits_and_what_can_t_fit_is_said() -> None:
    found = costs((100, 1.0), (50, 1.0))
    assert recompute.choose(found, 0, 1000).names == ()
    with pytest.raises(BadInput, match=r"a step takes \S+ \S+ at least, with every block recomputed; raise train.mem"):
        recompute.choose(found, 0, 20)


class Counted(torch.nn.Module):
    """BatchNorm, and a buffer of its own that is read, changed in place, and another that is replaced."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = torch.nn.Linear(8, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 8)
        self.register_buffer("scale", torch.ones(8))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.b(self.norm(self.a(x)) * self.scale.clone())
        self.scale.mul_(0.5)
        self.calls = self.calls + 1
        return x


def test_buffers_change_once_whatever_runs_again() -> None:
    made = []
    for again in (False, True):
        torch.manual_seed(0)
        module = torch.nn.Sequential(Counted(), Counted())
        if again:
            checkpointing.checkpoint_(module, ["0", "1"])
        for step in range(10):
            x = torch.randn(4, 8, generator=torch.Generator().manual_seed(step), requires_grad=True)
            module(x).square().mean().backward()
        made.append(module)
    plain, repeated = made
    assert repeated[0].norm.num_batches_tracked == 10
    for (name, ours), theirs in zip(repeated.named_buffers(), plain.buffers(), strict=True):
        assert torch.equal(ours, theirs), name
    for (name, ours), theirs in zip(repeated.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=name)
