"""A small OpenAI-compatible server on the loopback interface, with the ways of different servers to choose from."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

EXTRAS = {
    "top_k", "min_p", "repetition_penalty", "return_token_ids", "include_stop_str_in_output", "no_stop_trim",
    "stop_token_ids", "add_special_tokens", "continue_final_message", "add_generation_prompt",
}  # fmt: skip


@dataclass
class Ways:
    """How the server behaves.

    paths: that it has. takes_ids, takes_extras, takes_seed: what of a request it accepts; anything else is a 400.
    limit_keys: names of the bound on new tokens that it knows. models: its listing. key: that it wants.
    failures: statuses of the first answers, taken one by one. answer: the text of every completion, after those of
    `answers`, which are taken one by one; `answer_to` makes it from the request. raw_to: status and
    body of an answer that is no completion, None for others. refuses: why a request is a 400, where it is one.
    extra_tokens: what its tokenizer adds to a text prompt. stop_style: "kept", "stated" (cut away, and named) or
    "silent" (cut away). hangs_up: after each answer, without having said so. silent_s: how long it says nothing.
    slow_seeds: those alone are silent.
    """

    paths: tuple[str, ...] = ("/v1/completions", "/v1/chat/completions")
    takes_ids: bool = True
    takes_extras: bool = True
    takes_seed: bool = True
    limit_keys: tuple[str, ...] = ("max_tokens",)
    models: tuple[str, ...] | None = ("tiny",)
    max_model_len: int = 64
    key: str = ""
    failures: list[int] = field(default_factory=list)
    retry_after: str = ""
    answer: str = "4"
    answers: list[str] = field(default_factory=list)
    answer_to: Callable[[dict[str, Any]], str | None] | None = None
    raw_to: Callable[[dict[str, Any]], tuple[int, Any] | None] | None = None
    refuses: Callable[[dict[str, Any]], str] | None = None
    finish_reason: str = "stop"
    extra_tokens: int = 0
    stop_style: str = "kept"
    silent_s: float = 0.0
    slow_seeds: tuple[int, ...] = ()
    redirect: str = ""
    hangs_up: bool = False


class Loopback(ThreadingHTTPServer):
    """The server; `requests` are the bodies that it was sent, `most_open` the most that were open at once."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, ways: Ways) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.ways = ways
        self.requests: list[dict[str, Any]] = []
        self.keys: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.num_open = 0
        self.most_open = 0
        self.stopping = threading.Event()

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no fault of the server."""


@contextmanager
def loopback(**ways: Any) -> Iterator[Loopback]:
    """A server for the length of the block."""
    server = Loopback(Ways(**ways))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.stopping.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Loopback
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are two writes; else each answer waits 40 ms

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        ways = self.server.ways
        if not self._is_welcome():
            return
        if self.path != "/v1/models" or ways.models is None:
            self._answer(404, {"detail": "Not Found"})
            return
        rows = [{"id": name, "max_model_len": ways.max_model_len} for name in ways.models]
        self._answer(200, {"object": "list", "data": rows})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.requests.append(body)
            self.server.num_open += 1
            self.server.most_open = max(self.server.most_open, self.server.num_open)
        try:
            if self._is_welcome():
                self._complete(body)
        finally:
            with self.server.lock:
                self.server.num_open -= 1

    def _is_welcome(self) -> bool:
        ways = self.server.ways
        given = self.headers.get("Authorization", "")
        self.server.keys[given] += 1
        if ways.key and given != f"Bearer {ways.key}":
            self._answer(401, {"error": {"message": f"no such key: {given}"}})
            return False
        if ways.redirect:
            self._answer(307, {}, {"Location": ways.redirect})
            return False
        return True

    def _complete(self, body: dict[str, Any]) -> None:
        ways = self.server.ways
        with self.server.lock:
            failure = ways.failures.pop(0) if ways.failures else 0
        if failure:
            headers = {"Retry-After": ways.retry_after} if ways.retry_after else {}
            self._answer(failure, {"error": {"message": "try again"}}, headers)
            return
        if self.path not in ways.paths:
            self._answer(404, {"detail": "Not Found"})
            return
        problem = self._problem(body)
        if problem:
            self._answer(400, {"error": {"message": problem}})
            return
        if ways.raw_to and (raw := ways.raw_to(body)):
            self._answer(*raw)
            return
        if ways.silent_s and (not ways.slow_seeds or body.get("seed") in ways.slow_seeds):
            self.server.stopping.wait(ways.silent_s)
        else:
            time.sleep(0.002)
        self._answer(200, self._completion(body))

    def _problem(self, body: dict[str, Any]) -> str:
        ways = self.server.ways
        if ways.refuses and (why := ways.refuses(body)):
            return why
        if ways.models is not None and body["model"] not in ways.models:
            return f"no model {body['model']}"
        unknown = EXTRAS & set(body) if not ways.takes_extras else set()
        unknown |= {"seed", "logprobs"} & set(body) if not ways.takes_seed else set()
        unknown |= {"max_tokens", "max_completion_tokens"} & set(body) - set(ways.limit_keys)
        if unknown:
            return f"unknown fields: {sorted(unknown)}"
        if isinstance(body.get("prompt"), list) and not ways.takes_ids:
            return "prompt must be a string"
        return ""

    def _completion(self, body: dict[str, Any]) -> dict[str, Any]:
        ways = self.server.ways
        is_chat = self.path.endswith("chat/completions")
        with self.server.lock:
            text = ways.answers.pop(0) if ways.answers else ways.answer
        said, stated = ways.answer_to(body) if ways.answer_to else text, None
        text = said or ""
        reason = ways.finish_reason
        stop = next((s for s in body.get("stop", ()) if s in text), None)
        if stop is not None:
            kept = ways.stop_style == "kept" and body.get("include_stop_str_in_output")
            text = text.partition(stop)[0] + (stop if kept else "")
            stated, reason = stop, "stop"
        choice: dict[str, Any] = {"index": 0, "finish_reason": reason}
        if ways.stop_style != "silent":
            choice["stop_reason"] = stated
        if body.get("return_token_ids") and ways.takes_extras:
            choice["token_ids"] = [100 + i for i in range(len(text))]
        if is_chat:
            choice["message"] = {"role": "assistant", "content": text if said else None}
            if body.get("logprobs"):
                choice["logprobs"] = {"content": [{"token": c, "logprob": -0.5} for c in text]}
            count = 0
        else:
            choice["text"] = text
            if body.get("logprobs"):
                choice["logprobs"] = {"token_logprobs": [-0.5] * len(text)}
            count = len(body["prompt"]) + (ways.extra_tokens if isinstance(body["prompt"], str) else 0)
        return {"id": "x", "choices": [choice], "usage": {"prompt_tokens": count, "completion_tokens": len(text)}}

    def _answer(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)
        self.close_connection = self.close_connection or self.server.ways.hangs_up
