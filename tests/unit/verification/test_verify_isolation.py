"""The verdict service under attack and in strange company: threads, event loops, spawned processes, hostile references,
a worker that has to be replaced. Real workers, plugins from single files.
"""

import asyncio
import multiprocessing
import os
import resource
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from rlvr.errors import DataError
from rlvr.plugin import completion_from_text
from rlvr.records import Check, Prompt, Status, Verdict
from rlvr.registry import VERIFIERS, find
from rlvr.verification.pool import VerifierPool
from rlvr.verification.service import VerifierService

DEADLINE_S = 1.0
PLUGIN = '''
import os
import resource
import time
from rlvr.plugin import EmptyConfig, verdict, verifier
from rlvr.protocols import Execution
from rlvr.records import Status

@verifier(version="1")
def moody(text: str, reference: str) -> bool:
    """Does what the completion says, and else compares."""
    if text == "hang":
        time.sleep(3600)
    if text == "die":
        os._exit(3)
    if text == "pid":
        return os.getpid() == int(reference)
    if text == "limits":
        used = resource.getrusage(resource.RUSAGE_SELF)
        soft = resource.getrlimit(resource.RLIMIT_CPU)[0]
        return used.ru_utime + used.ru_stime < soft < used.ru_utime + used.ru_stime + 6
    return text == reference

class Slow:
    """Parses references, some of which hang, kill or are wrong; counts its verdicts in a file."""
    name, version, execution, Config = "slow", "1", Execution.PROCESS, EmptyConfig
    def __init__(self, config, context):
        pass
    def parse_reference(self, reference):
        if reference == "hang":
            time.sleep(3600)
        if reference == "die":
            os._exit(3)
        if reference == "bug":
            raise KeyError("oops")
        if reference == "bad":
            raise ValueError("not a number")
    def work_key(self, reference, completion):
        return reference["file"] + completion.text.strip()
    def verify(self, prompt, completion):
        with open(prompt.reference["file"], "a") as file:
            file.write(completion.text.strip() + "\\n")
        if completion.text == "raise":
            raise RuntimeError("a fault")
        time.sleep(0.1)
        return verdict(self, Status.PASS, "done")
'''


@pytest.fixture
def plugin_file(tmp_path: Path) -> str:
    path = tmp_path / "moods.py"
    path.write_text(textwrap.dedent(PLUGIN), encoding="utf-8")
    return str(path)


@pytest.fixture
def service() -> Iterator[VerifierService]:
    service = VerifierService(workers=2, deadline_s=DEADLINE_S)
    yield service
    service.close()


def make_prompt(plugin_file: str, reference: object, attribute: str = "moody") -> Prompt:
    check = Check(name="main", verifier=f"{plugin_file}:{attribute}", reference=reference)
    return Prompt(prompt_id="p", text="?", checks=(check,), source="test")


def pair(plugin_file: str, text: str, reference: object = "yes", attribute: str = "moody"):
    return make_prompt(plugin_file, reference, attribute), completion_from_text(text, prompt_id="p")


def statuses(answers: list[dict[str, Verdict]]) -> list[Status]:
    return [answer["main"].status for answer in answers]


def judge_in_a_process(plugin_file: str, queue: "multiprocessing.Queue[list[str]]") -> None:
    service = VerifierService(workers=1, deadline_s=DEADLINE_S)
    pairs = [pair(plugin_file, text) for text in ("yes", "hang", "no")]
    queue.put([status.name for status in statuses(service.verify_batch(pairs))])
    service.close()


def test_one_judge_serves_threads_with_event_loops_of_their_own(service: VerifierService, plugin_file: str) -> None:
    results: dict[int, list[Status]] = {}

    def work(number: int) -> None:
        texts = ["yes", "no", "hang" if number == 0 else "yes", "yes"]
        pairs = [pair(plugin_file, text) for text in texts]
        results[number] = statuses(service.verify_batch(pairs))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    right, wrong = Status.PASS, Status.FAIL
    assert results[0] == [right, wrong, wrong, right]
    assert [results[n] for n in (1, 2, 3)] == [[right, wrong, right, right]] * 3


def test_the_event_loop_runs_on_while_an_item_hangs(service: VerifierService, plugin_file: str) -> None:
    async def work() -> tuple[float, Status]:
        hanging = asyncio.create_task(service.verify(*pair(plugin_file, "hang")))
        longest, last = 0.0, time.monotonic()
        while not hanging.done():
            await asyncio.sleep(0.01)
            longest, last = max(longest, time.monotonic() - last), time.monotonic()
        return longest, (await hanging)["main"].status

    service.verify_batch([pair(plugin_file, "yes")])
    longest, status = asyncio.run(work())
    assert status is Status.FAIL
    assert longest < DEADLINE_S / 2


def test_a_judge_works_in_a_spawned_process(plugin_file: str) -> None:
    context = multiprocessing.get_context("spawn")
    queue: multiprocessing.Queue[list[str]] = context.Queue()
    process = context.Process(target=judge_in_a_process, args=(plugin_file, queue), daemon=True)
    process.start()
    assert queue.get(timeout=60) == ["PASS", "FAIL", "FAIL"]
    process.join(20)
    assert process.exitcode == 0


def test_a_signal_handler_and_an_alarm_of_the_caller_stay_as_they_are(
    service: VerifierService, plugin_file: str
) -> None:
    import signal

    before = {number: signal.getsignal(number) for number in (signal.SIGALRM, signal.SIGCHLD)}
    signal.setitimer(signal.ITIMER_REAL, 1000.0)
    try:
        service.verify_batch([pair(plugin_file, "yes"), pair(plugin_file, "hang")])
        left = signal.setitimer(signal.ITIMER_REAL, 0.0)[0]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
    assert left > 900.0
    assert {number: signal.getsignal(number) for number in before} == before


def test_a_spare_worker_takes_over_at_once(plugin_file: str) -> None:
    pool = VerifierPool(1, DEADLINE_S)
    prompt = make_prompt(plugin_file, "yes")
    key = pool.register(find(VERIFIERS, prompt.checks[0].verifier), {})

    def ask(text: str) -> Verdict:
        return pool.submit(key, prompt, completion_from_text(text, prompt_id="p")).result(60)

    assert ask("yes").passed
    limit = time.monotonic() + 30
    while pool._spare.num_ready == 0 and time.monotonic() < limit:
        time.sleep(0.01)
    assert pool._spare.num_ready == 1
    start = time.monotonic()
    verdict, after = ask("die"), ask("yes")
    assert (verdict.status, verdict.details["cause"]) == (Status.FAIL, "crash")
    assert after.passed
    assert pool.num_restarts == 2
    assert time.monotonic() - start < 30
    pool.close()
    assert pool._spare.num_ready == 0


def test_a_worker_has_a_limit_on_its_cpu_time(service: VerifierService, plugin_file: str) -> None:
    assert statuses(service.verify_batch([pair(plugin_file, "limits")])) == [Status.PASS]


def test_hostile_references_are_named_and_the_others_pass(service: VerifierService, plugin_file: str) -> None:
    references = ["good", "bad", "hang", "good", "die", "bug", *["good"] * 100]
    checks = [make_prompt(plugin_file, r, "Slow").checks[0] for r in references]
    start = time.monotonic()
    problems = service.reference_problems(checks)
    assert problems[:6] == [
        "",
        "not a number",
        "parsing it takes longer than 1 s",
        "",
        "parsing it ended its worker (exit code 3)",
        "KeyError: 'oops'",
    ]
    assert problems[6:] == [""] * 100
    assert time.monotonic() - start < 30
    assert service.reference_problems(checks[:1]) == [""]


def test_an_unusable_reference_is_listed_with_its_file_and_line(service: VerifierService, plugin_file: str) -> None:
    prompts = [make_prompt(plugin_file, reference, "Slow") for reference in ("good", "bad")]
    with pytest.raises(DataError, match=r"data\.jsonl:12: p \(main\): 'bad': not a number"):
        service.check_references(prompts, places={"p": "data.jsonl:12"})


def test_equal_work_is_done_once_and_a_fault_is_not_remembered(
    service: VerifierService, plugin_file: str, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    reference = {"file": str(log)}
    texts = ["a", " a", "b", "a", "raise", "a "]
    pairs = [pair(plugin_file, text, reference, "Slow") for text in texts]
    answers = service.verify_batch(pairs)
    error, right = Status.ERROR, Status.PASS
    assert statuses(answers) == [right, right, right, right, error, right]
    assert sorted(log.read_text().split()) == ["a", "b", "raise"]
    assert sum(answer["main"].seconds > 0.05 for answer in answers) == 2
    service.verify_batch([pairs[4], pairs[0]])
    assert sorted(log.read_text().split()) == ["a", "b", "raise", "raise"]


def test_the_memory_of_the_parent_stays_flat(service: VerifierService, plugin_file: str) -> None:
    def work(count: int) -> None:
        texts = ["yes " + "x" * 2000 + str(number) for number in range(count)]
        service.verify_batch([pair(plugin_file, text) for text in texts])

    def resident_mb() -> float:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 2**20

    work(500)
    before = resident_mb()
    for _ in range(6):
        work(500)
    assert resident_mb() - before < 20.0


def test_no_worker_outlives_its_service(plugin_file: str) -> None:
    others = children()
    service = VerifierService(workers=2, deadline_s=DEADLINE_S)
    service.verify_batch([pair(plugin_file, "yes") for _ in range(8)])
    mine = children() - others
    assert len(mine) >= 2
    service.close()
    assert not mine & children()


def children() -> set[int]:
    path = Path(f"/proc/{os.getpid()}/task")
    found: set[int] = set()
    for task in path.iterdir():
        with suppress(FileNotFoundError):  # a thread that has just ended
            found |= {int(word) for word in (task / "children").read_text().split()}
    return found
