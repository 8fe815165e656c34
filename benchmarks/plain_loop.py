"""The training loop of diffusers' unconditional example, in our words: what hasten's is measured against.

As in examples/unconditional_image_generation/train_unconditional.py, without accelerate on one device: a
``UNet2DModel``, epsilon by mean square error on a ``DDPMScheduler`` (linear, 1000), AdamW (0.95, 0.999, decay 1e-6) at
1e-4 under a cosine with 500 steps of warm-up, gradients clipped to norm 1, ``EMAModel`` with warm-up, batches from a
shuffled ``DataLoader``.  ``bfloat16``: its mixed precision option.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from diffusers import DDPMScheduler, UNet2DModel
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel


class PlainLoop:
    """``step()`` trains on the next batch of ``pictures`` (n, c, h, w) float32 in [-1, 1], ``labels`` (n,) or None."""

    def __init__(
        self,
        network: UNet2DModel,
        pictures: torch.Tensor,
        labels: torch.Tensor | None,
        batch_size: int,
        steps: int,
        *,
        learning_rate: float = 1e-4,
        bfloat16: bool = False,
        seed: int = 0,
    ) -> None:
        self.network, self.bfloat16, self.labelled = network.train(), bfloat16, labels is not None
        self.scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear", prediction_type="epsilon")
        self.average = EMAModel(network.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
        self.optimizer = torch.optim.AdamW(
            network.parameters(), lr=learning_rate, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8
        )
        self.rate = get_scheduler("cosine", self.optimizer, num_warmup_steps=500, num_training_steps=steps)
        tensors = (pictures,) if labels is None else (pictures, labels)
        rng = torch.Generator().manual_seed(seed)
        self.loader = torch.utils.data.DataLoader(
            torch.utils.data.TensorDataset(*tensors), batch_size, shuffle=True, drop_last=True, generator=rng
        )
        self.batches = self._forever()

    def _forever(self) -> Iterator[list[torch.Tensor]]:
        while True:
            yield from self.loader

    def step(self) -> float:
        """One step; its loss."""
        clean, *labels = next(self.batches)
        noise = torch.randn(clean.shape)
        timesteps = torch.randint(0, 1000, (len(clean),))
        noisy = self.scheduler.add_noise(clean, noise, timesteps)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
            output = self.network(noisy, timesteps, class_labels=labels[0] if labels else None).sample
            loss = torch.nn.functional.mse_loss(output.float(), noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.rate.step()
        self.optimizer.zero_grad()
        self.average.step(self.network.parameters())
        return loss.item()
