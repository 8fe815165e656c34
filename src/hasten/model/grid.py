"""Samples as one picture."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from hasten.files import replacing


def write_grid(samples: torch.Tensor, path: Path | str, columns: int = 8, zoom: int = 3) -> None:
    """Pictures (n, 1 or 3, h, w) in [-1, 1] as one PNG, row by row, pixels ``zoom`` wide; other shapes aren't drawn."""
    if samples.dim() != 4 or samples.shape[1] not in (1, 3) or not len(samples):
        return
    pictures = ((samples.float().cpu().clamp(-1, 1) + 1) * 127.5).round().byte().expand(-1, 3, -1, -1)
    n, _, h, w = pictures.shape
    columns = min(columns, n)
    rows = -(-n // columns)
    sheet = torch.full((rows * columns, 3, h, w), 255, dtype=torch.uint8)
    sheet[:n] = pictures
    grid = sheet.reshape(rows, columns, 3, h, w).permute(0, 3, 1, 4, 2).reshape(rows * h, columns * w, 3)
    image = Image.fromarray(grid.numpy()).resize((columns * w * zoom, rows * h * zoom), Image.Resampling.NEAREST)
    with replacing(path) as temporary:
        image.save(temporary, format="PNG")
