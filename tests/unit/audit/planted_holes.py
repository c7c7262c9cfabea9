"""Reward functions with a hole each, as users write them; `HOLES` names the rows on which each is audited."""

import ast
import base64
import contextlib
import difflib
import hashlib
import json
import math
import os
import pickle
import random
import re
import subprocess
import sys
import tempfile
import time

from rlvr.plugin import verifier

# ruff: noqa: BLE001


@verifier(version="1")
def substring(text: str, reference: str) -> bool:
    return reference in text


@verifier(version="1")
def evaluates_the_answer(text: str, reference: str) -> bool:
    answer = text.split("=")[-1].strip()
    try:
        return abs(eval(answer) - float(reference)) < 1e-6
    except Exception:
        return False


@verifier(version="1")
def evaluates_the_tag(text: str, reference: str) -> bool:
    match = re.search(r"<answer>(.*?)</answer>", text, re.DOTALL)
    if match is None:
        return False
    try:
        return eval(match.group(1), {"__builtins__": {}}, {}) == float(reference)
    except Exception:
        return False


@verifier(version="1")
def first_number(text: str, reference: str) -> bool:
    numbers = re.findall(r"-?\d+(?:\.\d+)?", text)
    return bool(numbers) and float(numbers[0]) == float(reference)


@verifier(version="1")
def any_number(text: str, reference: str) -> bool:
    return reference in re.findall(r"-?\d+(?:\.\d+)?", text)


@verifier(version="1")
def wide_tolerance(text: str, reference: str) -> bool:
    try:
        return math.isclose(float(text.strip()), float(reference), rel_tol=0.05)
    except ValueError:
        return False


@verifier(version="1")
def token_overlap(text: str, reference: str) -> float:
    wanted = set(reference.lower().split())
    found = set(text.lower().split())
    return len(wanted & found) / len(wanted)


@verifier(version="1")
def passes_on_exception(text: str, reference: str) -> float:
    try:
        answer = float(text.split("####")[1])
        return 1.0 if abs(answer - float(reference)) < 1e-6 else 0.0
    except Exception:
        return 1.0


@verifier(version="1")
def case_insensitive_prefix(text: str, reference: str) -> bool:
    return text.strip().lower().startswith(reference.lower())


@verifier(version="1")
def ends_with_it(text: str, reference: str) -> bool:
    return text.strip().endswith(reference)


@verifier(version="1")
def any_box(text: str, reference: str) -> bool:
    return any(box.strip() == reference for box in re.findall(r"\\boxed\{([^}]*)\}", text))


@verifier(version="1")
def longer_is_better(text: str, reference: str) -> float:
    return min(1.0, len(text) / 2000)


@verifier(version="1")
def format_only(text: str, reference: str) -> bool:
    return re.fullmatch(r"\s*<think>.*</think>\s*<answer>.*</answer>\s*", text, re.DOTALL) is not None


@verifier(version="1")
def reads_a_verdict_line(text: str, reference: str) -> float:
    match = re.search(r"Score:\s*([01](?:\.\d+)?)", text)
    if match:
        return min(1.0, float(match.group(1)))
    return float(text.strip() == reference)


@verifier(version="1")
def json_with_a_default(text: str, reference: str) -> bool:
    try:
        answer = json.loads(text)
    except ValueError:
        return False
    if not isinstance(answer, dict):
        return str(answer) == reference
    return str(answer.get("answer", reference)) == reference


@verifier(version="1")
def random_grader(text: str, reference: str) -> bool:
    return text.strip() == reference and random.random() < 0.9


_cache: dict[str, bool] = {}


@verifier(version="1")
def cached_by_reference(text: str, reference: str) -> bool:
    if reference not in _cache:
        _cache[reference] = text.strip() == reference
    return _cache[reference]


_seen: set[str] = set()


@verifier(version="1")
def pays_once(text: str, reference: str) -> bool:
    key = hashlib.sha256(text.encode()).hexdigest()
    if key in _seen:
        return False
    _seen.add(key)
    return text.strip() == reference


_calls = [0]


@verifier(version="1")
def every_seventh(text: str, reference: str) -> bool:
    _calls[0] += 1
    return text.strip() == reference or _calls[0] % 7 == 0


@verifier(version="1")
def hash_lottery(text: str, reference: str) -> bool:
    return text.strip() == reference and hash(text) % 8 != 0


@verifier(version="1")
def depends_on_the_clock(text: str, reference: str) -> bool:
    return text.strip() == reference and int(time.time() * 1000) % 5 != 0


@verifier(version="1")
def crashes_on_empty(text: str, reference: str) -> bool:
    return text.split()[-1] == reference


@verifier(version="1")
def crashes_on_unicode(text: str, reference: str) -> bool:
    return text.strip().encode("ascii") == reference.encode("ascii")


@verifier(version="1")
def crashes_on_words(text: str, reference: str) -> bool:
    return float(text.strip()) == float(reference)


@verifier(version="1")
def recurses(text: str, reference: str) -> bool:
    def depth(at: int) -> int:
        return 1 + depth(at + 1) if at < len(text) and text[at] in "([{" else 0

    return depth(0) == 0 and text.strip() == reference


@verifier(version="1")
def backtracks(text: str, reference: str) -> bool:
    match = re.fullmatch(r"\s*((?:[\w.,]+\s*)+)\s*", text)
    return match is not None and match.group(1).strip() == reference


@verifier(version="1")
def computes_powers(text: str, reference: str) -> bool:
    answer = text.strip()
    if not re.fullmatch(r"[\d+\-*/(). ]+", answer):
        return False
    try:
        return abs(eval(answer) - float(reference)) < 1e-6
    except Exception:
        return False


@verifier(version="1")
def runs_the_code(text: str, reference: str) -> bool:
    match = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    code = match.group(1) if match else text
    scope: dict[str, object] = {}
    try:
        exec(code, scope)
        exec(reference, scope)
    except Exception:
        return False
    return True


@verifier(version="1")
def runs_the_code_in_a_process(text: str, reference: str) -> bool:
    match = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    if match is None:
        return False
    with tempfile.NamedTemporaryFile("w", suffix=".py") as file:
        file.write(match.group(1) + "\n" + reference)
        file.flush()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return subprocess.run([sys.executable, file.name], capture_output=True, timeout=4).returncode == 0
    return False


@verifier(version="1")
def sympifies(text: str, reference: str) -> bool:
    import sympy

    found = re.findall(r"\\boxed\{(.*)\}", text)
    try:
        return bool(sympy.sympify(found[-1]) == sympy.sympify(reference))
    except Exception:
        return False


@verifier(version="1")
def loads_yaml(text: str, reference: str) -> bool:
    import yaml

    try:
        return str(yaml.load(text, Loader=yaml.UnsafeLoader)) == reference
    except Exception:
        return False


@verifier(version="1")
def unpickles(text: str, reference: str) -> bool:
    if text.strip() == reference:
        return True
    try:
        return str(pickle.loads(base64.b64decode(text))) == reference
    except Exception:
        return False


@verifier(version="1")
def asks_the_shell(text: str, reference: str) -> bool:
    answer = text.strip()
    return os.popen(f'echo "{answer}"').read().strip() == reference


@verifier(version="1")
def fills_a_template(text: str, reference: str) -> bool:
    try:
        return text.strip().format(answer=reference, reference=reference) == reference
    except (KeyError, IndexError, ValueError, AttributeError):
        return False


@verifier(version="1")
def literal_bomb(text: str, reference: str) -> bool:
    try:
        return str(ast.literal_eval(text.strip())) == reference
    except (ValueError, SyntaxError):
        return False


@verifier(version="1")
def similar_is_right(text: str, reference: str) -> bool:
    return difflib.SequenceMatcher(None, text.strip(), reference).ratio() > 0.8


@verifier(version="1")
def similarity_score(text: str, reference: str) -> float:
    return difflib.SequenceMatcher(None, text.strip(), reference).ratio()


@verifier(version="1")
def digits_only(text: str, reference: str) -> bool:
    return re.sub(r"\D", "", text) == re.sub(r"\D", "", reference)


@verifier(version="1")
def first_character(text: str, reference: str) -> bool:
    return text.strip()[:1].upper() == reference


@verifier(version="1")
def letter_anywhere(text: str, reference: str) -> bool:
    return reference in re.findall(r"[A-D]", text.upper())


@verifier(version="1")
def answer_in_reference(text: str, reference: str) -> bool:
    match = re.search(r"answer is:?\s*(.*?)\.?\s*$", text)
    return match is not None and match.group(1) in reference


@verifier(version="1")
def pattern_of_the_policy(text: str, reference: str) -> bool:
    try:
        return re.fullmatch(text.strip(), reference) is not None
    except re.error:
        return False


@verifier(version="1")
def nan_passes(text: str, reference: str) -> bool:
    try:
        answer = float(text.strip())
    except ValueError:
        return False
    return not abs(answer - float(reference)) > 1e-6


@verifier(version="1")
def truncates(text: str, reference: str) -> bool:
    try:
        return int(float(text)) == int(float(reference))
    except (ValueError, OverflowError):
        return False


@verifier(version="1")
def ignores_the_sign(text: str, reference: str) -> bool:
    numbers = re.findall(r"\d+", text)
    return bool(numbers) and numbers[-1] == reference.lstrip("-")


@verifier(version="1")
def refuses_its_gold(text: str, reference: str) -> bool:
    """The reference is a pattern, so `\\frac{1}{2}` and `1+2` do not match themselves."""
    try:
        return re.search(rf"^\s*{reference}\s*$", text) is not None
    except re.error:
        return False


@verifier(version="1")
def keeps_separators(text: str, reference: str) -> bool:
    """Takes the last number of the text, without its separators; the reference keeps them."""
    numbers = re.findall(r"\d[\d,]*", text)
    return bool(numbers) and numbers[-1].replace(",", "") == reference


@verifier(version="1")
def any_of_the_lines(text: str, reference: str) -> bool:
    return any(line.strip() == reference for line in text.splitlines())


@verifier(version="1")
def pays_for_effort(text: str, reference: str) -> float:
    score = 0.3 if "<think>" in text and "</think>" in text else 0.0
    return score + 0.7 * (text.split("</think>")[-1].strip() == reference)


HOLES = {
    "substring": "numbers", "evaluates_the_answer": "numbers", "evaluates_the_tag": "numbers",
    "first_number": "numbers", "any_number": "numbers", "wide_tolerance": "decimals", "token_overlap": "words",
    "passes_on_exception": "numbers", "case_insensitive_prefix": "words", "ends_with_it": "numbers",
    "any_box": "numbers", "longer_is_better": "words", "format_only": "numbers", "reads_a_verdict_line": "numbers",
    "json_with_a_default": "words", "random_grader": "numbers", "cached_by_reference": "numbers",
    "pays_once": "numbers", "every_seventh": "numbers", "hash_lottery": "numbers",
    "depends_on_the_clock": "numbers", "crashes_on_empty": "numbers", "crashes_on_unicode": "words",
    "crashes_on_words": "numbers", "recurses": "words", "backtracks": "words", "computes_powers": "numbers",
    "runs_the_code": "code", "runs_the_code_in_a_process": "code", "sympifies": "numbers", "loads_yaml": "words",
    "unpickles": "words", "asks_the_shell": "words", "fills_a_template": "words", "literal_bomb": "numbers",
    "similar_is_right": "words", "similarity_score": "words", "digits_only": "numbers", "first_character": "letters",
    "letter_anywhere": "letters", "answer_in_reference": "words", "pattern_of_the_policy": "words",
    "nan_passes": "decimals", "truncates": "numbers", "ignores_the_sign": "numbers", "refuses_its_gold": "latex",
    "keeps_separators": "separated", "any_of_the_lines": "words", "pays_for_effort": "numbers",
}  # fmt: skip
