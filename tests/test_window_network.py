"""Networks made ready for windows: the same scores as torch, ahead of the stitching, kept once."""

import numpy as np
import pytest

from medspectrum.engine import openvino
from medspectrum.engine.eager import Eager
from medspectrum.engine.window_network import identity_of, window_network
from medspectrum.engine.windows import slide

torch = pytest.importorskip("torch")


def network(seed=0, dims=3):
    torch.manual_seed(seed)
    layer, norm = (
        (torch.nn.Conv3d, torch.nn.InstanceNorm3d)
        if dims == 3
        else (torch.nn.Conv2d, torch.nn.InstanceNorm2d)
    )
    return torch.nn.Sequential(layer(2, 6, 3, padding=1), norm(6), torch.nn.LeakyReLU(), layer(6, 4, 1))


def volume(size=(20, 18, 17), channels=2):
    return np.random.default_rng(3).standard_normal((channels, *size)).astype(np.float32)


def test_converted_and_eager_networks_agree_and_leave_the_module_alone(tmp_path):
    module = network()
    converted = window_network(module, roi=12, channels=2, cache=tmp_path)
    eager = window_network(module, roi=12, channels=2, convert=False)
    assert converted.how.startswith("openvino")
    assert eager.how == "torch-f32"
    assert module.training
    assert all(p.requires_grad for p in module.parameters())
    with torch.inference_mode():
        expected = slide(
            lambda b: module.eval()(torch.from_numpy(b)).numpy(), volume(), roi=12, gives="scores"
        )
    apart = 0.05 if converted.how.endswith("bf16") else 1e-4
    for run, atol in ((converted, apart), (eager, 1e-5)):
        for batch in (1, 3):
            found = slide(run, volume(), roi=12, gives="scores", batch=batch)
            np.testing.assert_allclose(found, expected, atol=atol)
    batch = np.stack([volume((12, 12, 12)), volume((12, 12, 12)) + 1])
    with torch.inference_mode():
        np.testing.assert_allclose(converted(batch), module(torch.from_numpy(batch)).numpy(), atol=apart)


def test_scores_do_not_depend_on_the_number_of_streams(tmp_path):
    found = [
        slide(
            window_network(network(), roi=8, channels=2, cache=tmp_path, streams=streams),
            volume(),
            roi=8,
            gives="scores",
        )
        for streams in (1, 2, 3)
    ]
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])


def test_pictures_are_taken_too(tmp_path):
    module = network(dims=2).eval()
    run = window_network(module, roi=(16, 12), channels=2, cache=tmp_path)
    eager = window_network(module, roi=16, axes=2, channels=2, convert=False)
    picture = volume((40, 31))
    with torch.inference_mode():
        expected = module(torch.from_numpy(picture[None, :, :16, :12])).numpy()
    np.testing.assert_allclose(
        run(picture[None, :, :16, :12]), expected, atol=0.05 if "bf16" in run.how else 1e-4
    )
    assert slide(eager, picture, roi=16).shape == (40, 31)


def test_a_conversion_is_kept_under_weights_and_code(tmp_path, monkeypatch):
    window_network(network(), roi=8, channels=2, cache=tmp_path)
    assert len(list((tmp_path / "networks").glob("windows-*"))) == 1

    def never(*_):
        raise AssertionError("converted again")

    with monkeypatch.context() as patched:
        patched.setattr(openvino, "convert", never)
        again = window_network(network(), roi=8, channels=2, cache=tmp_path)
    assert again.how.startswith("openvino")
    window_network(network(1), roi=8, channels=2, cache=tmp_path)
    assert len(list((tmp_path / "networks").glob("windows-*"))) == 2
    assert identity_of(network()) == identity_of(network())
    assert identity_of(network()) != identity_of(network(1))
    window_network(network(2), roi=8, channels=2, cache=tmp_path, keep=False)
    assert len(list((tmp_path / "networks").glob("windows-*"))) == 2


def test_a_network_that_cannot_be_converted_is_run_by_torch(tmp_path, monkeypatch):
    def refused(*_):
        raise RuntimeError("no such operation")

    monkeypatch.setattr(openvino, "convert", refused)
    run = window_network(network(), roi=8, channels=2, cache=tmp_path)
    assert run.how == "torch-f32"
    assert "no such operation" in run.refusal
    assert slide(run, volume(), roi=8).shape == (20, 18, 17)


def test_a_conversion_with_other_scores_is_refused(tmp_path, monkeypatch):
    plain = openvino.convert
    monkeypatch.setattr(
        openvino, "convert", lambda module, shape, folder: plain(network(5).eval(), shape, folder)
    )
    run = window_network(network(), roi=8, channels=2, cache=tmp_path)
    assert run.how == "torch-f32"
    assert "differ from torch" in run.refusal


def test_working_ahead_keeps_the_order_and_can_be_left_early(tmp_path):
    inputs = [volume((8, 8, 8)) * scale for scale in range(9)]
    run = window_network(network(), roi=8, channels=2, cache=tmp_path)
    singly = [run(i[None])[0] for i in inputs]
    together = [part[0].copy() for part in run.ahead(i[None] for i in inputs)]
    for one, other in zip(singly, together, strict=True):
        assert np.array_equal(one, other)
    next(iter(run.ahead(i[None] for i in inputs)))
    threads = torch.get_num_threads()
    eager = Eager(network().eval(), streams=2)
    assert len(list(eager.ahead(inputs))) == 9
    assert torch.get_num_threads() == threads
