"""Make tests/data/published of CLIP and CheXzero by OpenAI's own code.

    python scripts/conformance/clip_reference.py CHECKOUT CHEXZERO

Checkouts of github.com/openai/CLIP (d05afc4) and rajpurkarlab/CheXzero (5c341db), whose model.py is
the same network. OpenAI's archives hold half precision; the small one is traced as theirs were.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import _keep
import torch

SIZES = {
    "clip-vit-b-32": (512, 224, 12, 768, 32, 77, 49408, 512, 8, 12),
    "clip-vit-b-16": (512, 224, 12, 768, 16, 77, 49408, 512, 8, 12),
    "clip-vit-l-14": (768, 224, 24, 1024, 14, 77, 49408, 768, 12, 12),
    "chexzero": (512, 224, 12, 768, 32, 77, 49408, 512, 8, 12),
}
SMALL = (16, 32, 1, 64, 16, 8, 50, 64, 1, 1)
SETTINGS = {
    "embed": 16,
    "side": 32,
    "patch": 16,
    "vision": [64, 1],
    "text": [64, 1],
    "heads": 1,
    "context": 8,
    "words": 50,
}


def code(path: Path):
    """A module read from a file."""
    spec = importlib.util.spec_from_file_location(f"original_{path.parent.name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    """Write all rows."""
    openai, chexzero = (Path(p) for p in sys.argv[1:3])
    for seed, (row, sizes) in enumerate(SIZES.items()):
        own = code(chexzero / "model.py" if row == "chexzero" else openai / "clip" / "model.py")
        torch.manual_seed(seed)
        network = own.CLIP(*SMALL).eval()
        _keep.stirred(network, seed, spread=0.05)
        pictures, words = torch.randn(2, 3, 32, 32), torch.randint(0, 50, (2, 8))
        with torch.no_grad():
            found = {"pictures": network.encode_image(pictures), "words": network.encode_text(words)}
        original = (
            "github.com/rajpurkarlab/CheXzero 5c341db, model.py"
            if row == "chexzero"
            else "github.com/openai/CLIP d05afc4, clip/model.py"
        )
        given = {"pictures": pictures, "words": words}
        _keep.answers(row, given, found, original=original, settings=SETTINGS)
        folder = _keep.folder(row)
        if row == "chexzero":
            torch.save({k: v.half() for k, v in network.state_dict().items()}, folder / "small.pt")
        else:
            for name, number in (("input_resolution", 32), ("context_length", 8), ("vocab_size", 50)):
                vars(network).pop(name, None)
                network.register_buffer(name, torch.tensor(number))
            own.convert_weights(network)  # norms and positions stay single precision, as in OpenAI's files
            traced = torch.jit.trace_module(network, {"encode_image": pictures}, check_trace=False)
            traced.save(str(folder / "small.pt"))
        with torch.device("meta"):
            whole = own.CLIP(*sizes)
        state = dict(whole.state_dict())
        if row != "chexzero":
            numbers = ("input_resolution", "context_length", "vocab_size")
            state |= {name: torch.empty((), device="meta") for name in numbers}
        _keep.shapes(row, state, listed_from="the published size, of the original code")


if __name__ == "__main__":
    main()
