"""Which methods can be learned over sites, and by which plan."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from medspectrum.errors import UserError
from medspectrum.federate import prototype_plan, ridge_plan
from medspectrum.federate.packet import Holding, Packet, why_unusable


@dataclass(frozen=True)
class Plan:
    """A plan's four functions (see ``ridge_plan``), and the steps in which something is learned."""

    begin: Callable[[Mapping[str, Any]], Packet]
    question: Callable[[Packet], Packet | None]
    answer: Callable[[Holding, Packet], Packet]
    absorb: Callable[[Packet, Mapping[str, Packet]], Packet]
    learned: Callable[[Packet], tuple[dict[str, np.ndarray], dict[str, Any]]]
    rounds: tuple[str, ...]


PLANS = {
    "ridge": Plan(
        ridge_plan.begin,
        ridge_plan.question,
        ridge_plan.answer,
        ridge_plan.absorb,
        ridge_plan.learned,
        ("statistics",),
    ),
    "prototype": Plan(
        prototype_plan.begin,
        prototype_plan.question,
        prototype_plan.answer,
        prototype_plan.absorb,
        prototype_plan.learned,
        ("sums", "directions"),
    ),
}


def plan_for(method: str) -> Plan:
    """The plan of a method. Raises UserError where there is none."""
    if method not in PLANS:
        raise UserError(f"{method} cannot be learned over sites; there are: {', '.join(PLANS)}")
    return PLANS[method]


@dataclass(frozen=True)
class Sent:
    """One message as it went over the line: ``to the site`` or ``from the site``."""

    site: str
    direction: str
    packet: Packet


def in_one_process(
    plan: Plan, holdings: Mapping[str, Holding], settings: Mapping[str, Any], sent: list[Sent]
) -> Iterator[Packet]:
    """The server's state after each exchange with all sites; ``sent`` gets every message.

    Raises UserError where a site's answer cannot be used.
    """
    state = plan.begin(settings)
    while (asked := plan.question(state)) is not None:
        answers: dict[str, Packet] = {}
        for name in sorted(holdings):
            sent.append(Sent(name, "to the site", asked))
            answers[name] = plan.answer(holdings[name], asked)
            sent.append(Sent(name, "from the site", answers[name]))
            why = why_unusable(answers[name], asked)
            if why:
                raise UserError(f"site {name}: {why}")
        state = plan.absorb(state, answers)
        yield state
