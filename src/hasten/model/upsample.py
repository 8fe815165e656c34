"""Nearest-neighbour upsampling and the convolution after it as one transposed convolution.

Every value is repeated four times and a 3x3 kernel slides over the copies: the four outputs at a place see 2x2 values
of the input alone, under sums of the kernel's weights.  That is a transposed convolution of stride 2 whose 4x4 kernel
is ``(c, b + c, a + b, a)`` in each direction for ``(a, b, c)``; it multiplies 4/9 as often, and gives the same up to
rounding.  (Sub-pixel convolution: Shi et al. 2016, arXiv:1609.05158 and arXiv:1609.07009.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from diffusers.models.upsampling import Upsample2D


class FusedUpsample(torch.nn.Module):
    """In the place of a :class:`Upsample2D`, whose convolution it has under the same name.

    ``frozen``: the kernel is made once, for a network that is not trained.
    """

    def __init__(self, conv: torch.nn.Conv2d, frozen: bool) -> None:
        super().__init__()
        self.conv = conv
        self.kernel: torch.Tensor | None
        self.register_buffer("kernel", folded(conv.weight.detach()) if frozen else None, persistent=False)

    def forward(self, hidden_states: torch.Tensor, output_size: int | None = None) -> torch.Tensor:
        """(n, c, h, w) to (n, out, 2h, 2w)."""
        kernel = folded(self.conv.weight) if self.kernel is None else self.kernel
        made = torch.nn.functional.conv_transpose2d(hidden_states, kernel, self.conv.bias, stride=2, padding=1)
        if output_size is not None and tuple(made.shape[-2:]) != tuple(output_size):  # type: ignore[arg-type]
            raise ValueError(f"fused upsampling doubles sizes, to {tuple(made.shape[-2:])}, not to {output_size}")
        return made


def folded(weight: torch.Tensor) -> torch.Tensor:
    """The transposed convolution's kernel (in, out, 4, 4) of a convolution's (out, in, 3, 3)."""
    for dim in (2, 3):
        a, b, c = weight.unbind(dim)
        weight = torch.stack([c, b + c, a + b, a], dim)
    return weight.transpose(0, 1)


def upsamplers(module: torch.nn.Module) -> dict[str, Upsample2D]:
    """What can be fused in ``module``, by dotted name."""
    from diffusers.models.upsampling import Upsample2D  # here: importing diffusers takes two seconds

    return {name: part for name, part in module.named_modules() if isinstance(part, Upsample2D) and _plain(part)}


def fuse_(module: torch.nn.Module, *, frozen: bool) -> None:
    """Fuse all that :func:`upsamplers` finds in ``module``, which is changed for good."""
    for name, part in upsamplers(module).items():
        parent, _, last = name.rpartition(".")
        setattr(module.get_submodule(parent), last, FusedUpsample(part.conv, frozen))


def _plain(part: Upsample2D) -> bool:
    """Whether it repeats values and then convolves 3x3 over them, no more."""
    conv = getattr(part, "conv", None)
    return (
        isinstance(conv, torch.nn.Conv2d)
        and part.interpolate
        and part.norm is None
        and (conv.kernel_size, conv.stride, conv.padding) == ((3, 3), (1, 1), (1, 1))
        and (conv.dilation, conv.groups, conv.padding_mode) == ((1, 1), 1, "zeros")
    )
