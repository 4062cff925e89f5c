"""A small class-conditional diffusion model: diffusers' U-Net and schedulers under the house's training loop.

Ho, Jain and Abbeel (2020) with a cosine schedule (Nichol and Dhariwal, 2021) whose end is pure noise and the
velocity as the answer (Salimans and Ho, 2022; Lin et al., 2024). Pictures are drawn by DDIM (Song, Meng and
Ermon, 2021) under classifier-free guidance (Ho and Salimans, 2022).
"""

from __future__ import annotations

from typing import Any

from medspectrum.engine.generating import Parts
from medspectrum.errors import UserError

TIMES = 1000
DRAWN_IN = 25
WITHOUT_CLASS = 0.1
"""Share of the pictures that are learned without their class, for guidance."""


def make(channels: int, side: int, classes: int, guidance: float) -> Parts:
    """The parts of a diffusion model. guidance: 1 draws as learned, more keeps nearer to the class."""
    try:
        from diffusers.models.unets.unet_2d import UNet2DModel
        from diffusers.schedulers.scheduling_ddim import DDIMScheduler
    except ImportError:
        raise UserError('synthesise needs diffusers: pip install "medspectrum[synthesise]"') from None
    import torch
    from torch.nn import functional

    widths = (32, 64, 96) if side <= 32 else (32, 48, 64, 96)
    network = UNet2DModel(
        sample_size=side,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=widths,
        layers_per_block=1,
        down_block_types=(*["DownBlock2D"] * (len(widths) - 1), "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", *["UpBlock2D"] * (len(widths) - 1)),
        norm_num_groups=8,
        attention_head_dim=32,
        num_class_embeds=classes + 1,
    )
    times = DDIMScheduler(
        TIMES,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=True,
    )

    def loss(own: Any, pictures: Any, labels: Any, rng: Any) -> Any:
        noise = torch.randn(pictures.shape, generator=rng)
        when: Any = torch.randint(0, TIMES, (len(pictures),), generator=rng)
        dropped = torch.rand(len(pictures), generator=rng) < WITHOUT_CLASS
        told = torch.where(dropped, torch.full_like(labels, classes), labels)
        noisy = times.add_noise(pictures, noise, when)
        wanted = times.get_velocity(pictures, noise, when)
        return functional.mse_loss(own(noisy, when, class_labels=told).sample.float(), wanted)

    def sample(own: Any, labels: Any, rng: Any) -> Any:
        times.set_timesteps(DRAWN_IN)
        now = torch.randn((len(labels), channels, side, side), generator=rng)
        none = torch.full_like(labels, classes)
        for when in times.timesteps:
            answer = own(now, when, class_labels=labels).sample.float()
            if guidance != 1:
                without = own(now, when, class_labels=none).sample.float()
                answer = without + guidance * (answer - without)
            now = times.step(answer, int(when), now, eta=0.0, return_dict=False)[0]
        return now

    return Parts(network, loss, sample, rate=4e-4)
