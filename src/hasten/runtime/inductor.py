"""torch.compile as an engine."""

from __future__ import annotations

import torch


def compiled(module: torch.nn.Module) -> torch.nn.Module:
    """``module`` under inductor with static shapes; compilation happens at the first call of each shape."""
    return torch.compile(module, dynamic=False)  # type: ignore[return-value]
