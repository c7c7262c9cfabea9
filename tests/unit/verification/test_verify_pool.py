"""The verdict service: deadlines, crashes, framing, threads. Real workers, plugins from single
files, short deadlines.
"""

import asyncio
import concurrent.futures
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rlvr.errors import DataError, PluginError
from rlvr.records import Check, Completion, FinishReason, Prompt, Status, Verdict
from rlvr.registry import VERIFIERS, find
from rlvr.verification.pool import VerifierPool
from rlvr.verification.service import VerifierService

DEADLINE_S = 1.0
PLUGIN = '''
import asyncio
import os
import sys
import time
from rlvr.errors import VerifierError
from rlvr.plugin import verifier
from rlvr.protocols import Execution

@verifier(version="1")
def moody(text: str, reference: str, *, loud: bool = False) -> bool:
    """Does what the completion says, and else compares."""
    if loud:
        print("noise on standard output", flush=True)
        os.write(1, b"raw noise")
    if text == "hang":
        time.sleep(3600)
    if text == "die":
        os._exit(3)
    if text == "raise":
        raise VerifierError("the plugin's own fault")
    if text == "quit":
        sys.exit(5)
    if text == "eat":
        return len(bytearray(1 << 40)) > 0
    if text == "stdin":
        return sys.stdin.read() == ""
    if text == "pid":
        return os.getpid() == int(reference)
    if text == "environment":
        return os.environ["PYTHONHASHSEED"] == "0" and "torch" not in sys.modules
    return text == reference

@verifier(version="2", execution=Execution.ASYNC)
async def remote(text: str, reference: str) -> bool:
    """A judge behind a network."""
    if text == "hang":
        await asyncio.sleep(3600)
    if text == "raise":
        raise TimeoutError("the service said so itself")
    return text == reference

@verifier(version="1", execution=Execution.SANDBOXED)
def boxed(text: str, reference: str) -> float:
    """Waits elsewhere."""
    return 1.0 if text == reference else 0.25

class Picky:
    name, version, execution = "picky", "1", Execution.PROCESS
    from rlvr.plugin import EmptyConfig as Config
    def __init__(self, config, context): pass
    def parse_reference(self, reference):
        if not str(reference).isdigit():
            raise ValueError("not a whole number")
    def prejudge(self, reference, completion):
        from rlvr.plugin import verdict
        from rlvr.records import Status
        if completion.text == "bad prejudge":
            raise KeyError("oops")
        return verdict(self, Status.PASS, "equal") if completion.text == reference else None
    def verify(self, prompt, completion):
        return "not a verdict"
'''


@pytest.fixture
def plugin_file(tmp_path: Path) -> str:
    path = tmp_path / "moods.py"
    path.write_text(textwrap.dedent(PLUGIN), encoding="utf-8")
    return str(path)


def make_prompt(plugin_file: str, attribute: str = "moody", reference: object = "yes", **settings: object) -> Prompt:
    check = Check(name="main", verifier=f"{plugin_file}:{attribute}", settings=settings, reference=reference)
    return Prompt(prompt_id="p/0", text="?", checks=(check,), source="test")


def make_completion(text: str) -> Completion:
    return Completion(
        completion_id="c/0",
        prompt_id="p/0",
        sample_index=0,
        prompt_token_ids=(1, 2),
        token_ids=(3,),
        logprobs=(-0.5,),
        sampled_mask=(True,),
        text=text,
        finish_reason=FinishReason.STOP,
        policy_versions=(0,),
    )


Ask = Callable[..., "concurrent.futures.Future[Verdict]"]


@pytest.fixture
def pool() -> Iterator[VerifierPool]:
    pool = VerifierPool(2, DEADLINE_S)
    yield pool
    pool.close()


@pytest.fixture
def ask(pool: VerifierPool, plugin_file: str) -> Ask:
    def ask(text: str, reference: object = "yes", attribute: str = "moody", **settings: object):
        prompt = make_prompt(plugin_file, attribute, reference, **settings)
        check = prompt.checks[0]
        key = pool.register(find(VERIFIERS, check.verifier), check.settings)
        return pool.submit(key, prompt, make_completion(text))

    return ask


def test_verdicts_come_back_for_right_and_wrong_answers(ask: Ask) -> None:
    right, wrong = ask("yes").result(30), ask("no").result(30)
    assert (right.status, right.score, right.verifier) == (Status.PASS, 1.0, "moody@1")
    assert (wrong.status, wrong.score) == (Status.FAIL, 0.0)


def test_a_hanging_item_fails_after_two_tries_and_its_neighbours_are_fast(pool: VerifierPool, ask: Ask) -> None:
    ask("yes").result(30)
    start = time.monotonic()
    done_after: dict[int, float] = {}
    futures = [ask("hang" if number == 3 else "yes") for number in range(40)]
    for number, future in enumerate(futures):
        future.add_done_callback(lambda _, n=number: done_after.setdefault(n, time.monotonic() - start))
    verdicts = [future.result(60) for future in futures]
    assert [v.status for v in verdicts] == [Status.FAIL if n == 3 else Status.PASS for n in range(40)]
    assert verdicts[3].details["cause"] == "timeout"
    assert verdicts[3].seconds >= 1.99 * DEADLINE_S  # two tries, each to its deadline
    assert max(after for n, after in done_after.items() if n != 3) < done_after[3]
    assert pool.num_restarts in (1, 2)  # the second try may find a worker that is fresh already


@pytest.mark.parametrize("text", ["die", "eat"])
def test_an_item_that_kills_its_worker_fails_as_a_crash(ask: Ask, text: str) -> None:
    futures = [ask(word) for word in ("yes", text, "yes", "no")]
    statuses = [future.result(60).status for future in futures]
    assert statuses == [Status.PASS, Status.FAIL, Status.PASS, Status.FAIL]
    verdict = futures[1].result()
    assert verdict.details["cause"] == "crash"
    assert {"die": "exit code 3", "eat": "out of memory"}[text] in verdict.reason


@pytest.mark.parametrize(("text", "name"), [("raise", "VerifierError"), ("quit", "SystemExit")])
def test_an_exception_of_the_plugin_is_an_error_with_its_traceback(ask: Ask, text: str, name: str) -> None:
    verdict = ask(text).result(30)
    assert (verdict.status, verdict.score) == (Status.ERROR, None)
    assert name in verdict.reason
    assert "in moody" in verdict.details["traceback"]
    assert "rlvr/plugin.py" not in verdict.details["traceback"]


def test_a_plugin_that_prints_does_not_break_the_protocol(ask: Ask) -> None:
    assert [ask("yes", loud=True).result(30).status for _ in range(3)] == [Status.PASS] * 3


def test_a_worker_hides_standard_input_and_sets_its_environment(ask: Ask) -> None:
    assert ask("stdin").result(30).passed
    assert ask("environment").result(30).passed


def test_strange_text_crosses_the_pipe_unchanged(ask: Ask) -> None:
    strange = "\x00 \ud800 ∑" + "x" * 300_000
    assert ask(strange, strange).result(30).passed


def test_a_reference_that_json_cannot_say_is_an_error(ask: Ask) -> None:
    assert ask("yes", {1, 2}).result(30).status is Status.ERROR


def test_an_answer_that_is_no_verdict_is_an_error(ask: Ask) -> None:
    assert "must return a Verdict" in ask("x", attribute="Picky").result(30).reason


def test_the_pool_serves_threads_that_are_not_the_main_one(ask: Ask) -> None:
    results: list[Verdict] = []
    threads = [threading.Thread(target=lambda: results.append(ask("yes").result(30))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [verdict.status for verdict in results] == [Status.PASS] * 4


def test_a_worker_is_replaced_after_its_share_of_items(plugin_file: str) -> None:
    pool = VerifierPool(1, DEADLINE_S, max_items=1)
    prompt = make_prompt(plugin_file)
    key = pool.register(find(VERIFIERS, prompt.checks[0].verifier), {})
    assert [pool.submit(key, prompt, make_completion("yes")).result(30).passed for _ in range(3)] == [True] * 3
    assert pool.num_restarts == 2
    pool.close()


def test_closing_answers_what_is_open(ask: Ask, pool: VerifierPool) -> None:
    ask("yes").result(30)
    open_items = [ask("hang") for _ in range(5)]
    pool.close()
    pool.close()
    for future in open_items:
        assert future.done()
        assert future.cancelled() or future.result().status is Status.ERROR


def test_a_plugin_that_cannot_be_built_in_a_worker_is_an_error_and_not_a_zero(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("import os\nos._exit(9)\n", encoding="utf-8")
    pool = VerifierPool(1, DEADLINE_S)
    key = pool.register(find(VERIFIERS, f"{path}:check"), {})
    verdict = pool.submit(key, make_prompt(str(path), "check"), make_completion("x")).result(60)
    assert verdict.status is Status.ERROR
    assert "exit code 9" in verdict.reason
    pool.close()


@pytest.fixture
def service() -> Iterator[VerifierService]:
    service = VerifierService(workers=1, deadline_s=DEADLINE_S)
    yield service
    service.close()


def test_a_judge_gives_each_check_its_own_reference(service: VerifierService, plugin_file: str) -> None:
    checks = tuple(
        Check(name=name, verifier=f"{plugin_file}:{name}", reference=reference)
        for name, reference in (("moody", "a"), ("remote", "b"), ("boxed", "c"))
    )
    prompt = Prompt(prompt_id="p/0", text="?", checks=checks, source="test")
    service.preflight(checks)
    verdicts = asyncio.run(service.verify(prompt, make_completion("b")))
    assert {name: v.status for name, v in verdicts.items()} == {
        "moody": Status.FAIL,
        "remote": Status.PASS,
        "boxed": Status.FAIL,
    }
    assert verdicts["boxed"].score == 0.25
    assert verdicts["remote"].verifier == "remote@2"
    assert service.counters.num_items == 3


def test_an_asynchronous_judge_out_of_reach_is_an_error(service: VerifierService, plugin_file: str) -> None:
    prompt = make_prompt(plugin_file, "remote")
    late, own = service.verify_batch([(prompt, make_completion("hang")), (prompt, make_completion("raise"))])
    assert late["main"].status is Status.ERROR
    assert "unreachable" in late["main"].reason
    assert "the service said so itself" in own["main"].reason


def test_prejudge_settles_items_in_the_parent(service: VerifierService, plugin_file: str) -> None:
    prompt = make_prompt(plugin_file, "Picky", "4")
    assert service.prejudge(prompt, make_completion("4"))["main"].passed
    assert service.prejudge(prompt, make_completion("5")) == {}
    assert service.prejudge(prompt, make_completion("bad prejudge"))["main"].status is Status.ERROR
    assert (service.counters.num_prejudged, service.counters.num_errors) == (2, 1)


def test_counters_tell_timeouts_crashes_and_errors_apart(service: VerifierService, plugin_file: str) -> None:
    prompt = make_prompt(plugin_file)
    texts = ["hang", "die", "raise", "yes"]
    verdicts = service.verify_batch([(prompt, make_completion(text)) for text in texts])
    assert [v["main"].status.value for v in verdicts] == ["fail", "fail", "error", "pass"]
    counters = service.counters
    assert (counters.num_items, counters.num_timeouts, counters.num_crashes, counters.num_errors) == (4, 1, 1, 1)
    assert counters.busy_s > DEADLINE_S


def test_bad_references_are_listed_with_their_prompts(service: VerifierService, plugin_file: str) -> None:
    service.check_references([make_prompt(plugin_file, "Picky", "4"), make_prompt(plugin_file, "moody", "x")])
    with pytest.raises(DataError) as caught:
        service.check_references([make_prompt(plugin_file, "Picky", "four")] * 12)
    message = str(caught.value)
    assert "12 reference(s)" in message
    assert message.count("p/0 (main): 'four': not a whole number") == 10
    assert "and 2 more" in message


def test_preflight_refuses_a_verifier_with_bad_settings(service: VerifierService, plugin_file: str) -> None:
    with pytest.raises(PluginError, match="volume"):
        service.preflight(make_prompt(plugin_file, "moody", volume=3).checks)
    with pytest.raises(PluginError, match="not installed"):
        service.preflight([Check(name="x", verifier="no_such_verifier")])


def test_importable_plugins_reach_the_worker_through_the_parents_path(
    service: VerifierService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plugin_on_path.py").write_text(textwrap.dedent(PLUGIN), encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    check = Check(name="main", verifier="plugin_on_path:moody", reference="yes")
    prompt = Prompt(prompt_id="p/0", text="?", checks=(check,), source="test")
    service.preflight([check])
    assert service.verify_batch([(prompt, make_completion("yes"))])[0]["main"].passed
