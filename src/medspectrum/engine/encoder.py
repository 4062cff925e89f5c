"""The encoder: a network with its card, its preprocessing and its cache, asked for features."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from medspectrum import transforms
from medspectrum.card import Card
from medspectrum.case import Features, LazyImage, LeftOut
from medspectrum.engine import eager, embed, openvino
from medspectrum.engine.readout import LEVELS, TOGETHER, level_module
from medspectrum.errors import UnreadableFile, UserError
from medspectrum.feature_store import FeatureStore, Together
from medspectrum.image import Image
from medspectrum.store import cache_folder, digest, read_json, write_json

Build = Callable[..., Any]
"""(size: tuple[int, ...], cache: Path, seed: int | None) -> torch.nn.Module, eval mode, fp32.

seed None asks for the real weights; a number for random ones drawn with it.
"""


Outlining = Callable[[np.ndarray, np.ndarray], "list[tuple[np.ndarray, float]]"]
"""(picture (3, height, width) uint8, boxes (n, 4) x0, y0, x1, y1) -> of each its mask and how sure it is."""


@dataclass(frozen=True)
class Encoder:
    """A model that gives features; the one implementation of ``case.Model`` for networks.

    card: what it is. build: makes the network (see ``Build``). identity: digest of weights and
    network code. size: input, (side,) for 2-D or (Z, Y, X). seed: None, or the seed of random
    weights. own_input: for 3-D families, (image, size) -> (1, Z, Y, X). lacking: '' or the
    sentence that says what to install. threads: 0 means every processor; results do not depend on it.
    levels: the levels it serves. segment: for models that outline, image -> (Z, Y, X) bool.
    rows: where features lie that are not worth keeping in the cache. outline: for models that outline what is
    in boxes. whole: for those, input size -> their network with prompt encoder
    and mask decoder, a fresh copy.
    """

    card: Card
    build: Build
    identity: str
    size: tuple[int, ...]
    cache: Path | None = None
    seed: int | None = None
    own_input: Callable[[Image, tuple[int, ...]], np.ndarray] | None = None
    lacking: Callable[[], str] | None = None
    most_slices: int = transforms.MOST_SLICES
    threads: int = 0
    levels: tuple[str, ...] = LEVELS
    segment: Callable[[Image], np.ndarray] | None = None
    rows: Path | None = None
    outline: Outlining | None = None
    whole: Callable[[tuple[int, ...]], Any] | None = None

    @property
    def key(self) -> str:
        """Digest of weights, network and preprocessing: equal keys give equal features."""
        return digest(
            "encoder",
            transforms.VERSION,
            self.identity,
            self.seed,
            list(self.size),
            list(self.card.mean),
            list(self.card.std),
            self.most_slices,
        )

    @property
    def folder(self) -> Path:
        """The cache that this encoder reads and writes."""
        return cache_folder(self.cache)

    def network(self) -> Any:
        """A fresh copy with its weights: eval mode, fp32; ``network()(batch)`` gives (n, width).

        Raises UserError with what to install where the weights are not on this machine.
        """
        if self.seed is None and self.lacking is not None and (sentence := self.lacking()):
            raise UserError(sentence)
        return self.build(self.size, self.folder, self.seed).eval()

    def prepare(self, image: Image) -> np.ndarray:
        """The network's input: (C, H, W) for a picture, (S, C, H, W) slices, (1, Z, Y, X) in 3-D."""
        if self.own_input is not None:
            return self.own_input(image, self.size)
        return transforms.flat_input(
            image,
            side=self.size[0],
            mean=self.card.mean,
            std=self.card.std,
            most_slices=self.most_slices,
        )

    def with_size(self, pixels: int) -> Encoder:
        """The same encoder for another input side, rounded to the stride; 3-D keeps its proportions."""
        stride = self.card.stride
        if pixels < stride:
            raise UserError(f"{self.card.name} needs sides of at least {stride} pixels; got {pixels}")
        if self.card.dims == 2:
            return replace(self, size=(int(pixels / stride + 0.5) * stride,))
        whole = self.card.input_size
        sides = (max(1, int(s * pixels / whole[-1] / stride + 0.5)) * stride for s in whole)
        return replace(self, size=tuple(sides))

    def for_images(
        self,
        images: Sequence[LazyImage],
        *,
        looked_at: int = 32,
        magnify: float = 4.0,
        largest: int | None = None,
    ) -> Encoder:
        """The same encoder at the input side worth computing for these images (``input_side``).

        The median longer side of at most 32 evenly chosen readable images decides. A 3-D encoder, or
        a set of which none can be read, keeps its size. largest: the largest side; the card's own where None.
        """
        if self.card.dims != 2 or not images:
            return self
        sides = []
        for place in np.unique(np.linspace(0, len(images) - 1, looked_at).astype(int)):
            try:
                image = images[place].load()
            except (UserError, OSError, ValueError):
                continue
            axis = transforms.through_plane_axis(image) if image.is_volume else 1
            sides.append(max(n for i, n in enumerate(image.array.shape[1:], start=1) if i != axis))
        if not sides:
            return self
        side = transforms.input_side(
            float(np.median(sides)),
            stride=self.card.stride,
            largest=largest or self.card.input_size[-1],
            magnify=magnify,
        )
        return self.with_size(side)

    def twin(self, seed: int = 0) -> Encoder:
        """The control: the same network with random weights, which needs no files."""
        if not self.levels:
            raise UserError(f"{self.card.name} serves no features, so it has no control with random weights")
        card = replace(
            self.card,
            name=f"{self.card.name.removesuffix('-random')}-random",
            level="control",
            licence="Apache-2.0",
            commercial_use=True,
            source="drawn at random, seeded",
            checksum="",
            extra="",
        )
        return replace(self, card=card, seed=seed, identity=digest("random", card.name, seed), lacking=None)

    def ensure(
        self,
        images: Sequence[LazyImage],
        progress: embed.Progress | None = None,
        *,
        level: str = "pooled",
    ) -> list[LeftOut]:
        """Compute and keep the features not yet in the cache; returns the images it had to leave out.

        Levels joined by ``+`` (``pooled+maps``) come from one pass of the network where that gives the same
        bits; else (it rounds to bf16 elsewhere when more is read off it) from one pass each.
        """
        levels = level.split(TOGETHER)
        for one in levels:
            self._check(one)
        if self.passes(level) > 1:
            left = [lost for one in levels for lost in self.ensure(images, progress, level=one)]
            return list({lost.source: lost for lost in left}.values())
        return embed.fill(
            self._rows(levels),
            images,
            prepare=self.prepare,
            runner=lambda: self._runner(level),
            slices=self.card.dims == 2,
            workers=self._streams(),
            progress=progress,
        )

    def embed(self, images: Sequence[LazyImage], level: str = "pooled") -> Features:
        """Features of the images, in their order; computed first where the cache lacks them.

        Raises UnreadableFile for the first image that cannot be read.
        """
        left = self.ensure(images, level=level)
        if left:
            raise UnreadableFile(left[0].source, left[0].reason)
        store = self._store(level)
        rows = store.gather([image.key() for image in images])
        if level == "pooled":
            return Features(pooled=rows)
        parts = _unfolded(rows, store.shapes or ())
        none = np.empty((len(rows), 0), np.float32)
        return Features(none, parts[0]) if level == "tokens" else Features(none, maps=tuple(parts))

    def missing(self, images: Sequence[LazyImage], *, level: str = "pooled") -> int:
        """How many of the images have no features in the cache yet."""
        return len(self._rows(level.split(TOGETHER)).missing([image.key() for image in images]))

    def passes(self, level: str) -> int:
        """How often the network is run for these levels: once where that gives the bits of a pass each."""
        levels = level.split(TOGETHER)
        return 1 if len(levels) == 1 or self._same_bits(level) else len(levels)

    def seconds_per_image(self, level: str = "pooled") -> tuple[float, float]:
        """Measured (wall, CPU) seconds of embedding one image, reading and preparing included.

        Averaged over all that the cache holds; where it holds nothing, three made images are timed.
        """
        if TOGETHER in level:
            parts = [self.seconds_per_image(one) for one in level.split(TOGETHER)]
            fold = max if self.passes(level) == 1 else sum
            return fold(wall for wall, _ in parts), fold(cpu for _, cpu in parts)
        if level not in self.levels:
            return 0.0, 0.0
        kept = self._store(level).seconds_per_row()
        if kept is not None:
            return kept
        runner = self._runner(level)
        shape = self._shape()[1:]
        rng = np.random.default_rng(0)
        jobs = [(i, rng.standard_normal(shape).astype(np.float32)) for i in range(3)]
        runner.run(jobs[:1], lambda *_: None)
        wall, cpu = time.perf_counter(), time.process_time()
        runner.run(jobs, lambda *_: None)
        return (time.perf_counter() - wall) / 3, (time.process_time() - cpu) / 3

    def _check(self, level: str) -> None:
        if level not in LEVELS:
            raise UserError(f"there is no level {level!r} of features; there are {', '.join(LEVELS)}")
        if level not in self.levels:
            raise UserError(
                f"{self.card.name} serves no {level} features; it is for {', '.join(self.card.tasks)}"
            )

    def _shape(self) -> tuple[int, ...]:
        if self.card.dims == 3:
            return (1, 1, *self.size)
        return (1, len(self.card.mean), self.size[0], self.size[0])

    def _converted(self, level: str) -> tuple[Path, str]:
        """Where the converted network lies, and its arithmetic; converted now if it never was.

        ``torch-f32`` where OpenVINO cannot convert it, or gives other features than torch does.
        """
        folder = self.folder / "networks" / f"{self.key}-{level}"
        refusal = folder.with_name(f"{folder.name}.refused.json")
        if not folder.exists() and not refusal.exists():
            module = level_module(self.network(), level)
            try:
                openvino.convert(module, self._shape(), folder)
                self._compare(module, folder)
            except Exception as problem:  # noqa: BLE001 - converters raise anything; torch takes over
                write_json(refusal, {"reason": str(problem)[:2000]})
        if refusal.exists():
            return folder, "torch-f32"
        return folder, f"openvino-{openvino.precision_for(folder)}"

    def _compare(self, module: Any, folder: Path) -> None:
        """Raise ValueError where the converted network disagrees with torch on one made picture."""
        made = np.random.default_rng(0).standard_normal(self._shape()[1:]).astype(np.float32)
        network = openvino.compiled(folder, "f32", self._streams())
        if self.card.dims == 3:
            return  # a whole volume by eager torch costs minutes; the tests compare a small one
        rows: list[np.ndarray] = []
        for runner in (eager.Eager(module, streams=1), network):
            runner.run([(0, made)], lambda _, parts: rows.append(np.concatenate([p.ravel() for p in parts])))
        scale = float(np.abs(rows[0]).max())
        if not np.allclose(rows[0], rows[1], rtol=0, atol=1e-3 * scale):
            raise ValueError("the converted network gives other features than torch")

    def _same_bits(self, joined: str) -> bool:
        """Whether one pass for several levels gives what a pass each gives, on one made picture."""
        levels = joined.split(TOGETHER)
        folder, arithmetic = self._converted(joined)
        if {self._converted(one)[1] for one in levels} != {arithmetic}:
            return False
        known = folder.with_name(f"{folder.name}.{arithmetic}.json")
        if not known.exists():
            made = np.random.default_rng(0).standard_normal(self._shape()[1:]).astype(np.float32)
            found: list[list[np.ndarray]] = []
            for names in ([joined], levels):
                parts: list[np.ndarray] = []
                for name in names:
                    self._runner(name).run([(0, made)], lambda _, outputs, to=parts: to.extend(outputs))
                found.append(parts)
            write_json(known, {"same_bits": all(map(np.array_equal, *found))})
        return read_json(known)["same_bits"]

    def _streams(self) -> int:
        return self.threads or openvino.processors()

    def _runner(self, level: str) -> embed.Runner:
        folder, how = self._converted(level)
        if how.startswith("torch"):
            return eager.Eager(level_module(self.network(), level), streams=self._streams())
        return openvino.compiled(folder, how.removeprefix("openvino-"), self._streams())

    def _rows(self, levels: Sequence[str]) -> embed.Rows:
        """Where the rows of one level go, or of several that are computed together."""
        if len(levels) == 1:
            return self._store(levels[0])
        return Together([self._store(one) for one in levels])

    def _store(self, level: str) -> FeatureStore:
        """The rows of this level. Features of different arithmetic never share a folder."""
        folder = (self.rows or self.folder / "features") / self.key / level / self._converted(level)[1]
        return FeatureStore(folder, kept=np.float32 if level == "pooled" else np.float16)


def _unfolded(rows: np.ndarray, shapes: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
    """Flat rows (n, sum of sizes) as one array (n, *shape) per part."""
    ends = np.cumsum([int(np.prod(s)) for s in shapes])
    return [
        part.reshape(len(rows), *shape)
        for part, shape in zip(np.split(rows, ends[:-1], axis=1), shapes, strict=True)
    ]
