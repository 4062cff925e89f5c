"""Served models are asked by one small client; the server here is this test's own."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from medspectrum.errors import UserError
from medspectrum.models import api


class Server(BaseHTTPRequestHandler):
    reply: object
    code = 200
    seen: list
    wait_s = 0.0

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append((self.path, dict(self.headers), body))
        time.sleep(self.wait_s)
        held = self.reply if isinstance(self.reply, bytes) else json.dumps(self.reply).encode()
        self.send_response(self.code)
        if self.code == 307:
            self.send_header("Location", "http://127.0.0.1:9/elsewhere")
        self.send_header("Content-Length", str(len(held)))
        self.end_headers()
        self.wfile.write(held)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    handler = type("Handler", (Server,), {"seen": [], "reply": said("a lung")})
    made = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    made.handle_error = lambda *_: None  # a client that would not wait has gone
    threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True).start()
    yield handler, f"http://127.0.0.1:{made.server_port}/v1"
    made.shutdown()
    made.server_close()


def said(text):
    return {"choices": [{"message": {"role": "assistant", "content": text}}]}


def test_a_question_with_a_picture_arrives_whole(server):
    from PIL import Image

    handler, url = server
    picture = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
    served = api.connect(url + "/", model="m", key="secret")
    assert "secret" not in repr(served)
    assert handler.seen == [], "nothing is sent before something is asked"
    assert api.ask(served, "what is it?", pictures=[picture], instructions="be brief") == "a lung"
    path, headers, body = handler.seen[0]
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer secret"
    assert body["model"] == "m"
    assert body["temperature"] == 0.0
    system, user = body["messages"]
    assert system == {"role": "system", "content": "be brief"}
    text, shown = user["content"]
    assert text["text"] == "what is it?"
    sent = Image.open(io.BytesIO(base64.b64decode(shown["image_url"]["url"].partition(",")[2])))
    assert np.array_equal(np.moveaxis(np.asarray(sent), -1, 0), picture)


def test_the_key_is_read_from_the_environment_when_something_is_asked(server, monkeypatch):
    handler, url = server
    served = api.connect(url, model="m")
    monkeypatch.delenv(api.KEY, raising=False)
    api.ask(served, "?")
    monkeypatch.setenv(api.KEY, "late")
    api.ask(served, "?")
    assert [h.get("Authorization") for _, h, _ in handler.seen] == [None, "Bearer late"]


def test_answers_in_json(server):
    handler, url = server
    served = api.connect(url, model="m")
    handler.reply = said('```json\n{"nodules": 2}\n```')
    schema = {"type": "object", "properties": {"nodules": {"type": "integer"}}}
    assert api.ask_for_json(served, "how many?", schema=schema) == {"nodules": 2}
    assert handler.seen[-1][2]["response_format"]["json_schema"]["schema"] == schema
    assert api.ask_for_json(served, "how many?") == {"nodules": 2}
    assert handler.seen[-1][2]["response_format"] == {"type": "json_object"}
    handler.reply = said("two, I think")
    with pytest.raises(UserError, match=r"m at http.* answered no JSON \('two, I think'\)"):
        api.ask_for_json(served, "how many?")


@pytest.mark.parametrize(
    ("code", "reply", "words"),
    [
        (401, {"error": {"message": "no such key"}}, r"refused the key \(no such key\)"),
        (404, {"error": "model m does not exist"}, r"is not there \(model m does not exist\)"),
        (429, {}, "takes no more for now"),
        (500, b"<html>down</html>", "answered 500"),
        (307, b"", "answered 307"),
        (200, b"<html>hello</html>", "something else than a chat completion"),
        (200, {"choices": []}, "something else than a chat completion"),
        (200, said(""), "answered nothing"),
    ],
)
def test_what_goes_wrong_is_one_sentence(server, code, reply, words):
    handler, url = server
    handler.code, handler.reply = code, reply
    with pytest.raises(UserError, match=words) as told:
        api.ask(api.connect(url, model="m", key="k"), "?")
    assert "\n" not in str(told.value)
    assert str(told.value).startswith(f"m at {url}")


def test_servers_that_are_slow_or_absent(server):
    handler, url = server
    handler.wait_s = 0.5
    with pytest.raises(UserError, match=r"did not answer within 0\.1 s"):
        api.ask(api.connect(url, model="m", timeout_s=0.1), "?")
    with pytest.raises(UserError, match="cannot be reached"):
        api.ask(api.connect("http://127.0.0.1:9/v1", model="m"), "?")
    for wrong in ("localhost:8080", "ftp://x/y", "", "file:///etc/passwd"):
        with pytest.raises(UserError, match="no address of a server"):
            api.connect(wrong, model="m")
    with pytest.raises(UserError, match="say which model"):
        api.connect(url, model="")
