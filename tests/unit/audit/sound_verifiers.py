"""Sound reward functions, written as users write them. `SOUND` has the rows that each is audited on."""

import ast
import json
import math
import operator
import re
from fractions import Fraction

from rlvr.plugin import verifier


@verifier(version="1")
def exact(text: str, reference: str) -> bool:
    return text.strip() == reference.strip()


@verifier(version="1")
def exact_without_case(text: str, reference: str) -> bool:
    return text.strip().casefold().rstrip(".") == reference.casefold()


@verifier(version="1")
def close_number(text: str, reference: str) -> bool:
    try:
        return math.isclose(float(text.strip().replace(",", "")), float(reference), rel_tol=1e-6, abs_tol=1e-9)
    except ValueError:
        return False


@verifier(version="1")
def last_number(text: str, reference: str) -> bool:
    numbers = re.findall(r"-?\d[\d,]*(?:\.\d+)?", text)
    if not numbers:
        return False
    try:
        return Fraction(numbers[-1].replace(",", "")) == Fraction(str(reference))
    except ValueError:
        return False


@verifier(version="1")
def after_hash_marks(text: str, reference: str) -> bool:
    match = re.search(r"####\s*(-?[\d,]+(?:\.\d+)?)\s*$", text)
    return match is not None and match.group(1).replace(",", "") == reference


@verifier(version="1")
def last_box(text: str, reference: str) -> bool:
    boxes = re.findall(r"\\boxed\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\}", text)
    return bool(boxes) and boxes[-1].strip() == reference


@verifier(version="1")
def anchored_letter(text: str, reference: str) -> bool:
    match = re.search(r"(?:answer is|answer:)\s*\(?([A-D])\)?\.?\s*$", text, re.IGNORECASE)
    return match is not None and match.group(1).upper() == reference


@verifier(version="1")
def only_tag(text: str, reference: str) -> bool:
    answers = re.findall(r"<answer>(.*?)</answer>", text, re.DOTALL)
    return len(answers) == 1 and answers[0].strip() == reference


@verifier(version="1")
def equal_json(text: str, reference: object) -> bool:
    try:
        return bool(json.loads(text) == reference)
    except (ValueError, RecursionError):
        return False


@verifier(version="1")
def format_and_answer(text: str, reference: str) -> float:
    match = re.fullmatch(r"\s*<think>.*</think>\s*<answer>([^<]*)</answer>\s*", text, re.DOTALL)
    if match is None:
        return 0.0
    return 0.1 + 0.9 * (match.group(1).strip() == reference)


_OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}


def _value(node: ast.AST) -> int:
    if isinstance(node, ast.Expression):
        return _value(node.body)
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_value(node.left), _value(node.right))
    raise ValueError(ast.dump(node))


@verifier(version="1")
def safe_arithmetic(text: str, reference: str) -> bool:
    """Walks a syntax tree and never evaluates it."""
    try:
        return len(text) < 200 and str(_value(ast.parse(text.strip(), mode="eval"))) == reference
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return False


@verifier(version="1")
def set_of_words(text: str, reference: str) -> bool:
    last = text.strip().splitlines()[-1:] or [""]
    return sorted(last[0].replace(" ", "").split(",")) == sorted(reference.replace(" ", "").split(","))


@verifier(version="1")
def yes_or_no(text: str, reference: str) -> bool:
    words = re.findall(r"[a-z]+", text.lower())
    return bool(words) and words[-1] == reference


@verifier(version="1")
def after_thinking(text: str, reference: str) -> bool:
    _, closed, answer = text.rpartition("</think>")
    return bool(closed) and answer.strip() == reference


SOUND = {
    "exact": "words", "exact_without_case": "words", "close_number": "decimals", "last_number": "numbers",
    "after_hash_marks": "numbers", "last_box": "latex", "anchored_letter": "letters", "only_tag": "words",
    "equal_json": "objects", "format_and_answer": "numbers", "safe_arithmetic": "numbers", "set_of_words": "lists",
    "yes_or_no": "yes_no", "after_thinking": "words", "math": "latex", "text_match": "words",
}  # fmt: skip
