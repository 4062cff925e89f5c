"""What an audit says: each finding by a name that can be accepted, and whether the audit is failed by it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from medspectrum.case import Case
from medspectrum.errors import UserError
from medspectrum.leakage.shortcuts import Probe

SHARES = {"test": 0.01, "val": 0.05}
"""Shares of a part's cases that stand in another part too from which the audit fails: fewer test cases cannot
move an accuracy by a point; validation cases decide between trials alone, which all profit alike."""
PATIENT = ("same patient", "same study")
FIXED = (
    "patients-across-parts", "copies-across-parts", "patients-under-two-names", "copies-across-patients",
    "copies-with-two-labels",
)  # fmt: skip
ENDING = "-is-class"
SAW = "model-saw-"


@dataclass(frozen=True, slots=True)
class Finding:
    """name: what it is accepted by. fails: whether it fails the audit. sentence: what was found, what to do.

    pairs: how many leaks it stands for. probe: the shortcut's figures.
    """

    name: str
    fails: bool
    sentence: str
    accepted: bool = False
    pairs: int = 0
    probe: Mapping[str, Any] = field(default_factory=dict)

    def as_row(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def of_leaks(leaks: Sequence[Mapping[str, Any]], cases: Sequence[Case]) -> list[Finding]:
    """Findings of the pairs that ``describe`` lists."""
    by_name: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for leak in leaks:
        patient = str(leak["kind"]).startswith(PATIENT)
        across = leak["crosses"] == "split"
        by_name[
            ("patients" if patient else "copies")
            + ("-across-parts" if across else "-under-two-names" if patient else "-across-patients")
        ].append(leak)
        if not patient and None not in leak["labels"] and leak["labels"][0] != leak["labels"][1]:
            by_name["copies-with-two-labels"].append(leak)
    made = []
    for name in FIXED:
        own = by_name.get(name)
        if own:
            shares = _shares(own, cases) if name.endswith("-across-parts") else {}
            worst = max(shares.values(), default=0.0)
            too_many = any(share > SHARES[part] for part, share in shares.items())
            fails = too_many or name == "patients-across-parts"
            made.append(Finding(name, fails, _sentence(name, own, worst), pairs=len(own)))
    return made


def _shares(leaks: Sequence[Mapping[str, Any]], cases: Sequence[Case]) -> dict[str, float]:
    """Of validation and of test cases, the share that stands in another part as well."""
    whole = Counter(case.split for case in cases)
    inside: dict[str, set[str]] = defaultdict(set)
    for leak in leaks:
        for name, part in zip(leak["cases"], leak["splits"], strict=True):
            inside[part].add(name)
    return {part: len(inside[part]) / whole[part] for part in SHARES if whole[part]}


def _sentence(name: str, leaks: Sequence[Mapping[str, Any]], worst: float) -> str:
    kinds = ", ".join(f"{kind} {n}" for kind, n in Counter(leak["kind"] for leak in leaks).most_common(6))
    first = " and ".join(leaks[0]["cases"])
    count = len(leaks)
    pairs = f"{count:,} {'pair' if count == 1 else 'pairs'} ({kinds}; first {first})"
    if name == "patients-across-parts":
        return f"The same patients stand in several parts of the split: {pairs}. Split by patient."
    if name == "copies-across-parts":
        return (
            f"The same pictures stand in several parts of the split: {pairs}, up to {worst:.1%} of a part. "
            "Leave them out of the part that is learned from."
        )
    if name == "copies-with-two-labels":
        return f"The same pictures carry different labels: {pairs}. One label of each is wrong."
    what = "What is one patient" if name.startswith("patients") else "The same pictures"
    stand = "stands under several names" if name.startswith("patients") else "stand under several patients"
    return f"{what} {stand}: {pairs}. A split that is made here keeps them together; others may part them."


def of_probes(made: Iterable[Probe]) -> list[Finding]:
    """Findings of the shortcuts: those that fail, and those that are worth a remark."""
    found = []
    for probe in made:
        if not (probe.fails or probe.seen):
            continue
        auc = probe.auc
        shown = f"AUC {auc['value']:.2f} [{auc['low']:.2f}, {auc['high']:.2f}]"
        what = {
            "centre": "The centre",
            "marks": "Writing or markers in the corners",
            "border": "The frame around the picture",
            "format": "The file format",
        }.get(probe.name, probe.name[0].upper() + probe.name[1:])
        advice = (
            "A network can learn it instead of the disease: balance or mend the data."
            if probe.fails
            else "Part of that may be what the picture shows; worth knowing."
            if probe.alarm is not None
            else "That may be so by nature; worth knowing."
        )
        found.append(
            Finding(
                slug(probe.name) + ENDING,
                probe.fails,
                f"{what} alone tells the class of unseen patients ({shown}; by chance up to "
                f"{probe.chance[1]:.2f}; {probe.tells}). {advice}",
                probe=probe.as_row(),
            )
        )
    return found


def of_overlaps(model: str, overlaps: Iterable[str], known_as: Iterable[str]) -> list[Finding]:
    """Public sets that these data are known to be, and that a model has learned from."""
    return [
        Finding(
            SAW + slug(name),
            True,
            f"{model} was trained on {name}, which these data are taken from: it may have seen the test "
            "cases. Judge it on other data, or choose a model that has not.",
        )
        for name in overlaps
        if name in set(known_as)
    ]


def slug(name: str) -> str:
    """A name for the command line: ``column Scanner type`` to ``scanner-type``."""
    plain = "".join(c if c.isalnum() else "-" for c in name.removeprefix("column ").lower())
    return "-".join(part for part in plain.split("-") if part)


def accepted(findings: Sequence[Finding], accept: Iterable[str]) -> list[Finding]:
    """The same, those that were accepted marked; failing ones first.

    Raises UserError for a name that no finding can have.
    """
    names = set(accept)
    for name in sorted(names):
        if name not in FIXED and not name.endswith(ENDING) and not name.startswith(SAW):
            raise UserError(
                f"--accept {name}: there is no such finding; names are {', '.join(FIXED)}, "
                f"WHAT{ENDING} (such as centre{ENDING}) and {SAW}SET"
            )
    marked = [replace(f, accepted=f.name in names) for f in findings]
    return sorted(marked, key=lambda f: (not f.fails, f.accepted))


def standing(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Names of the findings (as rows) that fail the audit and are not accepted."""
    return [row["name"] for row in rows if row["fails"] and not row["accepted"]]


def why_withheld(names: Sequence[str]) -> str:
    """Why nothing is recommended, in plain words."""
    return (
        f"The audit of the data failed ({', '.join(names)}), so the recommendation is withheld: the scores "
        f"below may be earned by something else than the disease. Mend the data, or accept what was found by "
        f"name: --accept {','.join(names)}."
    )
