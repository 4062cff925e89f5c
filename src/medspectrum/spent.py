"""The time a run has used, and what is left of what it may use."""

from __future__ import annotations

import time
from pathlib import Path

from medspectrum import store
from medspectrum.plan import Plan


class Spent:
    """Time used by this run so far, carried over a restart in the same folder."""

    def __init__(self, path: Path, plan: Plan, started: float) -> None:
        self.path, self.started = path, started
        self.limited = bool(plan.budget_minutes)
        self.allowed = 60.0 * plan.budget_minutes
        self.plan = plan.digest()
        self.embedding = self.trials = self.before = 0.0
        if path.is_file():
            kept = store.read_json(path)
            if kept.get("plan") == self.plan and not kept.get("finished"):
                self.before = min(float(kept["seconds"]), self.allowed)

    def total(self) -> float:
        """Seconds, those before a restart included."""
        return self.before + time.monotonic() - self.started

    def remaining(self) -> float:
        """Seconds left under the limit."""
        return self.allowed - self.total()

    def save(self, *, finished: bool = False) -> None:
        """Write it down, for a restart to go on from."""
        store.write_json(self.path, {"plan": self.plan, "seconds": self.total(), "finished": finished})
