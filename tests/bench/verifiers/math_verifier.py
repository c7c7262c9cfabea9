"""Compares `math` with math-verify as a library on one core: GSM8K, a mixture like MATH's answers, hostile answers.

    python tests/bench/verifiers/math_verifier.py [--rows 2000] [--rows-math-verify 300] [--only gsm8k|math|hostile]
        [--cpu-time]

Every string is new to both, half of the answers are wrong, and process start, records and JSON are not timed.
math-verify gets boxed references and a box first, its best setting. Hostile rows go through the verifier's pool with
two workers and a deadline, and to math-verify with its own timeouts (5 s to parse, 5 s to compare). With --cpu-time the
clock is this process's own, for a machine that others use too; the pool is always timed by the wall.
"""

import argparse
import gzip
import json
import logging
import os
import random
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import math_verify

from rlvr.plugin import VerifierContext, completion_from_text
from rlvr.records import Check, Completion, Prompt
from rlvr.verification.service import VerifierService
from rlvr_verifiers.math_answer import MathConfig, MathVerifier

ROOT = Path(__file__).resolve().parents[3]
SHARED = Path(os.environ.get("RLVR_SHARED", ROOT.parent / "shared"))
HOSTILE = ROOT / "tests" / "golden" / "verdicts" / "math" / "hostile.jsonl"
CLOCKS: dict[bool, Callable[[], float]] = {False: time.perf_counter, True: time.process_time}
DEADLINE_S = 5.0
GRACE_S = 0.3


@dataclass(frozen=True, slots=True)
class Row:
    """One pair, and whether it is right."""

    gold: str
    text: str
    is_right: bool


def gsm8k(limit: int) -> Iterator[Row]:
    """Official solutions with their reference; every second one with the reference of another."""
    path = SHARED / "data" / "math" / "gsm8k_train.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        solutions = [json.loads(line)["answer"] for line in lines][:limit]
    golds = [solution.split("####")[-1].strip() for solution in solutions]
    for number, solution in enumerate(solutions):
        gold = golds[(number + 1) % len(golds)] if number % 2 else golds[number]
        yield Row(gold, solution, gold.replace(",", "") == golds[number].replace(",", ""))


Pair = tuple[str, str, str]  # gold, a right answer, a wrong one


def _integer(rng: random.Random) -> Pair:
    n = rng.randint(-9999, 99999)
    return str(n), rng.choice([str(n), f"{n:,}", f"{n}.0", f"x = {n}"]), str(n + rng.randint(1, 9))


def _rational(rng: random.Random) -> Pair:
    a, b, k = rng.randint(1, 999), rng.randint(2, 999), rng.randint(2, 5)
    gold = f"\\frac{{{a}}}{{{b}}}"
    return (gold, rng.choice([f"{a}/{b}", f"\\dfrac{{{a * k}}}{{{b * k}}}"]), f"\\frac{{{a + 1}}}{{{b}}}")


def _decimal(rng: random.Random) -> Pair:
    n = rng.randint(1, 99999)
    return f"{n / 1000}", f"\\frac{{{n}}}{{1000}}", f"{(n + 1) / 1000}"


def _tuple(rng: random.Random) -> Pair:
    a, b = rng.randint(-99, 99), rng.randint(100, 999)
    return f"({a},{b})", f"\\left({a}, {b}\\right)", f"({b},{a})"


def _set(rng: random.Random) -> Pair:
    a, b, c = sorted(rng.sample(range(-99, 100), 3))  # "145,316,499" would be a number
    return f"{a},{b},{c}", f"\\{{{c}, {a}, {b}\\}}", f"{a},{b},{c + 1}"


def _interval(rng: random.Random) -> Pair:
    a, b = sorted(rng.sample(range(-500, 500), 2))
    return f"[{a},{b})", f"{a}\\le x<{b}", f"[{a},{b}]"


def _surd(rng: random.Random) -> Pair:
    a, b = rng.randint(2, 40), rng.choice([2, 3, 5, 6, 7, 10, 11, 13])
    return f"\\sqrt{{{a * a * b}}}", f"{a}\\sqrt{{{b}}}", f"{a + 1}\\sqrt{{{b}}}"


def _polynomial(rng: random.Random) -> Pair:
    a, b = rng.randint(1, 60), rng.randint(61, 120)
    return f"x^2+{a + b}x+{a * b}", f"(x+{a})(x+{b})", f"x^2+{a + b}x+{a * b + 1}"


def _line(rng: random.Random) -> Pair:
    a, b = rng.randint(2, 99), rng.randint(1, 99)
    return f"{a}x-y+{b}=0", f"y = {a}x + {b}", f"y = {a}x - {b}"


def _matrix(rng: random.Random) -> Pair:
    a, b, c, d = (rng.randint(-50, 50) for _ in range(4))
    body = f"{a}&{b}\\\\{c}&{d}"
    return (
        f"\\begin{{pmatrix}}{body}\\end{{pmatrix}}",
        f"\\begin{{bmatrix}} {a} & {b} \\\\ {c} & {d} \\end{{bmatrix}}",
        f"\\begin{{pmatrix}}{a}&{b}\\\\{c}&{d + 1}\\end{{pmatrix}}",
    )


def _text(rng: random.Random) -> Pair:
    names = ["Ada", "Bert", "Cora", "Dora", "Emil", "Fritz", "Gerda", "Hans", "Ida", "Jakob"]
    name, other = rng.sample([f"{a} {b}" for a in names for b in names], 2)
    return f"\\text{{{name}}}", name.lower(), f"\\text{{{other}}}"


def _unit(rng: random.Random) -> Pair:
    n, unit = rng.randint(1, 9999), rng.choice(["meters", "cm", "hours", "square feet", "degrees"])
    return f"{n}\\text{{ {unit}}}", str(n), f"{n + 1}\\text{{ {unit}}}"


def _trigonometry(rng: random.Random) -> Pair:
    k = rng.randint(2, 99)
    return f"\\cos {2 * k}x", f"1-2\\sin^2({k}x)", f"1+2\\sin^2({k}x)"


KINDS: tuple[tuple[float, Callable[[random.Random], Pair]], ...] = (
    (63.0, _integer),
    (13.0, _rational),
    (3.0, _decimal),
    (3.5, _tuple),
    (2.5, _set),
    (2.5, _interval),
    (4.0, _surd),
    (3.0, _polynomial),
    (0.5, _line),
    (1.0, _matrix),
    (1.5, _text),
    (2.0, _unit),
    (0.5, _trigonometry),
)


def mixture(limit: int, seed: int) -> list[Row]:
    """Answers in the proportions of MATH's test set, all different."""
    rng = random.Random(seed)
    weights = [weight for weight, _ in KINDS]
    rows: dict[tuple[str, str], Row] = {}
    while len(rows) < limit:
        make = rng.choices([kind for _, kind in KINDS], weights)[0]
        gold, right, wrong = make(rng)
        is_right = len(rows) % 2 == 0
        said = right if is_right else wrong
        text = f"We work it out step by step and find what was asked for. The answer is $\\boxed{{{said}}}$."
        rows.setdefault((gold, said), Row(gold, text, is_right))
    return list(rows.values())


def hostile() -> list[Row]:
    """The rows of the table of hostile answers."""
    lines = HOSTILE.read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return [Row(row["reference"], row["completion"], row["status"] == "pass") for row in rows]


def ours(rows: Iterable[Row], clock: Callable[[], float]) -> list[tuple[float, bool]]:
    """(seconds, whether it passed) of each row, in this process."""
    verifier = MathVerifier(MathConfig(cross_check_rate=0.0), VerifierContext())
    results: list[tuple[float, bool]] = []
    for row in rows:
        completion = completion_from_text(row.text, prompt_id="p")
        prompt = _prompt(row.gold)
        start = clock()
        verdict = verifier.prejudge(row.gold, completion)
        if verdict is None:
            verdict = verifier.verify(prompt, completion)
        results.append((clock() - start, verdict.passed))
    return results


def pooled(rows: Iterable[Row], clock: Callable[[], float]) -> list[tuple[float, bool]]:
    """The same through the pool, one after the other, as one item of a run waits for its verdict."""
    service = VerifierService(workers=2, deadline_s=DEADLINE_S)
    results: list[tuple[float, bool]] = []
    try:
        service.preflight([Check(name="math", verifier="math")])
        for row in rows:
            pair: tuple[Prompt, Completion]
            pair = _prompt(row.gold), completion_from_text(row.text, prompt_id="p")
            start = clock()
            verdict = service.verify_batch([pair])[0]["math"]
            results.append((clock() - start, verdict.passed))
    finally:
        service.close()
    return results


def math_verify_(rows: Iterable[Row], clock: Callable[[], float]) -> list[tuple[float, bool]]:
    """The same by math-verify: boxed references, a box first."""
    config = [math_verify.LatexExtractionConfig(boxed_match_priority=0), math_verify.ExprExtractionConfig()]
    results: list[tuple[float, bool]] = []
    for row in rows:
        start = clock()
        try:
            gold = math_verify.parse(f"\\boxed{{{row.gold}}}", config)
            passed = math_verify.verify(gold, math_verify.parse(row.text, config))
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            passed = False
        results.append((clock() - start, bool(passed)))
    return results


def _prompt(gold: str) -> Prompt:
    check = Check(name="math", verifier="math", reference=gold)
    return Prompt(prompt_id="p", text="?", checks=(check,), source="bench")


def report(name: str, rows: list[Row], results: list[tuple[float, bool]], limit_s: float) -> float:
    """Prints one line; returns the median."""
    seconds = sorted(item for item, _ in results)
    wrong = sum(row.is_right != passed for row, (_, passed) in zip(rows, results, strict=True))
    median, p99 = statistics.median(seconds), seconds[int(0.99 * (len(seconds) - 1))]
    late = sum(item > limit_s + GRACE_S for item in seconds)
    print(
        f"  {name:<12} {len(rows):>6} rows  p50 {1e3 * median:9.3f} ms  p99 {1e3 * p99:9.2f} ms  "
        f"{len(rows) / sum(seconds):>10,.0f} rows/s  max {1e3 * seconds[-1]:9.1f} ms  "
        f"over {limit_s:g}+{GRACE_S:g} s: {late}  other than expected: {wrong}"
    )
    return median


def main() -> None:
    """Measures each set with both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--rows-math-verify", type=int, default=300)
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--only", choices=["gsm8k", "math", "hostile"])
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    sets: dict[str, list[Row]] = {}
    if (SHARED / "data" / "math").is_dir():
        sets["gsm8k"] = list(gsm8k(options.rows))
    sets["math"] = mixture(options.rows, seed=1)
    sets["hostile"] = hostile() if HOSTILE.is_file() else []
    clock = CLOCKS[options.cpu_time]
    ours(mixture(400, seed=2), clock)  # both import what they need
    math_verify_(mixture(20, seed=3), clock)
    for name, rows in sets.items():
        if not rows or (options.only and name != options.only):
            continue
        print(name)
        few = rows[: options.rows_math_verify]
        if name == "hostile":
            measured = pooled(rows, time.perf_counter)
        else:
            measured = ours(rows, clock)
        own = report("rlvr", rows, measured, DEADLINE_S)
        other = report("math-verify", few, math_verify_(few, clock), 2 * DEADLINE_S)
        print(f"  ratio of the medians: {other / own:.0f}")


if __name__ == "__main__":
    main()
