"""The feature map is a fixed function of the sample, found in any network; bands tell frequencies apart."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel

from hasten.diffusion import schedule, solvers, times
from hasten.measure.features import FEATURE_BATCH, bands, network_features
from hasten.model.source import call_module, call_unet
from hasten.model.target import Call, Facts, Network, Target, TorchNetwork

COSINE = schedule.cosine(1000)


def target_of(
    module: torch.nn.Module,
    shape: tuple[int, ...],
    call: Call = call_module,
    num_labels: int | None = None,
    null_label: int | None = None,
    guidance: float = 1.0,
) -> Target:
    facts = Facts(shape, 0, 0, "cpu", num_labels, null_label, ())
    table = solvers.SOLVERS["ddim"](COSINE, times.GRIDS["uniform"](COSINE, 4))
    return Target(facts, TorchNetwork(module.eval(), call), COSINE, "v_prediction", table, guidance=guidance)


def unet(guidance: float = 1.0) -> Target:
    torch.manual_seed(0)
    module = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=8,
        num_class_embeds=4,
    )
    return target_of(module, (1, 8, 8), call_unet, 4, 3, guidance)


class Conv(torch.nn.Module):
    """A U-Net in miniature, with a time embedding that runs between the encoder and the bottleneck."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Conv1d(2, 4, 3, padding=1)
        self.down = torch.nn.Conv1d(4, 6, 4, stride=4)
        self.embed = torch.nn.Linear(1, 6)
        self.bottleneck = torch.nn.Conv1d(6, 7, 1)
        self.up = torch.nn.Conv1d(7, 4, 1)
        self.out = torch.nn.Conv1d(4, 2, 3, padding=1)

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        wide = self.inner(x)
        deep = self.up(self.bottleneck(self.down(wide) + self.embed(time[:, None] / 1000)[:, :, None]))
        return self.out(wide + deep.repeat_interleave(4, 2))


class Tokens(torch.nn.Module):
    """Linear layers alone: channels come last."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Linear(1, 12)
        self.layers = torch.nn.ModuleList(torch.nn.Linear(3, 3) for _ in range(5))

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        self.embed(time[:, None])
        for layer in self.layers:
            x = x + torch.tanh(layer(x))
        return x


class Bare(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        return x * self.scale


@pytest.mark.parametrize(
    ("make", "name", "width"),
    [
        (unet, "mid_block at s = 0.01", 2 * 16),
        (lambda: target_of(Conv(), (2, 16)), "bottleneck at s = 0.01", 2 * 7),
        (lambda: target_of(Tokens(), (10, 3)), "layers.2 at s = 0.01", 2 * 3),
        (lambda: target_of(Tokens(), (3,)), "layers.2 at s = 0.01", 3),
        (lambda: target_of(Bare(), (2, 5)), "raw samples", 10),
    ],
)
def test_the_middle_of_any_network_is_found(make: Callable[[], Target], name: str, width: int) -> None:
    target = make()
    features = network_features(target)
    values = features.extract(torch.randn((3, *target.facts.shape)))
    assert features.name == name
    assert values.shape == (3, width)
    assert np.all(np.ptp(values, axis=0) > 0)


def test_an_engine_that_is_no_torch_module_gets_raw_samples() -> None:
    target = unet()
    network: Network = target.network
    target.network = lambda x, time, labels: network(x, time, labels)
    assert network_features(target).name == "raw samples"


def test_features_are_a_fixed_function_of_the_sample() -> None:
    target = unet()
    samples = torch.randn((FEATURE_BATCH + 3, 1, 8, 8))
    features = network_features(target)
    values = features.extract(samples)
    np.testing.assert_array_equal(values, network_features(target).extract(samples))
    np.testing.assert_allclose(values[-3:], features.extract(samples[-3:]), rtol=1e-4, atol=1e-6)
    order = torch.randperm(len(samples))
    np.testing.assert_allclose(values[order], features.extract(samples[order]), rtol=1e-4, atol=1e-6)


def test_features_are_those_of_the_layer_at_that_noise_level() -> None:
    target = unet()
    samples = torch.randn((2, 1, 8, 8))
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    module = target.module
    assert module is not None
    module.mid_block.register_forward_hook(lambda layer, inputs, output: seen.append((inputs[0], output)))
    values = network_features(target, s=0.2).extract(samples)
    assert len(seen) == 1
    output = seen[0][1].flatten(2)
    np.testing.assert_allclose(values, torch.cat([output.mean(2), output.std(2)], 1).numpy(), rtol=1e-6)
    assert not np.allclose(values, network_features(target, s=0.4).extract(samples))


def test_no_class_is_the_label_and_guidance_is_off() -> None:
    labels: list[torch.Tensor] = []
    target = unet(guidance=3.0)

    def call(module: torch.nn.Module, x: torch.Tensor, time: torch.Tensor, given: torch.Tensor | None) -> torch.Tensor:
        assert given is not None
        labels.append(given)
        return call_unet(module, x, time, given)

    assert target.module is not None
    target.network = TorchNetwork(target.module, call)
    network_features(target).extract(torch.randn((5, 1, 8, 8)))
    assert [given.tolist() for given in labels] == [[3] * 5]


def test_the_network_is_left_as_it_was() -> None:
    target = unet()
    module = target.module
    assert module is not None
    x, time, label = torch.randn((1, 1, 8, 8)), torch.tensor([10.0]), torch.tensor([0])
    before = target.network(x, time, label)
    network_features(target).extract(torch.randn((5, 1, 8, 8)))
    assert not any(layer._forward_hooks for layer in module.modules())
    torch.testing.assert_close(target.network(x, time, label), before, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        ((7,), [7]),
        ((3, 4), [12]),
        ((3, 32, 32), [3 * 32 * 32, 3 * 16 * 16, 3 * 8 * 8, 3 * 4 * 4]),
        ((1, 100), [100, 50, 24, 12]),
        ((2, 9, 8), [2 * 8 * 8, 2 * 4 * 4]),
        ((1, 8, 8, 8), [8**3, 4**3]),
        ((1, 1, 64), [64, 32, 16, 8]),
    ],
)
def test_bands_of_any_shape(shape: tuple[int, ...], sizes: list[int]) -> None:
    assert [band.shape for band in bands(torch.randn((2, *shape)))] == [(2, size) for size in sizes]


def test_bands_add_up_to_the_sample() -> None:
    samples = torch.randn((2, 3, 16, 16))
    total = torch.zeros_like(samples)
    for band in bands(samples):
        size = int((band.shape[1] / 3) ** 0.5)
        part = torch.from_numpy(band).reshape(2, 3, size, size)
        total += part.repeat_interleave(16 // size, 2).repeat_interleave(16 // size, 3)
    torch.testing.assert_close(total, samples)


def test_a_band_holds_its_own_frequencies_alone() -> None:
    checkers = torch.ones((1, 1, 16, 16))
    checkers[..., ::2] = -1.0
    flat = torch.full((1, 1, 16, 16), 0.7)
    strengths = [[float(np.abs(band).max()) for band in bands(x)] for x in (checkers, flat)]
    np.testing.assert_allclose(strengths, [[1, 0, 0], [0, 0, 0.7]], atol=1e-6)
