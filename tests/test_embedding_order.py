"""Which model is embedded by first, where time is limited."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from medspectrum.embedding import PROBE, embed
from medspectrum.schedule import Dropped

IMAGES: Any = [SimpleNamespace(source=str(n)) for n in range(4 * PROBE)]


@dataclass
class Seeing:
    """Embeds at a known pace; keeps what it has seen."""

    pace: float
    level: str = "general"
    seen: set[str] = field(default_factory=set)

    @property
    def card(self) -> SimpleNamespace:
        return SimpleNamespace(level=self.level)

    def missing(self, images: Any, level: str) -> int:
        return len({i.source for i in images} - self.seen)

    def ensure(self, images: Any, progress: Any = None, level: str = "pooled") -> list[Any]:
        self.seen |= {i.source for i in images}
        return []

    def seconds_per_image(self, level: str = "pooled") -> tuple[float, float]:
        return self.pace, self.pace


def embedded(encoders: dict[str, Any], seconds: float) -> tuple[list[str], list[Dropped]]:
    skipped: list[Dropped] = []
    spent: Any = SimpleNamespace(limited=True, embedding=0.0, remaining=lambda: seconds)
    progress: Any = SimpleNamespace(step=lambda name: None)
    assert embed(encoders, IMAGES, "pooled", progress, spent, skipped) == []
    return list(encoders), skipped


@pytest.mark.parametrize("seconds", [1000.0, 10.0])
def test_the_quickest_stands_in_where_the_first_would_eat_the_time(seconds):
    slow, quick = Seeing(1.0), Seeing(0.01)
    left, skipped = embedded({"promising": slow, "quick": quick}, seconds)
    assert len(quick.seen) == len(IMAGES)
    if seconds == 1000.0:
        assert left == ["promising", "quick"]
        assert len(slow.seen) == len(IMAGES)
        assert not skipped
    else:
        assert left == ["quick"]
        assert len(slow.seen) == PROBE
        assert skipped[0].model == "promising"
        assert "min of the time left" in skipped[0].reason


def test_without_features_there_is_no_answer_so_one_model_is_always_taken():
    slow, slower, control = Seeing(1.0), Seeing(2.0), Seeing(0.5, "control")
    left, skipped = embedded({"slower": slower, "slow": slow, "control": control}, 10.0)
    assert left == ["slow"]
    assert len(slow.seen) == len(IMAGES)
    assert [d.model for d in skipped] == ["slower", "control"]
