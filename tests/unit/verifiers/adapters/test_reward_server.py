"""`http://...`: what a reward server is sent, how its answers count, and that an outage is never a score."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from rlvr.errors import PluginError
from rlvr.plugin import completion_from_text
from rlvr.records import Check, Message, Prompt, Status, Verdict
from rlvr.verification.service import VerifierService

Request = dict[str, Any]


@dataclass
class Server:
    """A reward server on this machine, with the requests that it got."""

    url: str = ""
    requests: list[Request] = field(default_factory=list[Request])
    headers: list[dict[str, str]] = field(default_factory=list[dict[str, str]])


@contextmanager
def serving(answer_to: Callable[[Request], tuple[int, Any]]) -> Iterator[Server]:
    """A server that answers each request with a status and a JSON body."""
    server = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.requests.append({"path": self.path, **request})
            server.headers.append(dict(self.headers))
            status, body = answer_to(request)
            sent = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        def log_message(self, format: str, *args: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        server.url = f"http://127.0.0.1:{http.server_port}/v1/score"
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        yield server
        http.shutdown()
        thread.join()


def judged(url: str, *texts: str, deadline_s: float = 10.0, **settings: Any) -> list[Verdict]:
    """The verdicts of the server on completions, together."""
    check = Check(name="main", verifier=url, reference="4", settings=settings)
    question = (Message(role="user", content="2 + 2?"),)
    prompt = Prompt(prompt_id="p", checks=(check,), source="rows", messages=question, tags={"options": ["4", "5"]})
    service = VerifierService(workers=1, deadline_s=deadline_s)
    try:
        service.preflight([check])
        pairs = [(prompt, completion_from_text(text, prompt_id="p")) for text in texts]
        return [found["main"] for found in service.verify_batch(pairs)]
    finally:
        service.close()


def test_a_completion_is_sent_with_its_row_and_the_score_comes_back() -> None:
    def answer(request: Request) -> tuple[int, Any]:
        is_right = request["completion"] == request["reference"]
        return 200, {"score": 1.0 if is_right else 0.25, "reason": "compared", "model": "m"}

    with serving(answer) as server:
        right, wrong = judged(server.url, "4", "5")
    assert (right.status, right.score, right.reason, right.details) == (Status.PASS, 1.0, "compared", {"model": "m"})
    assert (wrong.status, wrong.score) == (Status.FAIL, 0.25)
    assert right.verifier == f"{server.url}@1"
    request = next(request for request in server.requests if request["completion"] == "4")
    assert request == {
        "path": "/v1/score",
        "prompt": [{"role": "user", "content": "2 + 2?"}],
        "completion": "4",
        "reference": "4",
        "columns": {"options": ["4", "5"]},
        "completion_id": "p/0",
        "finish_reason": "stop",
    }


@pytest.mark.parametrize(
    ("body", "status", "score"),
    [
        (1.0, Status.PASS, 1.0),
        ({"reward": -1}, Status.FAIL, 0.0),
        ({"score": True}, Status.PASS, 1.0),
        ({"score": None, "reason": "not my task"}, Status.SKIPPED, None),
    ],
)
def test_forms_of_an_answer(body: Any, status: Status, score: float | None) -> None:
    with serving(lambda _: (200, body)) as server:
        (verdict,) = judged(server.url, "4", scores={"from": [-1, 1]})
    assert (verdict.status, verdict.score) == (status, score)


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (404, {"detail": "no such route"}, "answered 404: no such route"),
        (401, {"error": "who are you"}, r"refused the token .*token_file"),
        (200, {"points": 3}, "without 'score' or 'reward'"),
        (200, {"score": "good"}, "the score 'good', not a number"),
        (200, {"score": 3}, r"returned 3, .*settings: \{scores: \{from: \[0, 3\]\}\}"),
    ],
)
def test_an_answer_without_a_score_is_an_error(status: int, body: Any, words: str) -> None:
    with serving(lambda _: (status, body)) as server:
        (verdict,) = judged(server.url, "4")
    assert (verdict.status, verdict.score) == (Status.ERROR, None)
    assert re.search(words, verdict.reason)


def test_a_busy_server_is_asked_again_and_an_outage_is_an_error() -> None:
    answers = iter([(503, {}), (200, 1.0)])
    with serving(lambda _: next(answers)) as server:
        (verdict,) = judged(server.url, "4")
        assert verdict.passed
    (lost,) = judged(server.url, "4", deadline_s=1.0)
    assert (lost.status, lost.score) == (Status.ERROR, None)
    assert "gave no answer in" in lost.reason
    assert "Connection refused" in lost.reason


def test_the_token_comes_from_a_file_and_is_never_shown(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("s3cret\n")
    with serving(lambda _: (403, {"error": "s3cret is not valid"})) as server:
        (verdict,) = judged(server.url, "4", token_file=str(path))
    assert server.headers[0]["Authorization"] == "Bearer s3cret"
    assert "s3cret" not in str(verdict)
    with pytest.raises(PluginError, match=r"token_file '.*nowhere' cannot be read"):
        judged(server.url, "4", token_file=str(tmp_path / "nowhere"))
    with pytest.raises(PluginError, match="has no query"):
        judged(f"{server.url}?key=1", "4")


def test_the_verify_route_of_nemo_gym() -> None:
    responses = pytest.importorskip("openai.types.responses", reason="openai's types are not installed")

    def verify(request: Request) -> tuple[int, Any]:
        """A resources server: validates the response, and repeats the request in its answer."""
        response = responses.Response.model_validate(request["response"])
        return 200, {**request, "reward": float(response.output_text == request["expected_answer"]), "parsed": "4"}

    with serving(verify) as server:
        right, wrong = judged(server.url, "4", "5", form="nemo_gym")
    assert (right.score, right.details) == (1.0, {"parsed": "4"})
    assert wrong.status is Status.FAIL
    request = server.requests[0]
    assert request["responses_create_params"] == {"input": [{"role": "user", "content": "2 + 2?"}]}
    assert (request["expected_answer"], request["options"]) == ("4", ["4", "5"])


def test_a_judge_of_nemo_gym_that_failed_is_an_error_although_its_reward_is_zero() -> None:
    failed = {"reward": 0.0, "_ng_failure_class": "judge_failed", "_ng_failure_judge_error": "TimeoutError"}
    with serving(lambda _: (200, failed)) as server:
        (verdict,) = judged(server.url, "4", form="nemo_gym")
    assert (verdict.status, verdict.score) == (Status.ERROR, None)
    assert "judge_failed TimeoutError" in verdict.reason
