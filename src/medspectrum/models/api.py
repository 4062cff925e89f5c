"""Models that are served and not given away, asked over one protocol: OpenAI's chat completions.

Servers of many makers and programs speak it, those that run on one's own machine too. Nothing is sent
anywhere unless somebody names the address; whether patients' images may go there is for them to know.
"""

from __future__ import annotations

import base64
import io
import json
import os
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from medspectrum.errors import UserError

KEY = "MEDSPECTRUM_API_KEY"
"""Where the key is read from, at the moment of asking, if none is given."""
_SAID_MOST = 300


@dataclass(frozen=True)
class Served:
    """A served model. base_url: without ``/chat/completions``. key: '' reads ``MEDSPECTRUM_API_KEY``."""

    base_url: str
    model: str
    key: str = field(default="", repr=False)
    timeout_s: float = 60.0


def connect(base_url: str, *, model: str, key: str = "", timeout_s: float = 60.0) -> Served:
    """A served model at that address; nothing is sent yet. Raises UserError where it is no address."""
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise UserError(f"{base_url!r} is no address of a server; give one such as http://localhost:8080/v1")
    if not model:
        raise UserError(f"say which model is to be asked at {base_url}")
    return Served(base_url.rstrip("/"), model, key, timeout_s)


def ask(
    served: Served,
    question: str,
    *,
    pictures: Sequence[np.ndarray] = (),
    instructions: str = "",
    most_tokens: int = 512,
    temperature: float = 0.0,
) -> str:
    """What the model answers. pictures: each (3, height, width) uint8, sent as PNG beside the question.

    Raises UserError in one sentence where the server cannot be reached in time, refuses, or answers nonsense.
    """
    said = _completed(served, _asked(served, question, pictures, instructions, most_tokens, temperature))
    return str(said)


def ask_for_json(
    served: Served,
    question: str,
    *,
    schema: dict[str, Any] | None = None,
    pictures: Sequence[np.ndarray] = (),
    instructions: str = "",
    most_tokens: int = 512,
    temperature: float = 0.0,
) -> Any:
    """The same, answered as a JSON value. schema: JSON Schema that the server is told to keep to.

    Raises UserError as ``ask`` does, and where the answer is no JSON.
    """
    body = _asked(served, question, pictures, instructions, most_tokens, temperature)
    body["response_format"] = {"type": "json_object"} if schema is None else _shape(schema)
    said = str(_completed(served, body)).strip()
    fenced = said.removeprefix("```json").removeprefix("```").removesuffix("```").strip()
    try:
        return json.loads(fenced)
    except ValueError as problem:
        raise UserError(
            f"{served.model} at {served.base_url} answered no JSON ({said[:60]!r}); ask it differently"
        ) from problem


def _shape(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}


def _asked(
    served: Served,
    question: str,
    pictures: Sequence[np.ndarray],
    instructions: str,
    most_tokens: int,
    temperature: float,
) -> dict[str, Any]:
    told: list[dict[str, Any]] = [{"role": "system", "content": instructions}] if instructions else []
    content: Any = question
    if pictures:
        shown = [{"type": "image_url", "image_url": {"url": _as_address(p)}} for p in pictures]
        content = [{"type": "text", "text": question}, *shown]
    told.append({"role": "user", "content": content})
    return {
        "model": served.model,
        "messages": told,
        "max_tokens": most_tokens,
        "temperature": temperature,
        "stream": False,
    }


def _as_address(picture: np.ndarray) -> str:
    from PIL import Image as Pillow

    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[0] != 3:
        raise ValueError(f"a picture is (3, height, width) uint8; got {picture.dtype} {picture.shape}")
    held = io.BytesIO()
    Pillow.fromarray(np.ascontiguousarray(np.moveaxis(picture, 0, -1))).save(held, "PNG")
    return "data:image/png;base64," + base64.b64encode(held.getvalue()).decode()


def _completed(served: Served, body: dict[str, Any]) -> Any:
    """The text of the first choice."""
    key = served.key or os.environ.get(KEY, "")
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    request = urllib.request.Request(  # noqa: S310 - http or https, see connect
        f"{served.base_url}/chat/completions", json.dumps(body).encode(), headers, method="POST"
    )
    where = f"{served.model} at {served.base_url}"
    try:
        with _OPENER.open(request, timeout=served.timeout_s) as answer:
            held = answer.read()
    except urllib.error.HTTPError as problem:
        raise UserError(_refused(where, problem, bool(key))) from problem
    except TimeoutError as problem:
        raise UserError(_late(where, served)) from problem
    except urllib.error.URLError as problem:
        if isinstance(problem.reason, TimeoutError):
            raise UserError(_late(where, served)) from problem
        raise UserError(f"{where} cannot be reached ({problem.reason}); is the server running?") from problem
    except OSError as problem:
        raise UserError(f"{where} broke off ({problem}); ask again") from problem
    try:
        said = json.loads(held)["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError) as problem:
        shown = held[:80].decode(errors="replace")
        raise UserError(
            f"{where} answered something else than a chat completion ({shown!r}); give the address of an "
            "OpenAI-compatible server"
        ) from problem
    if not said:
        raise UserError(f"{where} answered nothing; ask it again or differently")
    return said


def _late(where: str, served: Served) -> str:
    return f"{where} did not answer within {served.timeout_s:g} s; give it longer (timeout_s)"


def _refused(where: str, problem: urllib.error.HTTPError, keyed: bool) -> str:
    try:
        told = json.loads(problem.read())["error"]
        told = str(told["message"] if isinstance(told, dict) else told)
    except (ValueError, KeyError, TypeError, OSError):
        told = str(problem.reason)
    told = " ".join(told.split())[:_SAID_MOST]
    if problem.code in (401, 403):
        what = "refused the key" if keyed else f"wants a key: give one, or set {KEY}"
        return f"{where} {what} ({told})"
    if problem.code == 404:
        return f"{where} is not there ({told}); look at the address and the model's name"
    if problem.code == 429:
        return f"{where} takes no more for now ({told}); ask later"
    return f"{where} answered {problem.code} ({told})"


class _Straight(urllib.request.HTTPRedirectHandler):
    """What was meant for one address goes to no other."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_Straight)
