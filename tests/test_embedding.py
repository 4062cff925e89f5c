"""Embedding: equal bits whatever came before, nothing lost to a kill, memory that does not grow."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from medspectrum.case import LazyImage
from medspectrum.engine import openvino
from medspectrum.errors import UnreadableFile, UserError
from medspectrum.feature_store import FeatureStore, packed
from medspectrum.image import Image
from medspectrum.models import resolve
from medspectrum.store import digest


def picture(number: int) -> Image:
    rng = np.random.default_rng(number)
    return Image(rng.integers(0, 256, (1, 1, 30, 40), dtype=np.uint8), spacing_known=False)


def broken() -> Image:
    raise UnreadableFile("broken.png", "it ends in the middle")


def lazy(number: int) -> LazyImage:
    return LazyImage(f"{number}.png", partial(picture, number), partial(digest, "picture", number))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return resolve("timm:test_vit-random", size=64, cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture
def elsewhere(encoder, tmp_path):
    """The same encoder with its converted network, and an empty store of features."""
    encoder.ensure([])
    (tmp_path / "networks").symlink_to(encoder.folder / "networks")
    return replace(encoder, cache=tmp_path)


def test_bits_do_not_depend_on_order_neighbours_or_threads(encoder, elsewhere):
    images = [lazy(i) for i in range(7)]
    first = encoder.embed(images).pooled
    assert first.dtype == np.float32
    assert len({row.tobytes() for row in first}) == 7

    single = replace(elsewhere, threads=1)
    assert single.key == encoder.key
    odd = single.embed(images[5:2:-1]).pooled
    assert np.array_equal(odd, first[5:2:-1])
    rest = replace(elsewhere, threads=3).embed(images).pooled
    assert np.array_equal(rest, first)


def test_bits_do_not_depend_on_the_process_or_on_the_conversion(encoder, tmp_path):
    here = encoder.embed([lazy(2), lazy(0)]).pooled
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]);"
        "from test_embedding import lazy; from medspectrum.models import resolve;"
        "e = resolve('timm:test_vit-random', size=64, cache=sys.argv[2]);"
        "sys.stdout.write(e.embed([lazy(2), lazy(1), lazy(0)]).pooled.tobytes().hex())"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    there = np.frombuffer(bytes.fromhex(ran.stdout), np.float32).reshape(3, -1)
    assert np.array_equal(there[[0, 2]], here)


def cosine(here, there):
    return (here * there).sum(1) / np.linalg.norm(here, axis=1) / np.linalg.norm(there, axis=1)


@pytest.mark.parametrize(("precision", "least"), [("f32", 0.999999), (None, openvino.LEAST_COSINE)])
def test_features_are_those_of_the_network(encoder, monkeypatch, precision, least):
    import torch

    if precision:
        monkeypatch.setattr(openvino, "precision_for", lambda _: precision)
    images = [lazy(i) for i in range(3)]
    inputs = np.stack([encoder.prepare(i.load()) for i in images])
    with torch.inference_mode():
        there = encoder.network()(torch.from_numpy(inputs)).numpy()
    here = encoder.embed(images).pooled
    assert precision is None or np.allclose(here, there, atol=1e-4)
    assert cosine(here, there).min() > least


def test_without_conversion_torch_takes_over(encoder, tmp_path, monkeypatch):
    def refuse(*_):
        raise RuntimeError("operation not supported")

    monkeypatch.setattr(openvino, "convert", refuse)
    images = [lazy(i) for i in range(5)]
    plain = replace(encoder, cache=tmp_path)
    rows = plain.embed(images).pooled
    assert cosine(rows, encoder.embed(images).pooled).min() > openvino.LEAST_COSINE
    (why,) = (tmp_path / "networks").glob("*.refused.json")
    assert "operation not supported" in json.loads(why.read_text())["reason"]
    (stored,) = (tmp_path / "features").glob("*/pooled/*")
    assert stored.name == "torch-f32"
    again = replace(plain, threads=1, cache=tmp_path / "other").embed(images[::-1]).pooled
    assert np.array_equal(again[::-1], rows)


def test_a_conversion_that_changes_features_is_refused(encoder, tmp_path, monkeypatch):
    real = openvino.convert

    def wrong(module, shape, folder):
        for parameter in module.parameters():
            parameter.data *= 1.01
        real(module, shape, folder)
        for parameter in module.parameters():
            parameter.data /= 1.01

    monkeypatch.setattr(openvino, "convert", wrong)
    replace(encoder, cache=tmp_path).ensure([])
    (why,) = (tmp_path / "networks").glob("*.refused.json")
    assert "other features than torch" in json.loads(why.read_text())["reason"]


def test_only_what_is_missing_is_computed_and_progress_is_told(elsewhere, monkeypatch):
    images = [lazy(i) for i in range(6)]
    assert elsewhere.ensure(images[:4]) == []
    read: list[str] = []
    counted = [
        replace_load(i, lambda i=i: (read.append(i.source), i.load())[1]) for i in [*images, images[5]]
    ]
    told: list[tuple[int, int]] = []
    assert elsewhere.ensure(counted, lambda done, total: told.append((done, total))) == []
    assert read == ["4.png", "5.png"]
    assert told[-1] == (7, 7)
    assert [d for d, _ in told] == sorted(d for d, _ in told)
    wall, cpu = elsewhere.seconds_per_image()
    assert 0 < wall < 60
    assert cpu > 0


def replace_load(image: LazyImage, load) -> LazyImage:
    return LazyImage(image.source, load, image.key)


def test_unreadable_images_are_listed_and_the_rest_goes_on(elsewhere):
    bad = [LazyImage(f"bad{i}.png", broken, partial(digest, "bad")) for i in range(2)]
    gone = LazyImage("gone.png", broken, partial(broken))
    images = [lazy(0), bad[0], lazy(1), bad[1], gone]
    left = elsewhere.ensure(images)
    assert sorted((o.source, o.reason) for o in left) == [
        ("bad0.png", "it ends in the middle"),
        ("bad1.png", "it ends in the middle"),
        ("gone.png", "it ends in the middle"),
    ]
    assert elsewhere.embed([lazy(0), lazy(1)]).pooled.shape == (2, 64)
    with pytest.raises(UnreadableFile, match=r"bad0\.png"):
        elsewhere.embed(bad)


def test_a_volume_is_the_mean_of_its_slices(elsewhere):
    rng = np.random.default_rng(0)
    volume = rng.integers(0, 256, (1, 5, 30, 30), dtype=np.uint8)
    whole = LazyImage("v", lambda: Image(volume), partial(digest, "volume"))
    slices = [
        LazyImage(f"v{z}", lambda z=z: Image(volume[:, z : z + 1]), partial(digest, "slice", z))
        for z in range(5)
    ]
    mean = elsewhere.embed(slices).pooled.mean(axis=0)
    assert np.allclose(elsewhere.embed([whole]).pooled[0], mean, atol=1e-5)


def test_levels_of_features(encoder):
    images = [lazy(0), lazy(1)]
    made = encoder.embed(images, "tokens")
    assert made.tokens is not None
    assert made.tokens.shape == (2, 64, 4, 4)
    assert made.pooled.shape == (2, 0)
    assert encoder.embed(images).pooled.shape == (2, 64)
    with pytest.raises(UserError, match="no level 'deep'"):
        encoder.embed(images, "deep")


def test_the_input_side_follows_the_images():
    small = resolve("efficientnet-lite0").for_images([lazy(0)] * 3)
    assert small.size == (160,)
    assert resolve("dinov2-s-derived").for_images([]).size == (224,)
    bad = LazyImage("bad", broken, partial(digest, "bad"))
    assert resolve("dinov2-s-derived").for_images([bad]).size == (224,)


# --- the store of features


def keys_of(numbers) -> list[str]:
    return [digest("row", int(n)) for n in numbers]


def test_rows_come_back_in_the_order_asked(tmp_path):
    store = FeatureStore(tmp_path)
    rows = np.random.default_rng(0).standard_normal((50, 6)).astype(np.float32)
    keys = keys_of(range(50))
    assert store.missing(keys) == list(range(50))
    store.append(keys[:20], rows[:20], wall_seconds=2.0, cpu_seconds=4.0)
    store.append(keys[20:], rows[20:], wall_seconds=3.0, cpu_seconds=1.0)
    order = np.random.default_rng(1).permutation(50)
    assert np.array_equal(store.gather([keys[i] for i in order]), rows[order])
    assert store.missing([*keys, "new", "new", keys[3]]) == [50]
    assert store.seconds_per_row() == (0.1, 0.1)
    with pytest.raises(KeyError):
        store.gather(["absent"])
    with pytest.raises(ValueError, match="2 keys need rows"):
        store.append(keys[:2], rows[:3])


def test_digests_that_end_in_zeros_stay_apart(tmp_path):
    near = ["00" * 16, "00" * 15 + "01", "ab" + "00" * 15]
    store = FeatureStore(tmp_path)
    store.append(near[1:], np.arange(2, dtype=np.float32)[:, None])
    assert store.missing(near) == [0]
    assert len(set(packed([*near, "words", "other words"]).tolist())) == 5


def test_shards_that_are_no_shards_count_as_absent(tmp_path):
    store = FeatureStore(tmp_path)
    keys = keys_of(range(10))
    store.append(keys, np.ones((10, 3), np.float32))
    (shard,) = tmp_path.glob("*.rows")
    whole = shard.read_bytes()
    for name, content in {"empty": b"", "torn": whole[: len(whole) // 2], "noise": b"\xff" * 500}.items():
        (tmp_path / f"{name}.rows").write_bytes(content)
    fresh = FeatureStore(tmp_path)
    assert len(fresh) == 10
    shard.unlink()
    assert FeatureStore(tmp_path).missing(keys) == list(range(10))


def test_two_processes_see_each_others_rows(tmp_path):
    one, two = FeatureStore(tmp_path), FeatureStore(tmp_path)
    keys = keys_of(range(4))
    one.append(keys[:3], np.zeros((3, 2), np.float32))
    two.append(keys[1:], np.zeros((3, 2), np.float32))
    assert one.missing(keys) == two.missing(keys) == []
    assert one.gather(keys).shape == (4, 2)


APPENDING = """
import sys
import numpy as np
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from test_embedding import keys_of
from medspectrum.feature_store import FeatureStore
store = FeatureStore(Path(sys.argv[1]))
first = len(store)
print("ready", flush=True)
while True:
    numbers = np.arange(first, first + 300)
    store.append(keys_of(numbers), np.repeat(numbers[:, None], 2000, axis=1).astype(np.float32))
    first += 300
"""


def test_killed_at_any_moment_it_holds_whole_rows_only(tmp_path):
    rng = np.random.default_rng(0)
    for _ in range(4):
        started = subprocess.Popen(
            [sys.executable, "-c", APPENDING, str(tmp_path), str(Path(__file__).parent)],
            stdout=subprocess.PIPE,
        )
        assert started.stdout is not None
        started.stdout.readline()
        time.sleep(float(rng.uniform(0.02, 0.3)))
        os.kill(started.pid, signal.SIGKILL)
        started.wait()
        started.stdout.close()
    store = FeatureStore(tmp_path)
    assert len(store) > 0
    assert len(store) % 300 == 0
    numbers = rng.permutation(len(store))
    rows = store.gather(keys_of(numbers))
    assert np.array_equal(rows, np.repeat(numbers[:, None], 2000, axis=1).astype(np.float32))


def test_a_hundred_thousand_keys_are_looked_up_quickly(tmp_path):
    store = FeatureStore(tmp_path)
    keys = keys_of(range(100_000))
    rows = np.arange(100_000, dtype=np.float32)[:, None]
    for start in range(0, 100_000, 5000):
        store.append(keys[start : start + 5000], rows[start : start + 5000])
    start = time.process_time()
    assert store.missing(keys) == []
    assert np.array_equal(store.gather(keys[::-1]), rows[::-1])
    assert time.process_time() - start < 3


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    """Ten times the images, each read from its own made file, for at most a tenth more memory."""
    script = Path(__file__).parents[1] / "benchmarks" / "many_cases_embedding.py"
    command = [sys.executable, str(script), "--counts", "200", "2000", "--model", "timm:test_vit-random"]
    ran = subprocess.run(
        [*command, "--side", "64", "--size", "64", "--folder", str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "MEDSPECTRUM_CACHE": str(tmp_path / "cache")},
    )
    small, large = json.loads(ran.stdout)["curve"]
    assert (small["images"], large["images"]) == (200, 2000)
    assert large["stored"] == 2000
    assert large["peak_rss_mb"] < small["peak_rss_mb"] * 1.1 + 10


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_one_pass_fills_several_levels(encoder, tmp_path, monkeypatch, precision):
    """Rows of one pass are those of a pass each, and nothing is computed for them again."""
    if precision == "bf16" and not openvino.native_bf16():
        pytest.skip("this processor does not multiply bf16 natively")
    monkeypatch.setattr(openvino, "precision_for", lambda _: precision)
    passes = []
    own = type(encoder)._runner
    monkeypatch.setattr(type(encoder), "_runner", lambda e, level: (passes.append(level), own(e, level))[1])
    images = [lazy(i) for i in range(5)]
    together, apart = (replace(encoder, cache=tmp_path / name) for name in ("together", "apart"))
    assert together.ensure(images[:2], level="pooled") == []
    assert together.ensure(images, level="pooled+maps") == []
    pooled, maps = together.embed(images).pooled, together.embed(images, "maps").maps
    assert passes[-1] == "pooled+maps"
    assert len(together._store("pooled")) == len(together._store("maps")) == 5
    assert min(together.seconds_per_image("maps")) > 0
    alone = apart.embed(images).pooled, *apart.embed(images, "maps").maps
    for here, there in zip((pooled, *maps), alone, strict=True):
        assert np.array_equal(here, there)


def test_levels_of_different_arithmetic_take_a_pass_each(encoder, tmp_path, monkeypatch):
    convert = openvino.convert

    def only_pooled(module, shape, folder):
        if not folder.name.endswith("-pooled"):
            raise RuntimeError("operation not supported")
        convert(module, shape, folder)

    monkeypatch.setattr(openvino, "convert", only_pooled)
    own = replace(encoder, cache=tmp_path)
    assert own.ensure([lazy(0), lazy(1)], level="pooled+maps") == []
    assert own._store("pooled").folder.name.startswith("openvino")
    assert own._store("maps").folder.name.startswith("torch")
    assert len(own._store("pooled")) == len(own._store("maps")) == 2
