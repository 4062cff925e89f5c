"""Classes by several readers: what a table says, what heads learn of it, what a model is held against."""

import functools

import numpy as np
import pytest
from PIL import Image

from medspectrum import registry
from medspectrum.agreement import agreement
from medspectrum.case import Case, ClassTarget, Features, LazyImage, majority
from medspectrum.datasets import load
from medspectrum.describe import describe
from medspectrum.errors import UserError
from medspectrum.metrics.readers import beside_readers
from medspectrum.report import write_evaluation
from medspectrum.tasks.classify import Classify

WIDE = """image,patient,anna,bert,carl,age
0.png,p0,2,2,1,40
1.png,p0,1,1,1,41
2.png,p1,3,1,,42
3.png,p2,,,,43
4.png,p3,,10,,44
"""


@pytest.fixture
def folder(tmp_path):
    for number in range(6):
        grey = np.full((8, 9), 20 * number, np.uint8)
        grey[number, : number + 1] = 255
        Image.fromarray(grey).save(tmp_path / f"{number}.png")
    (tmp_path / "wide.csv").write_text(WIDE)
    lines = [line.split(",") for line in WIDE.strip().splitlines()[1:]]
    long = ["image,patient,rater,label,age"]
    for who in (0, 1, 2):  # the rows of an image lie apart
        long += [
            f"{name},{of},{('anna', 'bert', 'carl')[who]},{told[who]},{age}" for name, of, *told, age in lines
        ]
    (tmp_path / "long.csv").write_text("\n".join(long))
    return tmp_path


def test_a_column_for_each_reader_and_a_row_for_each_are_the_same_cases(folder):
    wide = load(folder / "wide.csv", label="anna,bert,carl")
    assert [c.target and c.target.label for c in wide.cases] == ["2", "1", "1", None, "10"]
    assert wide.cases[0].target.readers == (("anna", "2"), ("bert", "2"), ("carl", "1"))
    assert wide.cases[0].target.shares() == {"2": pytest.approx(2 / 3), "1": pytest.approx(1 / 3)}
    assert wide.cases[4].target.readers == (("bert", "10"),)
    assert wide.cases[2].record == {"age": "42"}, "what readers said is no fact about the case"
    assert wide.labels() == ("1", "2", "10")
    ties = [words for words in wide.warnings if "tie on" in words]
    assert len(ties) == 1
    assert "tie on 1 of 4 cases (such as 2.png)" in ties[0]

    long = load(folder / "long.csv")
    assert [(c.id, c.patient, c.target, c.record) for c in long.cases] == [
        (c.id, c.patient, c.target, c.record) for c in wide.cases
    ]
    assert any("'rater'" in words and "joined" in words for words in long.warnings)
    assert load(folder / "long.csv", reader="rater").cases == long.cases
    assert describe(folder / "wide.csv", label="anna,bert,carl", quiet=True)["classes"] == {
        "1": 2, "2": 1, "10": 1,
    }  # fmt: skip


def test_the_majority_is_that_of_the_agreement(folder):
    agreement(folder / "wide.csv", case="image", readers="anna,bert,carl", out=folder / "m.csv", quiet=True)
    rows = [line.split(",") for line in (folder / "m.csv").read_text().splitlines()[1:]]
    cases = load(folder / "wide.csv", label="anna,bert,carl").cases
    assert {r[0]: r[3] for r in rows} == {c.id: c.target.label for c in cases if c.target}


def test_one_label_a_case_stays_what_it_was(folder):
    (folder / "one.csv").write_text("image,reader,label\n0.png,anna,a\n1.png,bert,b\n")
    cases = load(folder / "one.csv").cases
    assert [(c.target.label, c.target.readers) for c in cases] == [("a", ()), ("b", ())]
    assert [c.record for c in cases] == [{"reader": "anna"}, {"reader": "bert"}]
    (folder / "comma.csv").write_text('image,"a,b"\n0.png,x\n1.png,y\n')
    assert load(folder / "comma.csv", label="a,b").labels() == ("x", "y")


@pytest.mark.parametrize(
    ("rows", "settings", "said"),
    [
        ("0.png,p,anna,1\n0.png,p,anna,2", {}, "line 3: reader anna gives an image two labels .1 and 2."),
        ("0.png,p,anna,1\n0.png,q,bert,1", {}, "line 3 gives the image of line 2 another patient .q and p."),
        ("0.png,p,anna,1", {"reader": "who"}, "has no column 'who' for reader"),
        ("0.png,p,anna,1", {"label": "label,rater,nobody"}, "has no column 'nobody' for label"),
        ("0.png,p,anna,1", {"label": "label,patient", "reader": "rater"}, "not both"),
    ],
)
def test_what_contradicts_itself_is_one_sentence(folder, rows, settings, said):
    (folder / "t.csv").write_text(f"image,patient,rater,label\n{rows}\n")
    with pytest.raises(UserError, match=said):
        load(folder / "t.csv", **settings)


def test_a_label_of_nobody_is_left_out_and_named(folder):
    (folder / "t.csv").write_text("image,rater,label\n0.png,anna,1\n0.png,,2\n1.png,bert,2\n1.png,anna,\n")
    found = load(folder / "t.csv")
    assert [c.target.readers for c in found.cases] == [(("anna", "1"),), (("bert", "2"),)]
    assert [(x.source, x.reason) for x in found.left_out] == [
        ("line 3", "has a label but no reader in column 'rater'")
    ]


class Asked:
    """A model whose features are the numbers that a case was made from."""

    key = "asked"

    def __init__(self, rows):
        self.rows = rows

    def embed(self, images, level="pooled"):
        return Features(np.array([self.rows[int(image.source)] for image in images], dtype=np.float32))


def made(count, classes, seed, *, readers=3, sure=False):
    """Cases whose readers each draw a class from the case's own probabilities: a model, cases, probabilities.

    The first class is rarer. sure: all readers of a case say the same.
    """
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(count, 6))
    logits = rows[:, :classes] * 1.3 - np.eye(classes)[0] * 0.8
    truth = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    cases = []
    for n, own in enumerate(truth):
        told = [str(c) for c in rng.choice(classes, size=readers, p=own)]
        told = [told[0]] * readers if sure else told
        image = LazyImage(str(n), functools.partial(int, n), functools.partial(str, n))
        given = tuple((f"R{i}", word) for i, word in enumerate(told))
        cases.append(Case(str(n), f"p{n // 2}", {"image": image}, ClassTarget(majority(told)[0], given)))
    return Asked(rows), cases, truth


HEADS = [("ridge", {}), ("linear_probe", {}), ("linear_probe", {"weighting": "root"})]
HEADS += [("linear_probe", {"weighting": "none", "prevalence": "labelled"})]


@pytest.mark.parametrize(("head", "settings"), HEADS)
@pytest.mark.parametrize("classes", [2, 4])
def test_soft_labels_are_hard_ones_where_readers_agree(head, settings, classes):
    model, cases, _ = made(90, classes, 5, sure=True)
    task, fit = Classify.of(cases), registry.find("method", head).thing
    hard, soft = (fit(model, cases, task, seed=0, soft=on, **settings).predict(cases) for on in (False, True))
    np.testing.assert_allclose(soft, hard, atol=2e-4)


@pytest.mark.parametrize(("head", "settings"), HEADS)
@pytest.mark.parametrize("classes", [2, 4])
def test_soft_labels_are_better_calibrated_where_readers_differ(head, settings, classes):
    """Log loss of what a reader would say, on new cases, in the population that the head speaks of."""
    gains = []
    for seed in range(4):
        model, cases, truth = made(700, classes, seed)
        task, fit = Classify.of(cases), registry.find("method", head).thing
        learned, new = cases[:300], slice(300, 700)
        common = truth[:300].mean(axis=0) if settings.get("prevalence") != "labelled" else np.ones(classes)
        wanted = truth[new] / common
        weights = wanted.sum(axis=1)
        losses = []
        for soft in (False, True):
            found = fit(model, learned, task, seed=0, soft=soft, **settings).predict(cases[new])
            losses.append(-(wanted * np.log(found)).sum() / weights.sum())
        gains.append(losses[0] - losses[1])
    print(head, settings, classes, np.round(gains, 4))
    assert min(gains) > 0


def test_a_soft_setting_changes_nothing_without_readers_and_is_kept_with_the_head():
    model, cases, _ = made(40, 2, 1, sure=True)
    plain = [Case(c.id, c.patient, c.images, ClassTarget(c.target.label)) for c in cases]
    task = Classify.of(plain)
    for head in ("ridge", "linear_probe"):
        entry = registry.find("method", head)
        hard, soft = (entry.thing(model, plain, task, seed=0, soft=on) for on in (False, True))
        np.testing.assert_array_equal(soft.predict(plain), hard.predict(plain))
        arrays, kept = soft.state()
        assert kept["soft"] is True
        assert entry.facts["restore"](model, arrays, kept).settings == soft.settings


def test_another_reading_is_another_fingerprint():
    """Else a trial on soft labels would be found finished though a reader changed his mind."""
    _, cases, _ = made(3, 2, 2, readers=5)
    task = Classify(("0", "1"))
    case = cases[0]
    turned = [(who, word if who != "R4" else "01"[word == "0"]) for who, word in case.target.readers]
    other = Case(case.id, case.patient, case.images, ClassTarget(case.target.label, tuple(turned)))
    assert task.target(other) == task.target(case)
    assert task.fingerprint(other) != task.fingerprint(case)
    assert task.fingerprint(Case("a", "a", {}, ClassTarget("1"))) == 1


def kappa_by_hand(one, two, weight):
    """Cohen's kappa from the definition, over paired labels with a weight for each case."""
    values = sorted({*one, *two})
    table = np.zeros((len(values),) * 2)
    for a, b, w in zip(one, two, weight, strict=True):
        table[values.index(a), values.index(b)] += w
    table /= table.sum()
    chance = table.sum(axis=1) @ table.sum(axis=0)
    return (np.trace(table) - chance) / (1 - chance)


def test_kappa_with_the_others_is_that_of_the_definition():
    from sklearn.metrics import cohen_kappa_score

    ratings = np.array([[0, 0, 1], [1, 1, 1], [2, 1, 2], [0, 2, -1], [2, 2, 2], [1, 0, 0], [0, 1, 2]])
    answers = np.array([0, 1, 2, 0, 2, 0, 1])
    found = beside_readers(ratings, answers, ("0", "1", "2"), "abc", list("pqrstuv"), resamples=50)
    # reader c left out: a and b agree on some cases and tie on others, where half a case counts for each
    told = [
        (1, 0, 1), (1, 1, 1), (2, 2, 0.5), (2, 1, 0.5), (2, 2, 1), (0, 1, 0.5), (0, 0, 0.5), (2, 0, 0.5),
        (2, 1, 0.5),
    ]  # fmt: skip
    assert found["per_reader"][2]["cases"] == 6
    assert found["per_reader"][2]["kappa"]["readers"]["value"] == pytest.approx(
        kappa_by_hand(*zip(*told, strict=True))
    )
    assert found["ties"] == 2
    two = beside_readers(ratings[:3, :2], answers[:3], ("0", "1", "2"), "ab", list("pqr"), resamples=0)
    for reader, other in ((0, 1), (1, 0)):
        for name, kind in (("kappa", None), ("weighted_kappa", "quadratic")):
            row = two["per_reader"][reader][name]
            for who, said in (("readers", ratings[:3, reader]), ("model", answers[:3])):
                wanted = cohen_kappa_score(said, ratings[:3, other], weights=kind, labels=[0, 1, 2])
                assert row[who]["value"] == pytest.approx(wanted)


@pytest.mark.parametrize(("skill", "sign"), [(1.0, 1), (0.0, -1)])
def test_a_model_that_knows_more_or_less_than_a_reader_is_told_apart(skill, sign):
    rng = np.random.default_rng(3)
    truth = rng.integers(3, size=240)

    def says(share):
        return np.where(rng.random(240) < share, truth, rng.integers(3, size=240))

    ratings = np.stack([says(0.7) for _ in range(4)], axis=1)
    ratings[rng.random((240, 4)) < 0.1] = -1
    several = (ratings >= 0).sum(axis=1) > 1
    ratings, answers = ratings[several], says(skill)[several]
    patients = [f"p{i // 3}" for i in range(len(ratings))]
    found = beside_readers(ratings, answers, ("x", "y", "z"), "abcd", patients)
    gap = found["kappa"]["difference"]
    assert gap["low"] * sign > 0 < gap["high"] * sign
    assert gap["value"] == pytest.approx(
        found["kappa"]["model"]["value"] - found["kappa"]["readers"]["value"]
    )
    assert found["weighted_kappa"] is None, "words have no distance"
    assert found["patients"] == len(set(patients))
    assert [row["reader"] for row in found["per_reader"]] == list("abcd")
    again = beside_readers(ratings, answers, ("x", "y", "z"), "abcd", patients)
    assert again == found


def test_a_reader_judged_as_a_model_agrees_as_that_reader_does():
    """The model is held against the same answers as the reader whom it stands in for."""
    rng = np.random.default_rng(8)
    ratings = rng.integers(4, size=(50, 3))
    found = beside_readers(ratings, ratings[:, 1], tuple("0123"), "abc", [str(i) for i in range(50)])
    for name in ("kappa", "weighted_kappa", "equal"):
        assert found["per_reader"][1][name]["readers"] == found["per_reader"][1][name]["model"]
        assert found["per_reader"][1][name]["difference"] == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_details_tell_of_readers_only_where_there_are_several():
    _, cases, truth = made(60, 2, 4)
    task = Classify.of(cases)
    told = task.in_detail(truth, cases, resamples=20)["readers"]
    assert (told["cases"], told["patients"], told["readers"]) == (60, 30, 3)
    assert told["kappa"]["model"]["low"] <= told["kappa"]["model"]["value"] <= told["kappa"]["model"]["high"]
    for own in ((("R0", "1"),), ()):
        alone = [Case(c.id, c.patient, c.images, ClassTarget(c.target.label, own)) for c in cases]
        assert "readers" not in task.in_detail(truth, alone, resamples=0)
    assert "readers" not in task.score(truth, cases, resamples=0)


@pytest.mark.parametrize("words", [("0", "1", "2"), ("x<b>", "y", "z")])
def test_the_report_shows_the_model_beside_each_reader(tmp_path, words):
    rng = np.random.default_rng(2)
    ratings = rng.integers(3, size=(40, 3))
    told = beside_readers(
        ratings, ratings[:, 0], words, ("anna", "<i>bert", "carl"), [str(i) for i in range(40)], resamples=50
    )
    results = {"task": {"name": "classify", "classes": words, "primary": "auc"}, "scores": {"auc": None}}
    bare = write_evaluation(tmp_path / "bare.html", results).read_text()
    assert "Beside the readers" not in bare
    page = write_evaluation(tmp_path / "e.html", {**results, "readers": told}).read_text()
    for who in ("anna", "&lt;i&gt;bert", "carl", "each in turn"):
        assert f">{who}</td>" in page
    kind = "weighted_kappa" if words[0] == "0" else "kappa"
    assert ("quadratic weights" in page) == (kind == "weighted_kappa")
    for row in (told, *told["per_reader"]):
        for who in ("readers", "model"):
            assert f"{row[kind][who]['value']:.3f}" in page
    two = beside_readers(np.zeros((2, 2), int), np.zeros(2, int), words, "ab", ["p", "p"], resamples=0)
    assert two["kappa"]["model"]["value"] is None, "nothing varies, so nothing is known"
    assert (
        "Beside the readers" in write_evaluation(tmp_path / "n.html", {**results, "readers": two}).read_text()
    )
