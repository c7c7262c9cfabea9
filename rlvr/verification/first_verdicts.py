"""Two verdicts of each verifier before a run, so that one that returns no verdict is refused and not found by training.

The completions are a wrong answer, on which functions often end without a `return`, and the reference itself.
"""

import logging
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from rlvr.errors import PluginError
from rlvr.plugin import completion_from_text
from rlvr.protocols import Execution
from rlvr.records import Completion, Prompt, Status
from rlvr.registry import VERIFIERS, find
from rlvr.verification.service import VerifierService
from rlvr.verification.trial import load_tried

logger = logging.getLogger(__name__)

WRONG_ANSWER = "I do not know."


def require_verdicts(service: VerifierService, prompts: Iterable[Prompt]) -> None:
    """Verifies two completions with each distinct verifier of the prompts; waits for the workers.

    Verifiers that ask a service (`Execution.ASYNC`) are left out. An exception is only logged: a run counts it as an
    ERROR and has its own limit for them.

    Raises: PluginError when an answer is not a verdict, with the verifier's file and line.
    """
    distinct: dict[tuple[str, str], Prompt] = {}
    for prompt in prompts:
        for check in prompt.checks:
            key = check.verifier, repr(check.settings)
            if key not in distinct and load_tried(find(VERIFIERS, check.verifier)).execution is not Execution.ASYNC:
                distinct[key] = prompt.for_check(check.name)
    pairs = [(prompt, completion) for prompt in distinct.values() for completion in _completions(prompt)]
    with ThreadPoolExecutor(1) as thread:  # the caller may be in an event loop
        answers = thread.submit(service.verify_batch, pairs).result()
    warned: set[str] = set()
    for (prompt, completion), verdicts in zip(pairs, answers, strict=True):
        check = prompt.checks[0]
        verdict = verdicts[check.name]
        if verdict.status is not Status.ERROR:
            continue
        where = f"verifier {check.verifier!r}, tried on the completion {completion.text!r:.60}: {verdict.reason}"
        if verdict.details.get("exception") == PluginError.__name__:
            raise PluginError(where)
        if check.verifier not in warned:
            warned.add(check.verifier)
            logger.warning("%s\n%s", where, str(verdict.details.get("traceback", "")).rstrip())


def _completions(prompt: Prompt) -> list[Completion]:
    reference = prompt.reference
    texts = [WRONG_ANSWER, *([str(reference)] if isinstance(reference, str | int | float) else [])]
    return [completion_from_text(text, prompt_id=prompt.prompt_id) for text in texts]
