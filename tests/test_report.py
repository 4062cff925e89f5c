"""The report: whole, self-contained, honest about what is missing, safe with hostile words."""

from __future__ import annotations

import copy
import html
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from medspectrum import report
from medspectrum.report import answers, curves, gather, page, pareto, words
from tiny_exploration import explore_digits

SECTIONS = (
    "trade-off",
    "spectrum",
    "curves",
    "closer",
    "examples",
    "results",
    "effort",
    "data",
    "left-out",
    "repeat",
    "glossary",
)
VOID = {"meta", "link", "br", "img", "input", "path", "circle", "line", "use"}


class Page(HTMLParser):
    """Elements with their attributes and the text of a page; fails on tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag in VOID:
            return
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


@pytest.fixture(scope="module")
def explored():
    return explore_digits(digits=(3, 8, 9), budgets=("1", "5", "full"), draws=2)


@pytest.fixture(scope="module")
def whole(explored, tmp_path_factory):
    """The report of the whole exploration, written once."""
    results, predictions, thumbnails = explored
    path = tmp_path_factory.mktemp("whole") / "report.html"
    return report.write(path, results, predictions=predictions, thumbnails=thumbnails)


@pytest.fixture
def run(explored):
    return copy.deepcopy(explored)


def written(tmp_path, run) -> Page:
    results, predictions, thumbnails = run
    path = report.write(tmp_path / "report.html", results, predictions=predictions, thumbnails=thumbnails)
    return Page(path.read_text())


def test_the_page_has_every_section_and_asks_for_nothing_from_outside(whole):
    text = whole.read_text()
    shown = Page(text)
    ids = [a["id"] for _, a in shown.elements if "id" in a]
    assert set(SECTIONS) <= set(ids)
    for tag, attributes in shown.elements:
        for name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:image/png;base64,", "data:,")), (
                tag,
                name,
                value,
            )
    assert "http" not in re.sub(r'http-equiv="', "", text)
    assert "@import" not in text
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", text))
    assert whole.stat().st_size < 10_000_000
    assert list(whole.parent.iterdir()) == [whole]


def test_ids_are_unique_and_all_links_lead_somewhere(whole):
    shown = Page(whole.read_text())
    ids = [a["id"] for _, a in shown.elements if "id" in a and not a["id"].startswith(("m", "p", "C"))]
    assert len(ids) == len(set(ids))
    every = {a["id"] for _, a in shown.elements if "id" in a}
    for _, attributes in shown.elements:
        for name in ("href", "for"):
            value = attributes.get(name, "#")
            if value not in ("#", "data:,"):
                assert value.removeprefix("#") in every


def test_it_says_what_was_computed(explored, whole):
    results = explored[0]
    shown = Page(whole.read_text())
    best = gather.trial_by_id(results, results["recommended"])
    assert (
        f"Use {gather.trial_name(best).replace('_', ' ')}: AUC {best['scores']['auc']['value']:.3f}"
        in shown.text
    )
    assert results["reason"] in shown.text
    assert results["repeat"] in shown.text
    labels = re.findall(r'<label for="look-(\d)">([^<]*)</label>', whole.read_text())
    assert labels[0] == ("1", page.look_name(best))
    assert len({name for _, name in labels}) == len(labels) > 2
    for row in results["trials"]:
        assert words.decimal(row["scores"]["auc"]) in shown.text
    table = next(i for i, (_, a) in enumerate(shown.elements) if a.get("id") == "results-table")
    rows = [tag for tag, _ in shown.elements[table:]]
    assert rows[: rows.index("section")].count("tr") == 1 + len(results["trials"])


def test_tables_can_be_sorted_by_numbers_and_controls_are_marked(explored, whole):
    results = explored[0]
    shown = Page(whole.read_text())
    controls = [t for t in results["trials"] if gather.is_control(t)]
    assert len(controls) > 2
    assert sum(a.get("class", "").split() == ["control"] for t, a in shown.elements if t == "tr") >= len(
        controls
    )
    assert "control" in shown.text
    assert all("data-value" in a for t, a in shown.elements if t == "td" and a.get("title"))


def test_the_confusion_matrix_counts_the_answers(explored):
    results, predictions, _ = explored
    given = predictions[results["recommended"]]
    classes = results["task"]["classes"]
    read = answers.read_answers(given, classes)
    counts = answers.confusion(read, classes)
    for i in range(3):
        for j in range(3):
            expected = sum((given["truth"] == i) & (given["probabilities"].argmax(1) == j))
            assert counts[i, j] == expected
    right = np.trace(counts) / counts.sum()
    stated = gather.trial_by_id(results, results["recommended"])["scores"]["accuracy"]["value"]
    assert right == pytest.approx(stated)


def test_reliability_is_right_for_a_known_case():
    rng = np.random.default_rng(0)
    stated = rng.uniform(size=20_000)
    truth = (rng.uniform(size=20_000) < stated).astype(int)
    blank = np.full(20_000, "", dtype=object)
    honest = answers.Answers(blank, blank, blank, truth, np.c_[1 - stated, stated])
    bins = answers.reliability(honest)
    assert len(bins) == 10
    assert sum(b.n for b in bins) == 20_000
    for part in bins:
        assert part.low <= part.observed <= part.high
        assert part.observed == pytest.approx(part.stated, abs=0.035)


def test_wilson_agrees_with_scipy():
    from scipy.stats import binomtest

    for hits, n in ((0, 5), (3, 10), (10, 10), (57, 400)):
        expected = binomtest(hits, n).proportion_ci(method="wilson")
        assert answers.wilson(hits, n) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_examples_are_the_surest_and_the_least_sure(explored):
    results, predictions, thumbnails = explored
    worst = next(k for k in predictions if "random" in k)
    read = answers.read_answers(predictions[worst], results["task"]["classes"])
    right, wrong, unsure = answers.examples(read, results["task"]["classes"], thumbnails)
    assert all(c["right"] for c in right["cases"])
    assert wrong["cases"]
    assert not any(c["right"] for c in wrong["cases"])
    surest_wrong = read.certainty[read.answer != read.truth].max()
    assert wrong["cases"][0]["certainty"] == words.percent(surest_wrong)
    assert unsure["cases"][0]["certainty"] == words.percent(read.certainty.min())


def test_pictures_are_asked_for_only_where_shown_and_a_broken_one_is_left_blank(tmp_path, run):
    from collections.abc import Mapping

    from medspectrum.errors import UserError

    results, predictions, thumbnails = run
    asked = []

    class Lazy(Mapping):
        def __getitem__(self, key):
            asked.append(key)
            if len(asked) == 1:
                raise UserError("this one cannot be read")
            return thumbnails[key]

        def __iter__(self):
            return iter(thumbnails)

        def __len__(self):
            return len(thumbnails)

    shown = written(tmp_path, (results, predictions, Lazy()))
    assert 0 < len(asked) <= 18
    assert "no picture" in shown.text
    assert sum(t == "img" for t, _ in shown.elements) == len(asked) - 1


HOSTILE = (
    '"><script>alert(1)</script><img src=http://evil.example/x onerror=alert(2)>${7*7}{{7*7}}$\\frac{1}{0}$'
)


def test_hostile_words_stay_words(tmp_path, run):
    results, predictions, _ = run
    bad = HOSTILE
    results["task"]["classes"][0] = bad
    results["data"]["name"] = bad
    results["data"]["classes"] = {bad: 3, **results["data"]["classes"]}
    results["data"]["centres"] = {bad: 5}
    results["data"]["warnings"] = [bad]
    results["reason"] = results["repeat"] = bad
    results["settings"] = {bad: bad, "method_settings": {bad: {bad: bad}}}
    results["machine"] = {bad: bad}
    results["left_out"] = [{"source": bad, "reason": bad}]
    results["dropped"] = [{"model": bad, "method": bad, "reason": bad}]
    best = results["recommended"]
    predictions[best]["case"] = np.array([bad] * len(predictions[best]["case"]), dtype=object)
    for trial in results["trials"]:
        trial["licence"] = bad
        trial["model"] = trial["model"] if trial["model"] != "pca" else bad
        trial["method"] = trial["method"] if trial["method"] != "knn" else bad
        trial["per_class"] = {bad: next(iter(trial["per_class"].values()))}
        trial["per_centre"] = {bad: {"n": 3, "auc": None}}
    for row in results["summary"]:
        row["model"] = row["model"] if row["model"] != "pca" else bad
        row["method"] = row["method"] if row["method"] != "knn" else bad
    shown = written(tmp_path, run)
    assert sum(tag == "script" for tag, _ in shown.elements) == 1
    assert not any(name.startswith("on") for _, a in shown.elements for name in a)
    assert not any("evil" in (a.get("src") or "") for _, a in shown.elements)
    assert shown.text.count("alert(1)") > 10
    assert "${7*7}{{7*7}}" in shown.text


def test_the_plan_is_toml_that_reads_back():
    import tomllib

    given = {
        "models": ["a", 'b"\\'],
        "draws": 3,
        "limit": None,
        "allow": True,
        "minutes": 2.5,
        "odd key": "é\n",
        "method_settings": {"lora": {"rank": [4, 8]}},
    }
    read = tomllib.loads(page.plan_toml(given))
    assert read.pop("lora") == {"rank": [4, 8]}
    assert read == {k: v for k, v in given.items() if v is not None and k != "method_settings"}


def test_leaks_are_told_at_the_top(tmp_path, run):
    run[0]["data"]["split_leaks"] = [{"patient": "P007", "parts": ["train", "test"]}]
    text = written(tmp_path, run).text
    assert "The split leaks: 1 patient stands on both sides" in text
    assert text.index("The split leaks") < text.index("Effort against efficacy")


@pytest.mark.parametrize("kept", [0, 1, 3])
def test_few_trials(tmp_path, run, kept):
    results = run[0]
    results["trials"] = results["trials"][:kept]
    results["summary"] = results["summary"][:kept]
    results["front"], results["recommended"] = [], None
    results["reason"] = "No trial with real weights finished, so nothing is recommended."
    text = written(tmp_path, run).text
    assert "No recommendation" in text
    assert results["reason"] in text


def test_nothing_known_but_the_task(tmp_path):
    path = report.write(tmp_path / "r.html", {"task": {"primary": "auc"}}, predictions={}, thumbnails={})
    assert "No recommendation" in Page(path.read_text()).text


def test_scores_and_intervals_that_are_undefined(tmp_path, run):
    results = run[0]
    for index, trial in enumerate(results["trials"]):
        for score in trial["scores"].values():
            score["low"] = score["high"] = None
            if index % 2:
                score["value"] = None
        trial["per_centre"] = {}
        trial["effort"] = {}
        for key in ("cpu_seconds", "ms_per_prediction", "licence", "commercial_use"):
            trial[key] = None
    for row in results["summary"]:
        row |= {"low": None, "high": None, "spread_low": None, "spread_high": None}
    text = written(tmp_path, run).text
    assert "nan" not in text.lower().split()
    assert "The data name no centres" in text
    assert "No effort was measured" in text


def test_fifty_classes(tmp_path):
    results, predictions, thumbnails = explore_digits(
        digits=tuple(range(10)), models=("pca",), methods=("linear_probe",), budgets=("full",), centres=()
    )
    best = results["recommended"]
    rng = np.random.default_rng(0)
    n = len(predictions[best]["truth"])
    finer = predictions[best]["truth"] * 5 + rng.integers(0, 5, n)
    p = np.repeat(predictions[best]["probabilities"], 5, axis=1) / 5
    predictions[best] |= {"truth": finer, "probabilities": p}
    results["task"]["classes"] = [f"kind {i:02d} of a long name" for i in range(50)]
    shown = written(tmp_path, (results, predictions, thumbnails))
    assert "Commonest errors" in shown.text
    assert (tmp_path / "report.html").stat().st_size < 3_000_000


def test_two_classes_and_one_model_at_one_budget(tmp_path):
    run = explore_digits(
        digits=(3, 8), models=("edges",), methods=("knn",), budgets=("full",), centres=("Here",)
    )
    text = written(tmp_path, run).text
    assert "no curve to draw" in text
    assert "observed share of digit 8" in text


def test_many_trials_are_grouped(tmp_path, run, monkeypatch):
    monkeypatch.setattr(page, "TABLE_LIMIT", 5)
    shown = written(tmp_path, run)
    assert "one row per model, method and budget" in shown.text


def test_arrays_that_do_not_fit_are_refused(tmp_path, run):
    results, predictions, thumbnails = run
    predictions[results["recommended"]]["probabilities"] = np.ones((2, 2))
    with pytest.raises(ValueError, match="probabilities are"):
        report.write(tmp_path / "r.html", results, predictions=predictions, thumbnails=thumbnails)
    assert not (tmp_path / "r.html").exists()
    with pytest.raises(ValueError, match="PNG"):
        answers.picture_url(b"<svg onload=alert(1)>")


def test_plots_name_their_marks_and_follow_the_colour_scheme(explored):
    results = explored[0]
    found = gather.groups(results)
    looks = pareto.method_looks([g.method for g in found], {"majority": True})
    marks = pareto.model_marks([g.model for g in found])
    drawn = pareto.pareto_svg(found, pareto.AXES[0], primary="auc", looks=looks, marks=marks)
    for group in found:
        if group.model or group.budget == "full":
            assert f"<title>{html.escape(pareto.tooltip(group, pareto.AXES[0], 'auc'))}</title>" in drawn
    assert "var(--ink)" in drawn
    assert "<text" in drawn
    assert "<ns0" not in drawn
    assert looks["majority"][0] == "control"
    assert marks["pca"] == marks["pca-random"] != marks["edges"]
    panels = curves.panels(results["summary"], primary="auc", looks=looks)
    assert [model for model, _ in panels] == ["pca", "edges", "pca-random"]
    assert all("95 % interval over patients" in picture for _, picture in panels)


def test_groups_hold_the_draws_and_their_spread(explored):
    results = explored[0]
    for group in gather.groups(results):
        values = [t["scores"]["auc"]["value"] for t in group.trials]
        assert group.score == pytest.approx(np.mean(values))
        assert group.spread == ((min(values), max(values)) if len(values) > 1 else None)
        assert len(group.trials) == (1 if group.budget == "full" else 2)


def test_numbers_in_words():
    assert words.seconds(0.0001) == "< 1 ms"
    assert words.seconds(0.25) == "250 ms"
    assert words.seconds(61) == "1 min 1 s"
    assert words.seconds(59.7) == "1 min"
    assert words.seconds(610) == "10 min 10 s"
    assert words.seconds(1) == "1 s"
    assert words.seconds(7500) == "2 h 5 min"
    assert words.count(1280) == "1,280"
    assert words.count(21_300_000) == "21.3 M"
    assert words.megabytes(0.004) == "4.0 kB"
    assert words.megabytes(1400) == "1.4 GB"
    assert words.decimal({"value": None}) == words.decimal(float("nan")) == words.NONE
    assert words.interval({"low": 0.1, "high": 0.25}) == "0.100 to 0.250"
    assert words.plain({"a": [1, None, True]}) == "a: 1, –, yes"


def test_equal_results_give_equal_pages(tmp_path, run, whole):
    again = report.write(tmp_path / "b.html", run[0], predictions=run[1], thumbnails=run[2])
    assert again.read_bytes() == whole.read_bytes()


def test_the_evaluation_report(tmp_path, run):
    results, predictions, thumbnails = run
    best = gather.trial_by_id(results, results["recommended"])
    judged = {key: best[key] for key in ("scores", "per_class", "per_centre")}
    path = report.write_evaluation(
        tmp_path / "e.html",
        {
            "task": results["task"],
            "predictor": {"method": "linear_probe", "model": "pca"},
            "left_out": [],
            **judged,
        },
        predictions=predictions[best["id"]],
        thumbnails=thumbnails,
    )
    shown = Page(path.read_text())
    assert {"scores", "closer", "examples", "repeat", "glossary"} <= {a.get("id") for _, a in shown.elements}
    assert words.decimal(best["scores"]["accuracy"]) in shown.text
    assert "Confusion" in shown.text
    assert "linear probe on pca: AUC" in shown.text
    bare = report.write_evaluation(tmp_path / "bare.html", {"task": {}, "scores": {"auc": {"value": None}}})
    assert "no interval" in Page(bare.read_text()).text
