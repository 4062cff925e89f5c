"""A U-Net planned from the data's fingerprint, as nnU-Net plans: spacing, patch, depth, kernels.

The rules follow Isensee et al., "nnU-Net: a self-configuring method for deep learning-based biomedical image
segmentation", Nature Methods 18, 2021 (supplementary note 2), with a smaller budget: a patch holds what two
processor cores train on in about a second. The network is MONAI's ``DynUNet``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from medspectrum import transforms
from medspectrum.errors import UserError
from medspectrum.formats.resampled import load_resampled
from medspectrum.image import Image

if TYPE_CHECKING:
    import torch

LEAST_EDGE = 4
MOST_POOLS = 5
MOST_FEATURES = 256
MOST_VOXELS = {2: 256 * 256, 3: 96 * 1024}
ANISOTROPIC = 3.0  # a spacing so many times the finest counts as coarse, and is not averaged away
NOT_POOLED = 2.0  # an axis so many times coarser than the finest is neither pooled nor mixed yet
SAME_SPACING = 0.05
BASE_FEATURES = {2: 32, 3: 16}


@dataclass(frozen=True)
class Design:
    """All that decides the network and its input; JSON values only.

    axes: 2 or 3. spacing: (Z, Y, X) in mm that images are brought to, () to keep them. patch: of the axes.
    strides, kernels: per stage and axis. features: per stage. channels, labels: in and out, background
    included. clip: (low, high, mean, std) for CT, () to standardise each image by itself.
    """

    axes: int
    spacing: tuple[float, ...]
    patch: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    kernels: tuple[tuple[int, ...], ...]
    features: tuple[int, ...]
    channels: int
    labels: int
    clip: tuple[float, ...] = ()

    @classmethod
    def of(cls, settings: dict[str, Any]) -> Design:
        """The design from its JSON values."""

        def tuples(value: Any) -> Any:
            return tuple(tuples(v) for v in value) if isinstance(value, list | tuple) else value

        return cls(**{name: tuples(settings[name]) for name in cls.__dataclass_fields__})

    def settings(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def design(
    images: Sequence[Sequence[Image]],
    masks: Sequence[np.ndarray],
    labels: int,
    *,
    base: int = 0,
    voxels: int = 0,
) -> Design:
    """Plan the network for these cases: each a list of images on one grid, with its mask (Z, Y, X).

    labels: background included. base: features of the first stage, voxels: of a patch at most;
    0 for the usual number of either.
    Raises UserError where pictures and volumes are mixed, or cases differ in their channels.
    """
    first = [own[0] for own in images]
    flat = {image.size[0] == 1 for image in first}
    if len(flat) > 1:
        raise UserError("some cases are pictures and some volumes; explore them apart")
    counts = {sum(image.array.shape[0] for image in own) for own in images}
    if len(counts) > 1:
        raise UserError(f"cases have {' and '.join(map(str, sorted(counts)))} channels; make them alike")
    axes = 2 if flat.pop() else 3
    known = all(image.spacing_known for image in first) and axes == 3
    spacing = _spacing(np.array([image.spacing_mm for image in first])) if known else np.ones(3)
    sizes = np.array([image.size for image in first], float)
    if known:
        sizes = sizes * np.array([image.spacing_mm for image in first]) / spacing
        near = all(np.abs(np.array(i.spacing_mm) / spacing - 1).max() < SAME_SPACING for i in first)
    else:
        near = True
    median = np.maximum(1, np.round(np.median(sizes, axis=0))).astype(int)[-axes:]
    patch, strides, kernels = _topology(median, spacing[-axes:], voxels or MOST_VOXELS[axes])
    begin = base or BASE_FEATURES[axes]
    features = tuple(min(MOST_FEATURES, begin * 2**i) for i in range(len(strides)))
    return Design(
        axes=axes,
        spacing=() if near else tuple(float(s) for s in spacing),
        patch=patch,
        strides=strides,
        kernels=kernels,
        features=features,
        channels=counts.pop(),
        labels=labels,
        clip=_clip(images, masks),
    )


def _spacing(spacings: np.ndarray) -> np.ndarray:
    """The median; of an axis that is much coarser than the others, a low percentile."""
    wanted = np.median(spacings, axis=0)
    coarse = int(wanted.argmax())
    if wanted[coarse] > ANISOTROPIC * np.delete(wanted, coarse).max():
        low = float(np.percentile(spacings[:, coarse], 10))
        wanted[coarse] = max(low, float(np.delete(wanted, coarse).max()))
    return wanted


def _topology(
    size: np.ndarray, spacing: np.ndarray, most: int
) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...], tuple[tuple[int, ...], ...]]:
    """Patch, strides and kernels for images of that size, the patch within ``most`` voxels."""
    patch = size.copy()
    while True:
        strides, kernels = _stages(patch, spacing)
        multiple = np.prod(strides, axis=0)
        rounded = np.maximum(np.ceil(patch / multiple), 1).astype(int) * multiple
        if rounded.prod() <= most or (patch <= multiple).all():
            return tuple(int(n) for n in rounded), strides, kernels
        # the axis that is longest in proportion to the images gives way, by one step of the pooling
        axis = int(np.argmax(np.where(patch > multiple, rounded / size, 0)))
        patch = rounded.copy()
        patch[axis] -= multiple[axis]


def _stages(
    patch: np.ndarray, spacing: np.ndarray
) -> tuple[tuple[tuple[int, ...], ...], tuple[tuple[int, ...], ...]]:
    now, at = patch.astype(float), spacing.astype(float)
    strides = [tuple([1] * len(now))]
    kernels = [tuple(1 if s > NOT_POOLED * at.min() else 3 for s in at)]
    while len(strides) <= MOST_POOLS:
        pooled = (now >= 2 * LEAST_EDGE) & (at <= NOT_POOLED * at[now >= 2 * LEAST_EDGE].min(initial=np.inf))
        if not pooled.any():
            break
        strides.append(tuple(2 if p else 1 for p in pooled))
        now, at = np.where(pooled, np.ceil(now / 2), now), np.where(pooled, at * 2, at)
        kernels.append(tuple(1 if s > NOT_POOLED * at.min() else 3 for s in at))
    while len(strides) < 3:  # the least that the network is made of
        strides.append(tuple([1] * len(now)))
        kernels.append(kernels[-1])
    return tuple(strides), tuple(kernels)


def _clip(images: Sequence[Sequence[Image]], masks: Sequence[np.ndarray]) -> tuple[float, ...]:
    """For CT: the 0.5 and 99.5 percentiles, mean and deviation of what is outlined."""
    if not all(own[0].modality == "CT" and len(own) == 1 for own in images):
        return ()
    rng = np.random.default_rng(0)
    parts = []
    for own, mask in zip(images, masks, strict=True):
        inside = own[0].array[0][mask > 0]
        parts.append(rng.choice(inside, min(len(inside), 20_000), replace=False))
    values = np.concatenate(parts).astype(np.float64)
    if not len(values):
        return ()
    low, high = (float(v) for v in np.percentile(values, (0.5, 99.5)))
    kept = np.clip(values, low, high)
    return low, high, float(kept.mean()), float(max(kept.std(), 1e-6))


def prepare(images: Sequence[Image], plan: Design) -> np.ndarray:
    """(C, Z, Y, X) float32 at the plan's spacing, standardised."""
    parts = []
    for image in images:
        own = _at_spacing(image, plan).array.astype(np.float32)
        if plan.clip:
            low, high, mean, std = plan.clip
            parts.append((np.clip(np.nan_to_num(own, nan=low), low, high) - mean) / std)
            continue
        own = np.nan_to_num(own, nan=0.0, posinf=0.0, neginf=0.0)
        if image.array.dtype != np.uint8:
            low, high = transforms.finite_range(own)
            own = np.clip(own, low, high)
        mean = own.mean(axis=(1, 2, 3), keepdims=True)
        std = own.std(axis=(1, 2, 3), keepdims=True)
        parts.append((own - mean) / np.maximum(std, 1e-6))
    made = np.concatenate(parts)
    if made.shape[0] != plan.channels:
        raise UserError(f"has {made.shape[0]} channels; the network was made for {plan.channels}")
    return made


def prepare_mask(labels: np.ndarray, image: Image, plan: Design) -> np.ndarray:
    """The label map (Z, Y, X) on the grid that ``prepare`` gives."""
    if not plan.spacing:
        return labels
    return _at_spacing(Image(labels[None], image.affine, "", True), plan, nearest=True).array[0]


def _at_spacing(image: Image, plan: Design, *, nearest: bool = False) -> Image:
    if not plan.spacing:
        return image
    if not image.spacing_known:
        raise UserError("tells no voxel size, and the network was made for volumes that do")
    return load_resampled(image, spacing_mm=plan.spacing, orientation=None, nearest=nearest)


def back_on_grid(scores: np.ndarray, image: Image, plan: Design) -> np.ndarray:
    """Scores (K, Z, Y, X) at the plan's spacing -> the label of the highest at each of the image's voxels."""
    import torch
    import torch.nn.functional as F

    made = _at_spacing(Image(image.array[:1], image.affine, "", True), plan)
    # where the image's voxels lie on the resampled grid; both grids have the same axes
    turn = np.linalg.inv(made.affine) @ image.affine
    axes = []
    for axis, (count, there) in enumerate(zip(image.size[::-1], scores.shape[:0:-1], strict=True)):
        places = turn[axis, axis] * np.arange(count) + turn[axis, 3]
        axes.append(2 * places / max(there - 1, 1) - 1)
    x, y = (torch.from_numpy(axes[i].astype(np.float32)) for i in (0, 1))
    found = np.empty(image.size, np.uint8)
    held = torch.from_numpy(scores)[None]
    for number, z in enumerate(axes[2]):
        yy, xx = torch.meshgrid(y, x, indexing="ij")
        grid = torch.stack([xx, yy, torch.full_like(xx, float(z))], dim=-1)[None, None]
        plane = F.grid_sample(held, grid, mode="bilinear", padding_mode="border", align_corners=True)
        found[number] = plane[0, :, 0].argmax(dim=0).to(torch.uint8).numpy()
    return found


def lacking() -> str:
    """'' where the network can be made, else what to install."""
    from importlib.util import find_spec

    return (
        ""
        if find_spec("monai")
        else 'the U-Net is made of MONAI\'s parts: pip install "medspectrum[segment]"'
    )


def network(plan: Design, seed: int, *, deep: bool = True) -> torch.nn.Module:
    """The network with random weights. Raises UserError where MONAI is not installed.

    deep: with the heads that only training asks, and with norms that are quick to train.
    """
    import torch

    if why := lacking():
        raise UserError(why)
    from monai.networks.nets.dynunet import DynUNet

    ups = len(plan.strides) - 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = DynUNet(
            spatial_dims=plan.axes,
            in_channels=plan.channels,
            out_channels=plan.labels,
            kernel_size=plan.kernels,
            strides=plan.strides,
            upsample_kernel_size=plan.strides[1:],
            filters=plan.features,
            norm_name=("INSTANCE", {"affine": True}),
            deep_supervision=deep and ups > 1,
            deep_supr_num=max(1, min(2, ups - 1)),
        )
    if deep:
        _norm_case_by_case(made)
    return made


def _norm_case_by_case(module: torch.nn.Module) -> None:
    """Put batch norms of one case each in the place of instance norms, under the same names.

    The numbers are the same. torch's instance norm brings bf16 in channels-last order to float32 in another
    order and back, which takes a third of a training step; the batch norm works on what is there.
    """
    import torch
    import torch.nn.functional as F

    class CaseNorm(torch.nn.Module):
        def __init__(self, norm: Any) -> None:
            super().__init__()
            self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

        def forward(self, maps: torch.Tensor) -> torch.Tensor:
            if maps[0, 0].numel() == 1:  # a single voxel has no spread: nothing but the shift is left
                return torch.zeros_like(maps) + self.bias.view(-1, *[1] * (maps.ndim - 2)).to(maps.dtype)
            parts = [
                F.batch_norm(one, None, None, self.weight, self.bias, True, 0.0, self.eps)
                for one in maps.split(1)
            ]
            return torch.cat(parts)

    for name, part in module.named_children():
        if isinstance(part, torch.nn.InstanceNorm2d | torch.nn.InstanceNorm3d):
            setattr(module, name, CaseNorm(part))
        else:
            _norm_case_by_case(part)


def without_supervision(trained: torch.nn.Module, plan: Design) -> torch.nn.Module:
    """The trained network without the heads that only training asks: what predicts, and what is kept."""
    import torch

    made = network(plan, 0, deep=False)
    weights = trained.state_dict()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            parameter.copy_(weights[name])
    return made.eval()


def together(members: Sequence[torch.nn.Module]) -> torch.nn.Module:
    """One network that gives the mean of its members' probabilities; a single member is given as it is."""
    import torch

    if len(members) == 1:
        return members[0]

    class Together(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.members = torch.nn.ModuleList(members)

        def forward(self, patches: torch.Tensor) -> torch.Tensor:
            return torch.stack([one(patches).softmax(dim=1) for one in self.members]).mean(dim=0)

    return Together().eval()


def multiply_adds(plan: Design) -> float:
    """About how many multiplications one patch costs forwards: what training time goes with."""
    size = np.array(plan.patch, float)
    total = 0.0
    for index, (stride, kernel, features) in enumerate(
        zip(plan.strides, plan.kernels, plan.features, strict=True)
    ):
        size = size / stride
        before = plan.features[index - 1] if index else plan.channels
        voxels, taps = size.prod(), math.prod(kernel)
        last = index == len(plan.strides) - 1
        # two convolutions down; two more on the way up, the first of which sees the skip beside it
        total += voxels * taps * features * (before + features + (0 if last else 3 * features))
    return total
