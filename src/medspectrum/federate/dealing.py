"""Which site holds which training cases: by centre where the data name centres, else patients are dealt."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from medspectrum.case import Case
from medspectrum.errors import UserError

OTHERS = "others"


def sites_by_centre(cases: Sequence[Case], most: int | None) -> dict[str, list[Case]]:
    """Cases by centre, a patient wholly with the centre of most of its cases.

    most: at most so many sites; the centres with the fewest cases together make one, ``others``. Cases
    without a centre belong to it too.
    """
    seen: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for case in cases:
        seen[case.patient][case.centre or OTHERS] += 1
    home = {p: max(sorted(own), key=lambda c, own=own: own[c]) for p, own in seen.items()}
    found: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        found[home[case.patient]].append(case)
    if most is not None and len(found) > most:
        order = sorted((name for name in found if name != OTHERS), key=lambda n: (-len(found[n]), n))
        kept = set(order[: most - 1])
        joined: dict[str, list[Case]] = defaultdict(list)
        for case in cases:
            name = home[case.patient]
            joined[name if name in kept else OTHERS].append(case)
        found = joined
    return dict(sorted(found.items()))


def dealt(
    cases: Sequence[Case], sites: int, *, stratum: Callable[[Case], str], seed: int, skew: float | None
) -> dict[str, list[Case]]:
    """Patients dealt to ``site1`` ... at random.

    skew: each class's patients go to the sites in shares drawn from a Dirichlet distribution with this
    concentration (Hsu et al., arXiv 1909.06335): 0.1 gives a site few classes, 100 all alike; None deals
    evenly. A site that got none is given a patient of the largest. Raises UserError for fewer patients than
    sites.
    """
    by_patient: dict[str, list[str]] = defaultdict(list)
    for case in cases:
        by_patient[case.patient].append(stratum(case))
    if len(by_patient) < sites:
        raise UserError(f"{len(by_patient)} patients cannot be dealt to {sites} sites; ask for fewer --sites")
    groups: dict[str, list[str]] = defaultdict(list)
    for patient in sorted(by_patient):
        own = by_patient[patient]
        groups[max(sorted(set(own)), key=own.count)].append(patient)
    rng = np.random.default_rng([seed, 31])
    place: dict[str, int] = {}
    turn = 0
    for name in sorted(groups):
        members = [groups[name][i] for i in rng.permutation(len(groups[name]))]
        if skew is None:
            where = (np.arange(len(members)) + turn) % sites
            turn += len(members)
        else:
            edges = np.cumsum(rng.dirichlet([skew] * sites)) * len(members)
            where = np.minimum(np.searchsorted(edges, np.arange(len(members)) + 0.5), sites - 1)
        place |= {p: int(s) for p, s in zip(members, where, strict=True)}
    for site in range(sites):
        if site not in place.values():
            counts = np.bincount(list(place.values()), minlength=sites)
            largest = int(np.argmax(counts))
            place[min(p for p, s in place.items() if s == largest)] = site
    return {f"site{s + 1}": [c for c in cases if place[c.patient] == s] for s in range(sites)}
