"""Comparison of answers by the type of the gold: tuples, sets, lists, matrices, expressions, and what is refused."""

import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr_verifiers.mathcheck.compare.compare import CompareOptions, Method, Problem, compare, read_gold


@pytest.mark.parametrize(
    ("gold", "answer", "is_equal"),
    [
        ("(3,-1)", r"\left(3,-1\right)", True), ("(3,-1)", "(-1,3)", False), ("(1,3)", "{1,3}", True),
        ("(3,1)", "{1,3}", False), ("(1,2)", r"\{1,2\}", False),
        (r"\{3,-1\}", r"\{-1,3\}", True), (r"\{1,2\}", "(1,2)", False), ("-1,3", r"3 \text{ and } -1", True),
        ("-1,3", "3", False), ("-1,3", "-1,3,3", False),
        (r"\{3,-1\}", "x = 3 or x = -1", True), (r"\{2,-2\}", r"x=\pm 2", True),
        (r"1\pm\sqrt{19}", r"1-\sqrt{19}, 1+\sqrt{19}", True), ("2", r"\pm 2", False),
        (r"\{1\pm\sqrt5,-2\}", r"\{-2, 1-\sqrt5, 1+\sqrt5\}", True), (r"(\pm 1, 2)", "(1,2),(-1,2)", True),
        ("7", "[7,7]", False), ("5", r"\{5\}", True),
        ("(1,2)", "x=1, y=2", True), ("(1,2)", "y=2, x=1", True), ("(4,-2)", "y=4, x=-2", False),
        ("x=1, y=2", "(x,y)=(1,2)", True), ("(x,y)=(1,2)", "(1,2)", True),
        ("x=1, y=2", "x=2, y=1", False), ("(1,2),(3,4)", "(3,4),(1,2)", True),
        ("(1,2),(3,4)", "(1,4),(3,2)", False), ("p=5,q=2;p=7,q=2", "(5,2),(7,2)", True),
        ("16,3,1,1", "w=16, d=3, a=1, b=1", True), ("2,4,3", "T(10)=2, T(11)=4, T(12)=3", True),
        ("n=1,2,3", "1,2,3", True), ("(2500,1)", "2500,1", True),
        (r"\begin{pmatrix}1&0\\0&2\end{pmatrix}", r"\left[\begin{array}{cc}1&0\\0&2\end{array}\right]", True),
        ("(3,-1,2)", r"\langle 3,-1,2\rangle", True),
        (r"\begin{pmatrix}1&0\\0&2\end{pmatrix}", r"\begin{bmatrix}2&0\\0&1\end{bmatrix}", False),
        (r"\begin{pmatrix}3\\-1\\2\end{pmatrix}", "(3,-1,2)", True),
        (r"\begin{pmatrix}3\\-1\\2\end{pmatrix}", r"3\mathbf{i}-\mathbf{j}+2\mathbf{k}", True),
        (r"\begin{pmatrix}1&2\end{pmatrix}", r"\begin{vmatrix}1&2\end{vmatrix}", False),
        (r"\begin{pmatrix}6\\3\end{pmatrix}",

               r"\begin{pmatrix}1&2\\3&-1\end{pmatrix}\begin{pmatrix}1\\2\end{pmatrix}+\begin{pmatrix}1\\2\end{pmatrix}",
        True),
        (r"\begin{pmatrix}\frac12&1\end{pmatrix}", r"\frac12\begin{pmatrix}1&2\end{pmatrix}", True),
        (r"-\begin{pmatrix}1&2\end{pmatrix}", r"\begin{pmatrix}1&2\end{pmatrix}", False),
        (r"[x]_B=\left[\begin{array}{r}2\\-1\end{array}\right]",
        r"[x]_B=\left[\begin{array}{r}2\\-9\end{array}\right]", False),
        ("x^2+4x+4", "(x+2)^2", True), ("x^2+4x+4", "(x+2)^2+0.0001", False), (r"\sqrt{8}", r"2\sqrt{2}", True),
        (r"2\sqrt{2}", "2.83", False), ("1+2i", "i(2-i)", True),
        (r"2\sqrt3\text{ cm}", r"2\sqrt3", True), (r"2\sqrt3\text{ cm}", r"2\sqrt3\text{ kg}", False),
        (r"\cos x", r"\cos x^\circ", False), ("3x", "3*x", True),
        ("5", r"x = 5 \text{ apples}", True), ("5", r"\text{The area is } 5", True),
        (r"7,4", r"7 \text{ goats and } 4 \text{ dogs}", True), ("1,3", "Minimum: 1, Maximum: 3", True),
        ("f(x)=1", r"f(x)=1 \text{ for all } x \in \mathbb{Q}_{>0}", True), (r"\frac{1}{2}", r"\\frac{1}{2}", True),
        (r"\binom{16}{2}", "120", True), ("3", "3-", False),
        ("1, 2, \\ldots, n", "1, 3, \\ldots, 2n-1", False), ("3", "x = 3 = 4", False), ("3", "3=", False),
        ("3", r"\text{at least }3", False), ("3", r"3 \pmod 5", True), ("2n+1", r"2n+1, n\in\mathbb{Z}", True),
    ],
)  # fmt: skip
def test_answers_compare_by_the_type_of_the_gold(gold: str, answer: str, is_equal: bool) -> None:
    assert compare(read_gold(gold), answer, bounded=True).result is is_equal


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("17", "integer"), ("0.5", "decimal"), ("3/4", "rational"), (r"40\%", "percent"),
        (r"5\text{ cm}", "quantity"), (r"60^\circ", "degrees"), ("4:30 p.m.", "time"),
        ("1011_2", "base"), ("3:2", "ratio"), ("B", "letter"), (r"\text{Tuesday}", "text"), ("(1,2)", "tuple"),
        (r"\{1,2\}", "set"), ("1,2", "list"),
        ("[2,9)", "interval"), ("x>2", "interval"), ("3x-y=2", "equation"),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", "matrix"), ("x^2", "expression"),
        (r"k\pi, k\in\mathbb{Z}", "family"), ("x=4", "integer"), ("f(1)<f(2)", "relation"),
    ],
)  # fmt: skip
def test_a_gold_has_a_type(text: str, kind: str) -> None:
    assert read_gold(text).kind == kind


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "$$",
        r"\text{see figure}",
        "proof",
        r"\text{See the diagram above}",
        "((((",
        "2+",
        r"\begin{pmatrix}1&2",
        r"\frac{1}{0}",
        r"\text{N/A}",
        r"\text{Answers may vary}",
        r"\frac{1}{",
        "x" * 3000,
    ],
)
def test_a_reference_that_nothing_could_equal_is_a_data_error(text: str) -> None:
    with pytest.raises(ValueError, match="gold answer"):
        read_gold(text)


@pytest.mark.parametrize(
    ("gold", "answer", "problem"),
    [
        ("6", r"\int_0^2 3x\,dx", Problem.UNEVALUATED), ("6", "9^{9^{9^9}}", Problem.TOO_BIG),
        ("6", "1" * 3000, Problem.TOO_BIG), ("6", "__import__('os').getpid()", Problem.UNREADABLE),
        ("3", "x = 3 = 4", Problem.AMBIGUOUS), ("6", "", Problem.UNREADABLE),
    ],
)  # fmt: skip
def test_an_answer_that_cannot_be_compared_says_why(gold: str, answer: str, problem: Problem) -> None:
    decision = compare(read_gold(gold), answer, bounded=True)
    assert decision.result is False
    assert decision.problem is problem


def test_rounding_is_accepted_only_where_asked_for() -> None:
    gold, options = read_gold(r"\frac{2}{3}"), CompareOptions(decimal_digits=3)
    assert compare(gold, "0.667", bounded=True).result is False
    assert compare(gold, "0.667", bounded=True, options=options).result is True
    assert compare(gold, "0.67", bounded=True, options=options).result is False
    assert compare(gold, "0.666", bounded=True, options=options).result is False
    assert compare(read_gold(r"\sqrt{2}"), "1.414", bounded=True, options=options).result is True


def test_the_method_tells_how_it_was_decided() -> None:
    assert compare(read_gold("x+1"), "x + 1", bounded=True).method is Method.STRING
    assert compare(read_gold("17"), "17.0", bounded=True).method is Method.NUMBER
    assert compare(read_gold("[2,9)"), r"2\le x<9", bounded=True).method is Method.STRUCTURE


def test_parts_are_matched_one_to_one_and_not_greedily() -> None:
    gold = read_gold(r"5, 5\text{ cm}, 5\text{ kg}")
    assert compare(gold, r"5\text{ kg}, 5\text{ cm}, 5", bounded=True).result is True
    assert compare(gold, r"5\text{ kg}, 5\text{ kg}, 5\text{ kg}", bounded=True).result is False


@given(st.lists(st.integers(-99, 99), min_size=2, max_size=8), st.randoms(use_true_random=False))
def test_a_list_in_any_order_is_the_same_and_with_a_change_it_is_not(values: list[int], random) -> None:
    shuffled = random.sample(values, len(values))
    gold = read_gold(", ".join(map(str, values)))
    assert compare(gold, ", ".join(map(str, shuffled)), bounded=True).result is True
    changed = [shuffled[0] + 1, *shuffled[1:]]
    assert compare(gold, ", ".join(map(str, changed)), bounded=True).result is False


_PIECES = [
    "(", "[", "{", "\\{", "()", ",", "1", "12", "1,", "a", "a,", "\\text{", "}", "\\text{a}", "\\text{a and }",
    "or ", "x<", "x=", "=",
    "\\frac", "\\frac{", "\\pm", "^", "_", ":", "\\cup", "\\in Z", "-", "--", "\\", "&", "$", "%", "cm", "x∪", "≈",
    "\\Rightarrow", "'",
]  # fmt: skip


@given(st.lists(st.sampled_from(_PIECES), max_size=60).map("".join))
def test_no_text_raises_or_is_read_as_true_for_a_fresh_number(text: str) -> None:
    for gold in (
        "987654321",
        r"(987654321,\frac{1}{7})",
        r"x^2+987654321",
        "[0,987654321)",
        "q=987654321p",
        r"\text{zebra}",
    ):
        assert compare(read_gold(gold), text, bounded=True).result is not True


@pytest.mark.parametrize(
    "piece",
    [
        "(",
        "[",
        "\\{",
        "()",
        "1,",
        "a or ",
        "\\text{a and }",
        "x<1 or ",
        "x=",
        "\\frac",
        "\\pm",
        "1:",
        "[1,2]\\cup",
        "k\\in\\mathbb{Z},",
        "aaaa",
        "{,}",
        "000 ",
        "²",
        "(a",
    ],
)
def test_a_hostile_text_costs_little(piece: str) -> None:
    gold = read_gold("(1,2)")
    text = (piece * 2000)[:1990]
    start = time.perf_counter()
    assert compare(gold, text, bounded=True).result is False
    assert time.perf_counter() - start < 1.0


def test_numbers_load_no_expression_parser_and_no_computer_algebra() -> None:
    code = (
        "import sys; from rlvr_verifiers.mathcheck.compare.compare import compare, read_gold\n"
        "assert compare(read_gold('5'), '5 cm', bounded=True).result\n"
        "assert compare(read_gold('(1,2)'), '(1, 2)', bounded=True).result\n"
        "loaded = {'sympy', 'mpmath', 'math_verify', 'rlvr_verifiers.mathcheck.parse.grammar'} & set(sys.modules)\n"
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
