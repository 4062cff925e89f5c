"""Windows over volumes: equal to a plain reference and to MONAI, whatever the sizes, axes and modes."""

import itertools

import numpy as np
import pytest

from medspectrum.engine import stitch, window_grid
from medspectrum.engine.body import body_box
from medspectrum.engine.windows import slide
from medspectrum.errors import UserError

SIZES = {
    "ordinary": ((23, 17, 20), (8, 6, 10)),
    "tiny": ((3, 2, 5), (8, 8, 8)),
    "one axis smaller": ((5, 30, 19), (8, 12, 8)),
    "as large as the window": ((8, 8, 8), (8, 8, 8)),
    "one slice": ((1, 21, 22), (4, 8, 8)),
    "picture": ((31, 18), (9, 8)),
    "small picture": ((5, 40), (9, 8)),
}


def made(size, channels=2, seed=0):
    return np.random.default_rng(seed).standard_normal((channels, *size)).astype(np.float32)


def run(batch):
    """Five scores that depend on the voxel, on its place in the window and on the window's mean."""
    places = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in batch.shape[2:]), indexing="ij")
    first, second = batch[:, 0], batch[:, 1]
    mean = batch.mean(axis=tuple(range(1, batch.ndim)), keepdims=True)[:, 0]
    parts = [first, second * places[0], np.abs(first) - mean, places[-1] * first, second - 0.1 * places[0]]
    return np.stack([np.broadcast_to(part, first.shape) for part in parts], axis=1)


def reference(volume, roi, overlap, blend, mirror=()):
    """Whole sums over a padded copy, every combination of flips by hand."""
    size = volume.shape[1:]
    lacking = [max(0, r - n) for r, n in zip(roi, size, strict=True)]
    padded = np.pad(volume, [(0, 0), *((d // 2, d - d // 2) for d in lacking)])
    whole = padded.shape[1:]
    begins = []
    for n, r in zip(whole, roi, strict=True):
        step = max(1, int(r * (1 - overlap)))
        along, first = [], 0
        while first + r < n:
            along.append(first)
            first += step
        begins.append([*along, n - r])
    weight = window_grid.importance(roi, blend).astype(np.float64)
    total, mass = np.zeros((5, *whole)), np.zeros(whole)
    turned = [c for k in range(len(mirror) + 1) for c in itertools.combinations(mirror, k)]
    for place in itertools.product(*begins):
        cut = (slice(None), *(slice(b, b + r) for b, r in zip(place, roi, strict=True)))
        for axes in turned:
            there = tuple(a + 1 for a in axes)
            scores = run(np.flip(padded[cut], there)[None].copy())[0]
            total[cut] += np.flip(scores, there) * weight
            mass[cut[1:]] += weight
    back = tuple(slice(d // 2, d // 2 + n) for d, n in zip(lacking, size, strict=True))
    return (total / mass)[(slice(None), *back)]


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize(("overlap", "blend"), [(0.5, "gaussian"), (0, "constant"), (0.7, "gaussian")])
def test_blending_equals_the_plain_reference(name, overlap, blend):
    size, roi = SIZES[name]
    volume = made(size)
    expected = reference(volume, roi, overlap, blend)
    scores = slide(run, volume, roi=roi, overlap=overlap, blend=blend, gives="scores")
    assert scores.shape == expected.shape
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected, atol=2e-5)


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("batch", [1, 3])
def test_the_rolling_band_gives_the_labels_of_full_accumulation(name, batch):
    size, roi = SIZES[name]
    volume = made(size, seed=1)
    for overlap in (0, 0.3, 0.5, 0.8):
        scores = slide(run, volume, roi=roi, overlap=overlap, gives="scores")
        labels = slide(run, volume, roi=roi, overlap=overlap, batch=batch)
        assert labels.dtype == np.uint8
        best = np.sort(scores, axis=0)
        clear = best[-1] - best[-2] > 1e-4  # dividing by the weights may turn a tie
        assert clear.mean() > 0.95
        assert np.array_equal(labels[clear], scores.argmax(0)[clear])


def test_the_band_is_no_thicker_than_a_window():
    tiles = window_grid.Tiles((64, 9, 9), (8, 9, 9), (window_grid.starts(64, 8, 0.5), [0], [0]))
    blend = stitch.Blend(tiles, np.ones((8, 9, 9), np.float32), turns=1, gives="labels")
    for place in tiles.places():
        blend.add(place, np.ones((3, 8, 9, 9), np.float32))
    assert blend._band.shape == (8, 3, 9, 9)
    assert blend.whole().shape == (64, 9, 9)


@pytest.mark.parametrize("mirror", [(0,), (2, 1), (0, 1, 2)])
def test_mirrored_windows_are_averaged(mirror):
    volume = made((13, 9, 11))
    expected = reference(volume, (8, 6, 8), 0.5, "gaussian", mirror)
    scores = slide(run, volume, roi=(8, 6, 8), mirror=mirror, gives="scores", batch=3)
    np.testing.assert_allclose(scores, expected, atol=2e-5)
    plain = slide(run, volume, roi=(8, 6, 8), gives="scores")
    assert np.abs(plain - expected).max() > 1e-2


def test_mirrored_centre_tiles_are_averaged():
    volume = made((8, 8, 8))
    found = slide(run, volume, roi=8, mirror=(1,), mode="centre", gives="scores")
    other = np.flip(run(np.flip(volume, 2)[None])[0], 2)
    np.testing.assert_allclose(found, (run(volume[None])[0] + other) / 2, atol=1e-6)


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("overlap", [0, 0.25, 0.5])
def test_centre_tiles_take_every_voxel_once_from_the_nearest_window(name, overlap):
    size, roi = SIZES[name]
    begins = tuple(window_grid.even_starts(n, r, overlap) for n, r in zip(size, roi, strict=True))
    tiles = window_grid.Tiles(size, roi, begins)
    taken = np.zeros(size, int)
    owner = np.full(size, -1)
    for number, place in enumerate(tiles.places()):
        there, here = tiles.core(place)
        taken[there] += 1
        owner[there] = number
        assert [s.stop - s.start for s in there] == [s.stop - s.start for s in here]
        for part, inner, begin, side in zip(
            there, here, (b[i] for b, i in zip(begins, place, strict=True)), roi, strict=True
        ):
            assert part.start - begin == inner.start
            assert inner.start >= 0
            assert inner.stop <= side
    assert (taken == 1).all()
    middles = [np.array(b) + (r - 1) / 2 for b, r in zip(begins, roi, strict=True)]
    numbers = [np.abs(np.arange(n)[:, None] - m[None]).argmin(1) for n, m in zip(size, middles, strict=True)]
    nearest = np.ravel_multi_index(np.meshgrid(*numbers, indexing="ij"), [len(m) for m in middles])
    assert np.array_equal(owner, nearest)


def test_centre_tiles_carry_the_scores_of_their_windows():
    volume = made((20, 9, 8))
    scores = slide(run, volume, roi=8, overlap=0.25, mode="centre", gives="scores")
    begins = window_grid.even_starts(20, 8, 0.25)
    assert begins == [0, 6, 12]
    assert window_grid.even_starts(9, 8, 0.25) == [0, 1]
    inner = run(volume[:, 6:14, 0:8, :][None])[0]
    np.testing.assert_array_equal(scores[:, 7:13, :4], inner[:, 1:7, :4])
    labels = slide(run, volume, roi=8, overlap=0.25, mode="centre")
    assert np.array_equal(labels, scores.argmax(0))


def test_centre_mode_needs_fewer_windows():
    seen = {"blend": 0, "centre": 0}
    for mode in seen:

        def counted(batch, mode=mode):
            seen[mode] += len(batch)
            return batch

        slide(counted, made((64, 64, 32), 1), roi=24, mode=mode)
    assert seen["centre"] * 2 < seen["blend"]


def test_a_network_without_surroundings_gives_the_same_in_every_mode():
    volume = made((19, 23, 14), 3)
    expected = volume.argmax(0)
    for mode, mirror in itertools.product(("blend", "centre"), ((), (0, 2))):
        assert np.array_equal(slide(lambda b: b, volume, roi=8, mode=mode, mirror=mirror), expected)


def test_one_class_is_labelled_where_its_score_is_above_zero():
    volume = made((9, 9, 9), 1)
    assert np.array_equal(slide(lambda b: b, volume, roi=8), (volume[0] > 0).astype(np.uint8))


def test_labels_of_takes_the_first_of_equals_and_many_classes():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 4, (7, 6, 5)).astype(np.float32)
    assert np.array_equal(stitch.labels_of(scores), scores.argmax(0))
    many = rng.standard_normal((300, 4, 4)).astype(np.float32)
    assert stitch.labels_of(many).dtype == np.uint16
    assert np.array_equal(stitch.labels_of(many), many.argmax(0))


def test_body_box_skips_the_air_and_keeps_the_body():
    rng = np.random.default_rng(0)
    volume = rng.normal(-1000, 20, (1, 60, 80, 90)).astype(np.float32)
    volume[0, 10:50, 30:60, 40:70] = rng.normal(40, 60, (40, 30, 30))
    volume[0, 20:40, 35:50, 45:60] = -850  # lungs lie inside
    volume[0, 3, 5, 5] = 3000  # a speck is no body
    box = body_box(volume, margin=4)
    for (first, end), (low, high) in zip(box, ((10, 50), (30, 60), (40, 70)), strict=True):
        assert low - 6 <= first <= low
        assert high <= end <= high + 6
    windows = []

    def counted(batch):
        windows.append(len(batch))
        return np.concatenate([batch * 0 + 1, batch + 500], axis=1)

    labels = slide(counted, volume, roi=16, body_box=True)
    full = slide(lambda b: np.concatenate([b * 0 + 1, b + 500], axis=1), volume, roi=16)
    inside = tuple(slice(*ends) for ends in body_box(volume))
    assert np.array_equal(labels[inside], full[inside])
    outside = np.ones(labels.shape, bool)
    outside[inside] = False
    assert not labels[outside].any()
    assert len(windows) < 0.5 * len(
        list(itertools.product(*(window_grid.starts(n, 16, 0.5) for n in (60, 80, 90))))
    )


def test_a_body_box_smaller_than_the_window_keeps_its_real_surroundings():
    volume = np.zeros((1, 40, 40, 40), np.float32)
    volume[0, 36:39, 18:22, 0:3] = 1
    seen = []

    def kept(batch):
        seen.append(batch[0, 0].copy())
        return np.concatenate([0.5 - batch, batch], axis=1)

    labels = slide(kept, volume, roi=32, body_box=True)
    assert np.array_equal(labels, volume[0] > 0.5)
    assert all(window.shape == (32, 32, 32) for window in seen)
    assert slide(kept, np.ones((1, 5, 6, 7), np.float32), roi=4, body_box=True).all()


def test_progress_counts_windows_and_networks_that_work_ahead_are_asked_once():
    told = []
    slide(run, made((12, 8, 8)), roi=8, batch=2, progress=lambda done, total: told.append((done, total)))
    assert told == [(2, 2)]

    class Ahead:
        def ahead(self, batches):
            held = [run(batch) for batch in batches]
            yield from held

    volume = made((20, 20, 20))
    assert np.array_equal(slide(Ahead(), volume, roi=8), slide(run, volume, roi=8))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"roi": (8, 8)}, "2 sides"),
        ({"roi": 0}, "at least 1 voxel"),
        ({"roi": 8, "overlap": 1.0}, "below 1"),
        ({"roi": 8, "blend": "linear"}, "no blend"),
        ({"roi": 8, "mode": "fast"}, "modes"),
        ({"roi": 8, "gives": "masks"}, "labels or scores"),
        ({"roi": 8, "mirror": (3,)}, "mirrored axes"),
        ({"roi": 8, "mirror": (0, 0)}, "mirrored axes"),
        ({"roi": 8, "batch": 0}, "at least 1 window"),
    ],
)
def test_settings_that_do_not_fit_are_refused_in_words(settings, words):
    with pytest.raises(UserError, match=words):
        slide(run, made((9, 9, 9)), **settings)


def test_a_network_on_another_grid_is_refused():
    with pytest.raises(UserError, match="the window's own grid"):
        slide(lambda b: b[..., ::2], made((9, 9, 9)), roi=8)
    with pytest.raises(UserError, match="got the shape"):
        slide(run, np.zeros((4, 4)), roi=2)


@pytest.mark.parametrize("name", SIZES)
def test_the_same_as_monai(name):
    torch = pytest.importorskip("torch")
    inferers = pytest.importorskip("monai.inferers", reason="MONAI is not installed")
    size, roi = SIZES[name]
    torch.manual_seed(0)
    layer = (torch.nn.Conv3d if len(size) == 3 else torch.nn.Conv2d)(2, 5, 3, padding=1)
    volume = made(size)
    for overlap, blend in itertools.product((0.0, 0.25, 0.5, 0.6), ("gaussian", "constant")):
        with torch.inference_mode():
            expected = inferers.sliding_window_inference(
                torch.from_numpy(volume[None]), roi, 2, layer, overlap=overlap, mode=blend
            )[0].numpy()

            def ours(batch):
                return layer(torch.from_numpy(batch)).numpy()

            found = slide(ours, volume, roi=roi, overlap=overlap, blend=blend, gives="scores")
        np.testing.assert_allclose(found, expected, atol=1e-5)
