"""Made cases and two small models to try methods on: a random projection, and a tiny real network."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

import numpy as np

from medspectrum.card import Card
from medspectrum.case import Case, ClassTarget, Features, LazyImage
from medspectrum.image import Image

SIDE = 16


def read(kind: int, seed: int) -> Image:
    """A picture whose class is where it is bright."""
    rng = np.random.default_rng([kind, seed])
    pixels = rng.normal(100, 25, (1, 1, SIDE, SIDE))
    place = (kind * 5) % SIDE
    pixels[..., place : place + 4, :] += 60
    return Image(np.clip(pixels, 0, 255).astype(np.uint8), modality="CR")


def key(kind: int, seed: int) -> str:
    return f"{kind:08x}{seed:08x}"


def image(kind: int, seed: int) -> LazyImage:
    return LazyImage(
        f"made/{kind}/{seed}.png", functools.partial(read, kind, seed), functools.partial(key, kind, seed)
    )


def cases_of(
    numbers: dict[str, int],
    *,
    order: list[str] | None = None,
    first: int = 0,
    each: int = 1,
    roles=("image",),
) -> list[Case]:
    """So many cases of each class; ``each`` cases stand by one patient; ids go on from ``first``."""
    order = order or sorted(numbers)
    found = []
    for label, number in numbers.items():
        for i in range(number):
            seed = first + i
            found.append(
                Case(
                    id=f"{label}-{seed}",
                    patient=f"{label}-p{seed // each}",
                    images={role: image(order.index(label), 1000 * r + seed) for r, role in enumerate(roles)},
                    target=ClassTarget(label),
                )
            )
    return found


@dataclass(frozen=True)
class Projection:
    """A model whose features are random projections of the pixels; numpy alone."""

    width: int = 24
    seed: int = 0
    constant: bool = False
    card: Card = field(init=False)

    def __post_init__(self):
        card = Card(
            name="projection", level="control", modality="any", organ="any", dims=2, tasks=("classify",),
            licence="Apache-2.0", commercial_use=True, source="made here", status="conforms",
            parameters=SIDE * SIDE * self.width, width=self.width, input_size=(SIDE,),
        )  # fmt: skip
        object.__setattr__(self, "card", card)

    @property
    def key(self) -> str:
        return f"projection-{self.width}-{self.seed}"

    def embed(self, images, level="pooled") -> Features:
        if self.constant:
            return Features(np.ones((len(images), self.width), dtype=np.float32))
        weights = np.random.default_rng(self.seed).normal(size=(SIDE * SIDE, self.width))
        flat = np.stack([im.load().array.reshape(-1) for im in images]).astype(np.float64)
        return Features((np.maximum(flat @ weights, 0) / 255).astype(np.float32))
