"""Every model with every method and its settings, as far as it makes sense on these data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medspectrum import registry
from medspectrum.plan import Plan, methods_for
from medspectrum.predictor import NO_MODEL
from medspectrum.schedule import Config, Dropped, settings_grid


def configs_for(
    plan: Plan, encoders: dict[str, Any], skipped: list[Dropped], level: str, judged: int
) -> list[Config]:
    """Every combination of model, method and settings that makes sense; ``judged`` cases are predicted.

    encoders: in the order in which they are to be tried.
    """
    names = plan.methods or tuple(
        name
        for name in methods_for(plan.task)
        if not registry.find("method", name).facts.get("named_only", False)
    )
    configs = []
    for method in (registry.find("method", name) for name in names):
        why = method.facts["available"]() if "available" in method.facts else ""
        if why:
            skipped.append(Dropped("", method.name, why))
            continue
        given = plan.method_settings.get(method.name, {})
        why = _not_offered(method, given, plan)
        if why:
            skipped.append(Dropped("", method.name, why))
            continue
        for settings in settings_grid(given):
            if not method.facts.get("needs_model", True):
                configs.append(Config(NO_MODEL, None, method, settings, True, 0.0))
                continue
            for place, (name, encoder) in enumerate(encoders.items()):
                control = encoder.card.level == "control"
                if method.facts.get("trains") not in ("head", "nothing"):
                    if control:  # a random twin trained whole is 'scratch', which has a row of its own
                        continue
                    why = _too_large(encoder, plan)
                    if why or encoder.card.dims == 3:
                        skipped.append(
                            Dropped(name, method.name, why or "tuning serves 2-D networks only so far")
                        )
                        continue
                configs.append(
                    Config(
                        name,
                        encoder.size[-1],
                        method,
                        settings,
                        control,
                        float(place),
                        encoder.seconds_per_image(level)[0],
                        judged,
                    )
                )
    return configs


def _not_offered(method: registry.Entry, given: Mapping[str, Any], plan: Plan) -> str:
    """Why a method that brings weights of the user's own is left aside, or ''."""
    lacking = [name for name in method.facts.get("needs", ()) if name not in given]
    if lacking:
        return f"needs {', '.join(lacking)}: say it in a plan's table [{method.name}]"
    if plan.commercial_use and not method.facts.get("commercial_use", True):
        return f"its licence ({method.facts['licence']}) is not known to allow commercial use"
    return ""


def _too_large(encoder: Any, plan: Plan) -> str:
    """Why training breaks the memory limit, or ''. Weights, gradients and two moments: 16 bytes."""
    if plan.max_memory_gb is None:
        return ""
    needed = 1.5 + 16 * encoder.card.parameters / 1e9
    if needed <= plan.max_memory_gb:
        return ""
    return f"training needs about {needed:.1f} GB, the limit is {plan.max_memory_gb:g} GB"
