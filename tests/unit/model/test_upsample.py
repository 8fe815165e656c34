"""Fused upsampling against diffusers' own, forward and backward, and what is left alone."""

import pytest
import torch
from diffusers import UNet2DModel
from diffusers.models.upsampling import Upsample2D

from hasten.model.upsample import FusedUpsample, folded, fuse_, upsamplers


@pytest.mark.parametrize(("channels", "out", "size"), [(3, 3, (1, 1)), (4, 6, (5, 3)), (8, 2, (4, 8))])
def test_the_same_values_and_gradients(channels: int, out: int, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    theirs = Upsample2D(channels, use_conv=True, out_channels=out).double()
    ours = FusedUpsample(theirs.conv, frozen=False)
    x = torch.randn(2, channels, *size, dtype=torch.float64, requires_grad=True)
    found = []
    for part in (theirs, ours):
        for each in (x, *theirs.parameters()):
            each.grad = None
        made = part(x)
        (made * torch.linspace(0, 1, made.numel(), dtype=torch.float64).reshape(made.shape)).sum().backward()
        found.append([made.detach(), x.grad, theirs.conv.weight.grad, theirs.conv.bias.grad])
    assert all(torch.allclose(a, b, rtol=1e-12, atol=1e-12) for a, b in zip(*found, strict=True))


def test_fewer_multiplications() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    theirs = Upsample2D(16, use_conv=True).eval()
    counts = []
    for part in (theirs, FusedUpsample(theirs.conv, frozen=True)):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            part(torch.randn(1, 16, 8, 8))
        counts.append(counter.get_total_flops())
    assert counts[1] / counts[0] == pytest.approx(4 / 9)


def test_a_network_keeps_its_names_and_its_answers() -> None:
    torch.manual_seed(0)
    options = {"sample_size": 16, "block_out_channels": (16, 32), "norm_num_groups": 8, "layers_per_block": 1}
    kinds = {"down_block_types": ("DownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "UpBlock2D")}
    network = UNet2DModel(**options, **kinds).eval()
    x, time = torch.randn(2, 3, 16, 16), torch.tensor([10.0, 900.0])
    with torch.no_grad():
        before, names = network(x, time).sample, list(network.state_dict())
        assert list(upsamplers(network)) == ["up_blocks.0.upsamplers.0"]
        fuse_(network, frozen=True)
        assert torch.allclose(network(x, time).sample, before, atol=1e-5)
    assert list(network.state_dict()) == names
    assert not upsamplers(network)


def test_what_is_not_plain_upsampling_is_left_alone() -> None:
    others = torch.nn.ModuleList(
        [Upsample2D(4), Upsample2D(4, use_conv_transpose=True), Upsample2D(4, use_conv=True, kernel_size=1, padding=0)]
    )
    assert not upsamplers(others)


def test_a_size_that_is_not_double_is_said() -> None:
    part = FusedUpsample(torch.nn.Conv2d(2, 2, 3, padding=1), frozen=False)
    assert part(torch.zeros(1, 2, 4, 4), (8, 8)).shape == (1, 2, 8, 8)
    with pytest.raises(ValueError, match=r"doubles sizes, to \(8, 8\), not to \(7, 7\)"):
        part(torch.zeros(1, 2, 4, 4), (7, 7))


def test_the_kernel_by_hand() -> None:
    weight = torch.arange(9.0).reshape(1, 1, 3, 3)
    rows = torch.stack(
        [weight[0, 0, 2], weight[0, 0, 1] + weight[0, 0, 2], weight[0, 0, 0] + weight[0, 0, 1], weight[0, 0, 0]]
    )
    wanted = torch.stack([rows[:, 2], rows[:, 1] + rows[:, 2], rows[:, 0] + rows[:, 1], rows[:, 0]], dim=1)
    assert torch.equal(folded(weight)[0, 0], wanted)
