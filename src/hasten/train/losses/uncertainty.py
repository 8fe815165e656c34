"""The uncertainty of the loss by noise level, learnt along with the network and dropped after training.

The loss ``E`` at noise-to-signal ratio ``s`` becomes ``E / exp(u(s)) + u(s)``, whose optimum over ``u`` is the
logarithm of the mean loss there: all levels then pull the network alike.  ``u`` is one linear layer on random Fourier
features of ``log(s) / 4``.  Karras et al. 2024, arXiv:2312.02696, eq. 21 and appendix B.5; Kendall et al. 2018,
arXiv:1705.07115.
"""

from __future__ import annotations

import math

import torch


class Uncertainty(torch.nn.Module):
    """``u(s)``, 0 everywhere at the start.  ``channels``: how many features; their frequencies follow from ``seed``."""

    def __init__(self, channels: int = 128, seed: int = 0) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(seed)
        self.frequencies: torch.Tensor
        self.phases: torch.Tensor
        self.register_buffer("frequencies", 2 * math.pi * torch.randn(channels, generator=rng))
        self.register_buffer("phases", 2 * math.pi * torch.rand(channels, generator=rng))
        self.linear = torch.nn.Linear(channels, 1)
        torch.nn.init.zeros_(self.linear.weight)
        torch.nn.init.zeros_(self.linear.bias)

    def forward(self, s: torch.Tensor) -> torch.Tensor:
        """``u`` (n,) at ``s`` (n,) > 0, float32."""
        places = s.float().log()[:, None] / 4.0
        features = math.sqrt(2.0) * torch.cos(places * self.frequencies + self.phases)
        u: torch.Tensor = self.linear(features).squeeze(1)
        return u

    def loss(self, errors: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        """What to learn from (n,), of the network's ``errors`` (n,) at ``s`` (n,)."""
        u: torch.Tensor = self(s)
        return errors / u.exp() + u
