"""What a person sees of a result on the console."""

from __future__ import annotations

from typing import Any

MODEL_COLUMNS = {
    "name": "name",
    "level": "level",
    "status": "status",
    "here": "here",
    "modality": "modality",
    "organ": "organ",
    "dims": "dims",
    "commercial_use": "commercial",
    "licence": "licence",
}
"""Of the table of models, what matters most first: a narrow terminal shows the first ones."""
_FOLDED = 24
_SPELT_OUT = 3


def show(verb: str, result: Any) -> None:
    """Print a verb's result as text and tables."""
    from rich.console import Console

    console = Console()
    printers = {
        "describe": _describe,
        "audit": _audit,
        "agreement": _agreement,
        "suggest": _suggest,
        "explore": _explore,
        "predict": _predict,
        "evaluate": _evaluate,
        "curate": _curate,
        "explain": _explain,
        "generalise": _generalise,
        "merge": _merge,
        "register": _register,
        "segment": _segment,
        "deidentify": _deidentify,
        "federate simulate": _federate,
        "encrypted": _encrypted,
        "synthesise": _synthesise,
        "attack": _attack,
        "doctor": _doctor,
    }
    if verb in printers:
        printers[verb](console, result)
    else:
        _catalogue(console, result)


def _federate(console: Any, result: dict[str, Any]) -> None:
    def score(of: dict[str, Any]) -> str:
        told = [of[name] for name in ("value", "low", "high")]
        return "-" if None in told else "{:.3f} [{:.3f}, {:.3f}]".format(*told)

    rows = [
        {"who": name, "cases": own["cases"], "score": score(own["score"])}
        for name, own in result["alone"].items()
    ]
    learned = result["split"]["train"]["cases"]
    rows += [{"who": n, "cases": learned, "score": score(result[n])} for n in ("federated", "pooled")]
    _table(console, rows, {"who": "learned by", "cases": "cases", "score": result["task"]["primary"]})
    console.print(f"{result['rounds']} round, {result['bytes_sent'] / 1e6:.2f} MB sent")
    console.print(f"predictor: {result['predictor']}", soft_wrap=True)


def _table(console: Any, rows: list[dict[str, Any]], columns: dict[str, str]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for key, title in columns.items():
        table.add_column(title, overflow="fold", no_wrap=key in ("name", "model", "method"))
    for row in rows:
        table.add_row(*(Text(_word(row.get(key))) for key in columns))
    console.print(table)


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{k}={v}" for k, v in value.items())
    return "" if value is None else str(value)


def _catalogue(console: Any, rows: list[dict[str, Any]] | dict[str, Any]) -> None:
    """A list as a table; a single row in full; an answer about a file as its sentence."""
    from rich.text import Text

    if isinstance(rows, dict):
        console.print(Text(rows["sentence"]))
        return
    if len(rows) == 1:
        for key, value in rows[0].items():
            console.print(Text(f"{key:16} {_word(value)}"))
        return
    if not rows:
        console.print("nothing fits")
        return
    if "level" in rows[0]:
        shown = [{**r, "here": not r["missing"]} for r in rows]
        _table(console, shown, _fitting(shown, MODEL_COLUMNS, console.width))
        return
    wanted = ("name", "trains", "primary", "summary")
    _table(console, rows, {k: k.replace("_", " ") for k in wanted if k in rows[0]})


def _fitting(rows: list[dict[str, Any]], columns: dict[str, str], width: int) -> dict[str, str]:
    """The columns that stand side by side in that width, the first ones first; long words may fold."""
    kept: dict[str, str] = {}
    used = 0
    for key, title in columns.items():
        own = max(len(title), *(len(_word(r.get(key))) for r in rows))
        own = own if key == "name" else min(own, _FOLDED)
        if kept and used + 2 + own > width:
            continue
        kept[key], used = title, used + own + 2 * bool(kept)
    return {k: t for k, t in columns.items() if k in kept}


def _describe(console: Any, facts: dict[str, Any]) -> None:
    from medspectrum.describe import describe_text

    console.print(describe_text(facts))


def _synthesise(console: Any, result: dict[str, Any]) -> None:
    """How many were made, the verdict on copies, and what they add to the fewest and the most labels."""
    made = ", ".join(f"{count} of {name}" for name, count in result["made"].items())
    console.print(f"{made}; generator: {result['generator']['kind']}, {result['generator']['steps']} steps")
    memory = result["memorisation"]
    if memory["passed"] is None:
        console.print(f"not audited for copies: {memory['why']}")
    else:
        console.print("no sign of copies" if memory["passed"] else "training cases are copied")
    rows = [
        {
            "labels": row["budget"],
            "real only": row["arms"]["real"]["auc"]["value"],
            **row["over_real"]["synthetic"]["auc"],
        }
        for row in result["gain"]["budgets"]
    ]
    titles = {"labels": "labels per class", "real only": "AUC", "value": "gain", "low": "low", "high": "high"}
    _table(console, rows, titles)
    console.print(f"report: {result['report']}")


def _agreement(console: Any, result: dict[str, Any]) -> None:
    """Alpha and the share of equal pairs, then kappa of each two readers; of masks Dice."""
    if "dice" in result:
        found = [{"what": "Dice of two readers", **result["dice"]["dice"]}]
        found += [{"what": f"{' and '.join(p['readers'])}", **p["dice"]} for p in result["pairs"]]
        found += [{"what": f"{o['reader']} against the others", **o["dice"]} for o in result["others"]]
        told = f"{result['cases_of_several']} of {result['cases']} cases with several masks"
        console.print(f"{told} of {len(result['readers'])} readers")
        _table(console, found, {"what": "", "value": "value", "low": "low", "high": "high"})
        _left_out(console, result)
        return
    rows = [{"what": name, **result[name]} for name in ("alpha", "equal")]
    rows += [{"what": f"kappa of {' and '.join(p['readers'])}", **p["kappa"]} for p in result["pairs"]]
    shared = f"{result['cases_of_several']} of {result['cases']} cases"
    console.print(f"{shared} with several of {len(result['readers'])} readers, {result['ties']} ties")
    _table(console, rows, {"what": "", "value": "value", "low": "low", "high": "high"})


def _audit(console: Any, result: dict[str, Any]) -> None:
    """Each finding by name, failing ones first, then how well each kind of fact tells the class."""
    from rich.text import Text

    for one in result["findings"]:
        verdict = ("accepted" if one["accepted"] else "fails") if one["fails"] else "worth knowing"
        style = {"fails": "bold red", "accepted": "yellow"}.get(verdict, "")
        console.print(Text(f"{one['name']} ({verdict}): ", style), Text(one["sentence"]), sep="")
    rows = [{"asked": p["name"], **p["auc"], "chance": p["chance"][1]} for p in result["probes"]]
    if rows:
        titles = {"asked": "the class by", "value": "AUC", "low": "low", "high": "high"}
        _table(console, rows, {**titles, "chance": "by chance up to"})
    console.print("passed" if result["passed"] else "failed")


def _suggest(console: Any, rows: list[dict[str, Any]]) -> None:
    """A row per model; what training it would take stands beside its head."""
    first: dict[str, dict[str, Any]] = {}
    for row in rows:
        shown = first.setdefault(row["name"], {**row, "reasons": "; ".join(row["reasons"]), "trained": []})
        if row["method"] and row["method"] != shown["method"]:
            shown["trained"].append(f"{row['method']} {_word(row['expected_seconds'])} s")
    titles = {
        "name": "model",
        "method": "method",
        "expected_score": "expected",
        "expected_seconds": "seconds",
        "memory_mb": "MB",
        "reasons": "why",
        "trained": "trained further",
    }
    _table(console, list(first.values()), titles)


def _explore(console: Any, results: dict[str, Any]) -> None:
    from rich.text import Text

    if "tasks" in results:
        _together(console, results)
        return
    primary = results["task"]["primary"]
    best = [r for r in results["summary"] if r["mean"] is not None]
    most = max((r["labels"] for r in best), default=0)
    rows = [
        {
            "model": r["model"],
            "method": r["method"],
            "labels": r["labels"],
            "score": f"{r['mean']:.3f}"
            + (f" [{r['low']:.3f}, {r['high']:.3f}]" if r["low"] is not None else ""),
        }
        for r in sorted(best, key=lambda r: -r["mean"])
        if r["labels"] == most
    ]
    _table(
        console, rows, {"model": "model", "method": "method", "labels": "labels", "score": f"test {primary}"}
    )
    _not_tried(console, results["dropped"])
    console.print()
    console.print(Text(results["reason"], style="bold"))
    _left_out(console, results)
    console.print(Text(f"report: {results['report']}"))


def _together(console: Any, results: dict[str, Any]) -> None:
    from rich.text import Text

    rows = []
    for encoder in results["encoders"]:
        row = {"model": encoder["model"]}
        for name, best in encoder["tasks"].items():
            score = best["score"] or {}
            row[name] = f"{_word(score.get('value'))} ({best['method']})"
        rows.append(row)
    titles = {name: f"{name}: test {task['primary']}" for name, task in results["tasks"].items()}
    _table(console, rows, {"model": "model", **titles})
    _not_tried(console, results["embedding"]["dropped"])
    for name, task in results["tasks"].items():
        console.print()
        console.print(Text(f"{name}: {task['reason']}", style="bold"))
    _left_out(console, results)
    console.print(Text(f"report: {results['report']}"))


def _not_tried(console: Any, dropped: list[dict[str, str]]) -> None:
    """A line for each model left aside; those that would first have to be fetched are counted."""
    from rich.text import Text

    lines = [f"not tried: {r['model']} ({r['reason']})" for r in dropped if not r["method"]]
    absent = [line for line in lines if "--fetch" in line]
    if len(absent) > _SPELT_OUT:
        lines = [line for line in lines if line not in absent]
        lines.append(
            f"not tried: {len(absent)} models whose weights are not on this machine (`medspectrum models`)"
        )
    for line in lines:
        console.print(Text(line, style="yellow"))


def _predict(console: Any, result: dict[str, Any]) -> None:
    from rich.text import Text

    console.print(Text(f"{result['cases']} cases predicted: {result['out']}"))
    _left_out(console, result)


def _evaluate(console: Any, results: dict[str, Any]) -> None:
    from rich.text import Text

    rows = [{"score": name, **values} for name, values in results["scores"].items()]
    _table(console, rows, {"score": "score", "value": "value", "low": "95 % interval from", "high": "to"})
    if results.get("readers"):
        own = results["readers"]
        kind = "weighted_kappa" if own["weighted_kappa"] else "kappa"
        told = ", ".join(
            f"{who} {value['value']:.3f}" for who, value in own[kind].items() if value["value"] is not None
        )
        console.print(Text(f"{kind.replace('_', ' ')} with the other readers: {told or 'undefined'}"))
    _left_out(console, results)
    console.print(Text(f"report: {results['report']}"))


def _curate(console: Any, result: dict[str, Any]) -> None:
    from rich.text import Text

    rows = result["chosen"][:10]
    _table(console, rows, {k: k for k in ("rank", "case", "patient", "class", "reason")})
    coverage = result["coverage"]
    console.print(
        Text(
            f"{len(result['chosen'])} of {result['pool']['cases']} cases chosen; likeness to the nearest "
            f"{coverage['chosen']['mean']:.3f}, by chance {coverage['chance']['mean']:.3f}"
        )
    )
    _left_out(console, result)
    console.print(Text(f"gallery: {result['gallery']}"))


def _explain(console: Any, results: dict[str, Any]) -> None:
    from rich.text import Text

    names = {True: "passed", False: "failed", None: "too few patients"}
    rows = [
        {"method": m["name"], "verdict": names[m["passed"]], "failed": ", ".join(m["failed"])}
        for m in results["methods"].values()
    ]
    _table(console, rows, {"method": "map", "verdict": "tests", "failed": "failed"})
    _left_out(console, results)
    console.print(Text(f"{results['data']['cases']} cases explained; report: {results['report']}"))


def _generalise(console: Any, results: dict[str, Any]) -> None:
    from rich.text import Text

    worst: dict[str, dict[str, Any]] = {}
    for row in results["shifts"]:
        worst[row["shift"]] = row  # severities rise: the last is the strongest
    rows = [
        {"shift": n, "severity": r["severity"], "score": r["score"]["value"], "lost": r["drop"]["value"]}
        for n, r in worst.items()
    ]
    primary = results["task"]["primary"]
    console.print(Text(f"{primary} {_word(results['scores'][primary]['value'])}, worst centre: "
                       f"{(results['centres']['worst'] or {}).get('name', 'not known')}"))  # fmt: skip
    _table(console, rows, {"shift": "shift", "severity": "severity", "score": primary, "lost": "lost"})
    for text in results["notes"]:
        console.print(Text(text, style="yellow"))
    _left_out(console, results)
    console.print(Text(f"report: {results['report']}"))


def _merge(console: Any, result: dict[str, Any]) -> None:
    from rich.text import Text

    rows = [
        {
            **row,
            "classes": row["classes"],
            "hidden": [f"{n} in {u or 'background'}" for n, u in row["unseen"].items()],
        }
        for row in result["sources"]
    ]
    titles = {
        "name": "source",
        "cases": "cases",
        "classes": "classes",
        "outlines": "outlines",
        "hidden": "unknown",
    }
    _table(console, rows, titles)
    for words in result["warnings"]:
        console.print(Text(f"! {words}", style="yellow"))
    if result["same_picture"]:
        console.print(
            Text(f"{len(result['same_picture'])} pictures stand in two sources; each is one patient's")
        )
    _left_out(console, result)
    console.print(Text(f"{result['cases']} cases of {result['patients']} patients: {result['data']}"))


def _register(console: Any, result: dict[str, Any]) -> None:
    from rich.text import Text

    console.print(
        Text(
            f"{result['method']}: {result['seconds']:.2f} s, folding {result['folding']:.3%}, MIND distance "
            f"{result['mind_distance_before']:.4f} before and {result['mind_distance_after']:.4f} after"
        )
    )
    for label, score in result.get("dice", {}).items():
        console.print(Text(f"Dice of label {label}: {_word(score)}"))
    console.print(Text(f"files in {result['out']}: {', '.join(result['files'].values())}"))


def _segment(console: Any, result: dict[str, Any]) -> None:
    from rich.text import Text

    console.print(
        Text(
            f"{result['outlines']} outlines in {len(result['images'])} images by {result['model']} "
            f"({result['preparation']}), {result['seconds']:.1f} s: {result['out']}"
        )
    )
    _left_out(console, result)


def _encrypted(console: Any, result: dict[str, Any]) -> None:
    cases = f" for {result['cases']} cases" if result["cases"] else ""
    console.print(f"{result['step']}: {result['out']}, {result['bytes'] / 1e6:.3g} MB{cases}", soft_wrap=True)
    for lost in result["left_out"]:
        console.print(f"left out: {lost['source']}: {lost['reason']}", soft_wrap=True, markup=False)


def _attack(console: Any, result: dict[str, Any]) -> None:
    """What each attack is worth, and how well the attribute is guessed."""

    def score(of: dict[str, Any]) -> str:
        told = [of[name] for name in ("value", "low", "high")]
        return "-" if None in told else "{:.3f} [{:.3f}, {:.3f}]".format(*told)

    found, guessed = result["membership"], result["attribute"]
    names = {"advantage": "advantage", "auc": "AUC", "tpr_at_1_fpr": "TPR at 1 % FPR"}
    rows = [
        {"attack": name.replace("_", " "), **{key: score(own[key]) for key in names}}
        for name, own in found["attacks"].items()
    ]
    _table(console, rows, {"attack": "attack", **names})
    patients = found["patients"]
    console.print(
        f"{'it tells' if found['told'] else 'no sign of'} who was learned from "
        f"({patients['learned_from']} patients beside {patients['held_out']} others)"
    )
    if guessed is not None:
        rows = [{"source": name, "auc": score(own["auc"])} for name, own in guessed["from"].items()]
        _table(console, rows, {"source": f"{guessed['attribute']} from", "auc": "AUC"})
    console.print(f"report: {result['report']}", soft_wrap=True)


def _deidentify(console: Any, result: dict[str, Any]) -> None:
    from rich.text import Text

    kinds = ", ".join(f"{count} {kind}" for kind, count in result["kinds"].items())
    console.print(
        Text(
            f"{result['written']} of {result['files']} files de-identified ({kinds or 'none'}), "
            f"{result['seconds']:.1f} s: {result['out']}"
        )
    )
    for words in result["warnings"]:
        console.print(Text(words, style="yellow"))
    for row in result["left_out"][:5]:
        console.print(Text(f"left out: {row['source']}: {row['reason']}", style="yellow"))
    if len(result["left_out"]) > 5:
        console.print(Text(f"and {len(result['left_out']) - 5} more (deidentified.csv)", style="yellow"))
    console.print(Text(f"keep the key, and keep it apart from the files: {result['key']}"))


def _left_out(console: Any, result: dict[str, Any]) -> None:
    from rich.text import Text

    left_out = result.get("left_out") or []
    if not left_out:
        return
    console.print(Text(f"{len(left_out)} left out (all in left_out.csv):", style="yellow"))
    for row in left_out[:5]:
        console.print(Text(f"  {row['source']}: {row['reason']}"))


def _doctor(console: Any, found: dict[str, Any]) -> None:
    from rich.text import Text

    machine = found["machine"]
    console.print(Text(f"medspectrum {found['version']} on {machine['system']}, Python {machine['python']}"))
    console.print(
        Text(
            f"{machine['cores']} cores, {machine['memory_free_gb']} of {machine['memory_gb']} GB memory "
            f"free, bf16 {'yes' if machine['bf16'] else 'no (fp32 is used)'}, GPU {machine['gpu'] or 'none'}"
        )
    )
    cache = found["cache"]
    console.print(Text(f"cache {cache['folder']}: {cache['used_mb']} MB used, {cache['free_gb']} GB free"))
    console.print()
    columns = {"name": "", "there": "there", "serves": "serves", "licence": "licence", "how": "how to get it"}
    _table(console, found["extras"], {k: v for k, v in columns.items() if k != "licence"})
    console.print()
    _table(console, found["weights"], {k: v for k, v in columns.items() if k != "serves"})
