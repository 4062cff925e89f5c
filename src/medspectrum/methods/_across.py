"""What looks across slices inside a network of planes: adapters with convolutions in depth."""

from __future__ import annotations

from typing import Any


def slice_adapter(width: int, middle: int, slices: int) -> Any:
    """MA-SAM's adapter (Chen et al. 2023, arXiv:2309.08842): norm, down, a convolution across slices, up.

    Takes and gives (n * slices, height, width, channels); adds nothing at first.
    """
    import torch
    from torch import nn

    class SliceAdapter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(width, eps=1e-6)
            self.linear_down = nn.Linear(width, middle, bias=False)
            self.conv = nn.Conv3d(middle, middle, (3, 1, 1), padding=(1, 0, 0))
            self.linear_up = nn.Linear(middle, width, bias=False)
            nn.init.zeros_(self.linear_up.weight)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen = in_depth(self.linear_down(self.norm(x)), slices)
            return x + self.linear_up(nn.functional.gelu(out_of_depth(self.conv(seen))))

    return SliceAdapter()


def volume_adapter(width: int, middle: int, slices: int) -> Any:
    """3DSAM-adapter's (Gong et al. 2023, arXiv:2306.13465): down, a depth-wise convolution in 3-D, up.

    Takes and gives (n * slices, height, width, channels). The last rectifier would be dead at zero, so it
    adds next to nothing at first.
    """
    import torch
    from torch import nn

    class VolumeAdapter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear1 = nn.Linear(width, middle)
            self.conv = nn.Conv3d(middle, middle, 3, padding=1, groups=middle)
            self.linear2 = nn.Linear(middle, width)
            nn.init.zeros_(self.linear2.weight)
            nn.init.constant_(self.linear2.bias, 1e-3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            relu = nn.functional.relu
            seen = in_depth(relu(self.linear1(x)), slices)
            return x + relu(self.linear2(relu(out_of_depth(self.conv(seen)))))

    return VolumeAdapter()


def in_depth(x: Any, slices: int) -> Any:
    """(n * slices, height, width, c) as (n, c, slices, height, width)."""
    return x.reshape(-1, slices, *x.shape[1:]).permute(0, 4, 1, 2, 3)


def out_of_depth(x: Any) -> Any:
    """(n, c, slices, height, width) as (n * slices, height, width, c)."""
    return x.permute(0, 2, 3, 4, 1).flatten(0, 1)
