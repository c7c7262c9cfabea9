"""Hostile completions and references through `rlvr verify`: all are answered, none passes, none runs code."""

import asyncio
import json
import math
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from rlvr.commands.verify_file import verify_file
from rlvr.plugin import completion_from_text
from rlvr.records import Check, Prompt, Status
from rlvr.verification.service import VerifierService

DEADLINE_S = 4.0
WALL_S = 60.0  # of the whole file; a second on an idle machine


def programs(canary: str) -> list[str]:
    """Boxes whose content writes the canary file when it is run, as Python, as a shell or as LaTeX."""
    return [
        f'__import__("os").system("touch {canary}")',
        f'open("{canary}","w")',
        f'open("{canary}","w")*1+\\pi',
        f'eval("open(\\"{canary}\\",\\"w\\")")',
        f'exec("open(\\"{canary}\\",\\"w\\")")',
        f'[open("{canary}","w") for _ in (1,)]',
        f'(lambda: open("{canary}","w"))()',
        f'\\text{{open("{canary}","w")}}',
        f'\\sqrt{{open("{canary}","w")}}',
        f'\\frac{{open("{canary}","w")}}{{1}}',
        f'__import__("subprocess").run(["touch","{canary}"])',
        f'().__class__.__base__.__subclasses__()[0]("{canary}")',
        f'print(6) or open("{canary}","w")',
        f'6 if open("{canary}","w") else 7',
        f'6; open("{canary}","w")',
        f"$(touch {canary})",
        f"`touch {canary}`",
        f"\\immediate\\write18{{touch {canary}}}",
        "\\input{/etc/passwd}",
        f"\\openout1={canary} \\write1{{x}}",
        f"\\begin{{pmatrix}}open('{canary}','w')\\end{{pmatrix}}",
        f"{{open('{canary}','w'),1}}",
        f"x = open('{canary}','w')",
        "__import__('os').getpid()",
        f'S(\'open("{canary}","w")\')',
    ]


def expressions() -> list[str]:
    """Boxes that would take ages or all memory when they are evaluated without care."""
    rows = "\\\\".join("&".join(f"x_{{{i}}}+{j}" for j in range(30)) for i in range(30))
    return [
        "9^{9^{9^9}}",
        "10^{10^{10}}",
        "2^{2^{2^{2^{2^2}}}}",
        "9**9**9**9",
        "2^{10^9}",
        "(2^{1000})^{1000000}",
        "1.0000001^{10^{15}}",
        "10^{-10^{10}}",
        "(-1)^{10^{12}}",
        "x^{10^{10}}",
        "x^{x^{x^{x^x}}}",
        "e^{e^{e^{e^e}}}",
        "2^{2^{64}}-2^{2^{64}}+6",
        "(x+y+z+1)^{500}",
        "(1+x)^{10^6}",
        "i^{10^{18}}",
        "0^{0^{0^0}}",
        "100000000!",
        "((((9!)!)!)!)",
        "5!!!!!!!!!!",
        "(10^{9})!",
        "\\frac{100000!}{99999!}",
        "n!^{n!^{n!}}",
        "\\binom{10^9}{5\\cdot 10^8}",
        "\\binom{1000000}{500000}",
        "\\binom{n}{\\binom{n}{\\binom{n}{n}}}",
        "\\sum_{k=1}^{10^{12}} k",
        "\\prod_{k=1}^{10^{9}} k",
        "\\int_0^{10^9} e^{x^2} dx",
        "\\lim_{n\\to\\infty} n!",
        "\\Gamma(10^{10})",
        "\\zeta(\\zeta(\\zeta(2)))",
        "\\gcd(10^{1000}, 7^{1000})",
        "7^{7^7} \\bmod 10",
        "\\log_{10} 10^{10^{10}}",
        "\\log(" * 25 + "2" + ")" * 25,
        "\\sqrt[10^{10}]{2}",
        "\\sqrt[3]{" * 28 + "2" + "}" * 28,
        "\\sin " * 200 + "x",
        "\\sin(" * 29 + "x" + ")" * 29,
        "\\sqrt{" * 500 + "2" + "}" * 500,
        "\\frac{1}{1+" * 300 + "1" + "}" * 300,
        "(" * 100_000 + "1" + ")" * 100_000,
        "[" * 50_000,
        "{" * 20_000 + "}" * 20_000,
        "\\left(" * 1000 + "1" + "\\right)" * 1000,
        "9" * 1_000_000,
        "0." + "6" * 1_000_000,
        "1/" + "3" * 100_000,
        "1e" + "9" * 5000,
        "1e999999999",
        "-" * 100_000 + "6",
        "6" + "+0" * 50_000,
        "1+" * 900 + "1",
        "\\{" + ",".join(map(str, range(2000))) + "\\}",
        ",".join(["1"] * 50_000),
        "(" + ",".join("x" * 900) + ")",
        "\\begin{pmatrix}" + rows + "\\end{pmatrix}",
        "\\begin{pmatrix}" * 300,
        "&" * 50_000,
        "\\cup".join(["(0,1)"] * 300),
        "1<" * 900 + "2",
        "=".join(["6"] * 5000),
        " ".join(["6"] * 100_000),
        "\\pm" * 900 + "1",
        "\\pm".join("123456789"),
        "|" * 1999,
        "_" * 100_000,
        "^" * 100_000,
        "\\" * 99_999,
        "%" * 100_000,
        "$" * 100_000,
        "1_{" * 1000 + "2" + "}" * 1000,
        "a" * 1900 + "!",
        "x=" * 900 + "1",
        "6\x00",
        "\x00" * 1000,
        "\u202e6\u202c",
        "\u0661\u0662\u0663",
        "\ud800",
        "６" * 1000,
        "6\u0301" * 1000,
        "\u200b" * 1000 + "6",
        "½" * 1000,
        "√" * 1000 + "2",
        "²" * 1000,
        "\U0001d7d4" * 500,
        "\\text{" * 1000,
        "1" + " " * 100_000 + "2",
        "\n" * 100_000,
        "\\frac" * 1000,
        "\\def\\a{\\a}\\a",
        "{{{{{",
        "}}}}}",
        "\\right",
        "\\end{x}",
    ]


def texts() -> list[str]:
    """Completions that are hostile to extraction."""
    return [
        "\\boxed{" * 100_000,
        "\\boxed{6}" * 50_000 + "\\boxed{7}",
        "the answer is " * 50_000,
        "#### " * 100_000,
        "$ " * 200_000,
        "<think>" * 100_000,
        "a" * 1_000_000,
        "\\boxed{6" + "\\{" * 100_000,
        "Final answer:" + "*" * 500_000,
        "Final answer: " + "(" * 100_000,
        "The answer is $" + "\\frac{1}{" * 50_000,
        "1 or " * 100_000,
        "",
    ]


def hostile(canary: str) -> list[dict[str, Any]]:
    boxed = [f"\\boxed{{{text}}}" for text in (*programs(canary), *expressions())]
    golds = ["6", "x^2+1", "\\{1,2\\}", "\\sqrt{2}", "[0,1)", "2^{100}"]
    rows = [
        {"id": number, "completion": text, "reference": golds[number % len(golds)]}
        for number, text in enumerate((*boxed, *texts()))
    ]
    right = [
        {"id": f"right {number}", "completion": f"\\boxed{{{number}}}", "reference": str(number)}
        for number in range(20)
    ]
    return [*rows, *right]


def test_there_are_a_hundred_hostile_completions() -> None:
    assert len({row["completion"] for row in hostile("x")}) - 20 >= 100


@pytest.mark.parametrize("cross_check_rate", [0.0, 0.2])
def test_all_are_answered_none_passes_and_no_code_runs(
    tmp_path: Path, cross_check_rate: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    canary = tmp_path / "canary"
    rows = hostile(str(canary))
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    start = time.monotonic()
    settings = {"cross_check_rate": cross_check_rate}
    report = verify_file("math", source, target, settings, workers=4, deadline_s=DEADLINE_S)
    seconds = time.monotonic() - start
    answers = [json.loads(line) for line in target.read_text().splitlines()]
    assert [answer["id"] for answer in answers] == [row["id"] for row in rows]
    passed = [answer["id"] for answer in answers if answer["status"] == "PASS"]
    assert passed == [f"right {number}" for number in range(20)]
    assert report.counts[Status.ERROR] == 0, [a for a in answers if a["status"] == "ERROR"][:3]
    assert max(answer["seconds"] for answer in answers) < 2 * (DEADLINE_S + 0.3)
    assert seconds < WALL_S
    assert not canary.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


@pytest.mark.slow
def test_hostile_references_are_errors_of_their_rows(tmp_path: Path) -> None:
    references = [*expressions(), *programs(str(tmp_path / "canary")), "\\text{see figure}", ""]
    rows = [{"id": n, "completion": "\\boxed{6}", "reference": r} for n, r in enumerate(references)]
    rows.append({"id": "good", "completion": "\\boxed{6}", "reference": "6"})
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    start = time.monotonic()
    verify_file("math", source, target, {}, workers=4, deadline_s=DEADLINE_S)
    assert time.monotonic() - start < WALL_S
    answers = [json.loads(line) for line in target.read_text().splitlines()]
    assert len(answers) == len(rows)
    assert answers[-1]["status"] == "PASS"
    passed = {references[a["id"]] for a in answers[:-1] if a["status"] == "PASS"}
    assert passed <= {"2^{2^{64}}-2^{2^{64}}+6", "\u200b" * 1000 + "6"}  # these two are 6
    assert not (tmp_path / "canary").exists()


def test_from_a_thread_and_an_event_loop_the_verdicts_are_the_same() -> None:
    said = ["9^{9^{9^9}}", "100000000!", "6", "\\sin(" * 29 + "x" + ")" * 29, "6.0", "open('canary','w')"]
    check = Check(name="math", verifier="math", reference="6")
    prompt = Prompt(prompt_id="p", text="?", checks=(check,), source="test")
    pairs = [(prompt, completion_from_text(f"\\boxed{{{text}}}", prompt_id="p")) for text in said]
    service = VerifierService(workers=2, deadline_s=DEADLINE_S)
    results: list[list[Status]] = []

    async def in_a_loop() -> None:
        answers = await asyncio.gather(*(service.verify(*pair) for pair in pairs))
        results.append([answer["math"].status for answer in answers])

    def in_a_thread() -> None:
        results.append([answer["math"].status for answer in service.verify_batch(pairs)])

    try:
        service.preflight([check])
        thread = threading.Thread(target=in_a_thread)
        thread.start()
        thread.join(60)
        asyncio.run(in_a_loop())
        in_a_thread()
    finally:
        service.close()
    right, wrong = Status.PASS, Status.FAIL
    assert results == [[wrong, wrong, right, wrong, right, wrong]] * 3


def test_the_quick_path_takes_no_time_on_any_of_them() -> None:
    check = Check(name="math", verifier="math", settings={"cross_check_rate": 0.0})
    service = VerifierService(workers=1, deadline_s=DEADLINE_S)
    slow: list[tuple[float, str]] = []
    try:
        service.label(check)
        for row in hostile("canary"):
            own = Check(name="math", verifier="math", settings=check.settings, reference=row["reference"])
            prompt = Prompt(prompt_id="p", text="?", checks=(own,), source="test")
            completion = completion_from_text(row["completion"], prompt_id="p")
            best = math.inf
            for _ in range(2):  # the first may import
                start = time.process_time()
                service.prejudge(prompt, completion)
                best = min(best, time.process_time() - start)
            if best > 0.25:
                slow.append((best, row["completion"][:40]))
    finally:
        service.close()
    assert slow == []
