"""Heads on frozen features as torch computes them, so that a score can be followed back into the picture.

Each maker gives a ``torch.nn.Module``: features (n, d) -> (n, c) logits, c at least 2. Numbers are those of
the fitted head, in double precision; they are parameters, so that shuffling a network shuffles them too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

SHARPNESS = 10.0


def linear(weights: np.ndarray, intercepts: np.ndarray, *, unit_length: bool = False) -> Any:
    """Features times weights (d, c) plus intercepts (c,); of one column, the other class's logit is 0.

    unit_length: features are brought to length 1 before.
    """
    import torch

    class Linear(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights, self.intercepts = _fixed(weights), _fixed(intercepts)

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            own = torch.nn.functional.normalize(rows.double(), dim=1) if unit_length else rows.double()
            logits = own @ self.weights + self.intercepts
            return torch.cat([torch.zeros_like(logits), logits], 1) if logits.shape[1] == 1 else logits

    return Linear()


def directions(centre: np.ndarray, ways: np.ndarray, sharpness: float) -> Any:
    """``sharpness`` times the cosines of features around ``centre`` (d,) with the rows of ``ways`` (c, d)."""
    import torch

    class Directions(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.centre, self.ways = _fixed(centre), _fixed(ways)

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            unit = torch.nn.functional.normalize(rows.double() - self.centre, dim=1)
            return sharpness * unit @ self.ways.T

    return Directions()


def nearest(rows: np.ndarray, mean: np.ndarray, labels: np.ndarray, classes: int, neighbours: int) -> Any:
    """How near the ``neighbours`` nearest labelled cases of each class are, as logits.

    rows: (n, d) of length 1, centred by ``mean``. A vote by the nearest of all classes is constant almost
    everywhere, so that no gradient tells what it hangs on; the nearest of each class answer nearly alike
    (exactly alike in which class wins, for one neighbour).
    """
    import torch

    class Nearest(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows, self.mean = _fixed(rows), _fixed(mean)
            self.of_class = [np.flatnonzero(labels == c) for c in range(classes)]

        def forward(self, asked: torch.Tensor) -> torch.Tensor:
            unit = torch.nn.functional.normalize(asked.double() - self.mean, dim=1)
            alike = SHARPNESS * unit @ self.rows.T
            logits = []
            for own in self.of_class:
                near = alike[:, torch.from_numpy(own)].topk(min(neighbours, len(own)), dim=1).values
                logits.append(near.logsumexp(dim=1) - float(np.log(near.shape[1])))
            return torch.stack(logits, dim=1)

    return Nearest()


def _fixed(array: np.ndarray) -> Any:
    import torch

    return torch.nn.Parameter(torch.from_numpy(np.array(array, np.float64)), requires_grad=False)


def on_features(network: Any, head: Any, groups: list[tuple[int, int]], *, joined: bool) -> Any:
    """Pictures (n, p, ...) -> logits: each through the network, means over groups of them, then the head.

    groups: (first, last + 1) of the p pictures, one for each image of a case. joined: groups stand side by
    side in the head's features; else their mean is taken.
    """
    import torch

    class OnFeatures(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network, self.head = network, head

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            rows = self.network(batch.flatten(0, 1)).unflatten(0, batch.shape[:2])
            parts = [rows[:, first:last].mean(1) for first, last in groups]
            return self.head(torch.cat(parts, 1) if joined else torch.stack(parts).mean(0))

    return OnFeatures().eval()


def of_tuned(module: Any) -> Any:
    """A tuned network with the same form of input: (n, p, ...) pictures, p 1 where it takes one."""
    import torch

    class OfTuned(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            return self.module(batch[:, 0] if batch.shape[1] == 1 else batch)

    return OfTuned().eval()
