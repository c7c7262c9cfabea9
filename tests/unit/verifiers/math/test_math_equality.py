"""Equality of expressions: what is proved, what is distinguished, where it counts, and that nothing takes long."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvr_verifiers.mathcheck.algebra.equality import Equality, proportional, same, same_up_to_constant
from rlvr_verifiers.mathcheck.algebra.kernels import DOUBLES, Precise
from rlvr_verifiers.mathcheck.algebra.numeric import is_apart, value_at
from rlvr_verifiers.mathcheck.algebra.residues import TWELFTH_ROOTS, ZETA_120, I, P, square_root
from rlvr_verifiers.mathcheck.method import Method
from rlvr_verifiers.mathcheck.parse.expression import Add, Expr, Func, Mul, Num, Pow, Var, parse


def compared(gold: str, answer: str, *, bounded: bool) -> Equality:
    return same(parse(gold), parse(answer), bounded=bounded)


PROVED = [
    (r"\sqrt{8}", r"2\sqrt2"),
    (r"\frac{1}{1+\sqrt2}", r"\sqrt2-1"),
    (r"3\sqrt5", r"\frac{15}{\sqrt5}"),
    (r"\sqrt[3]{16}", r"2\sqrt[3]2"),
    (r"\sqrt[3]{16}", "2^{4/3}"),
    (r"\sqrt[3]{-8}", "-2"),
    (r"\sqrt{-4}", "2i"),
    ("1+2i", "i(2-i)"),
    (r"\frac{1}{1+i}", r"\frac{1-i}{2}"),
    (r"e^{i\pi}", "-1"),
    (r"2e^{i\pi/3}", r"1+i\sqrt3"),
    (r"\frac{\pi}{3}", r"60^\circ"),
    (r"\cos 36^\circ", r"\frac{1+\sqrt5}{4}"),
    (r"\cos 15^\circ", r"\frac{\sqrt6+\sqrt2}{4}"),
    (r"\arcsin\frac12", r"\frac{\pi}{6}"),
    (r"\arctan\sqrt3", r"\frac{\pi}{3}"),
    (r"\ln 8", r"3\ln 2"),
    (r"\log_2 10", r"1+\log_2 5"),
    (r"\log_2 10", r"\frac{\ln 10}{\ln 2}"),
    (r"|1-\sqrt2|", r"\sqrt2-1"),
    (r"\lfloor\pi\rfloor", "3"),
    ("x^2+4x+4", "(x+2)^2"),
    ("(x+y+z+1)^{60}", "(1+x+y+z)^{20}(1+x+y+z)^{40}"),
    (r"\frac{x^2-1}{x-1}", "x+1"),
    (r"\frac{1}{x}+\frac{1}{y}", r"\frac{x+y}{xy}"),
    (r"\sqrt{x}\cdot\sqrt{x}", "x"),
    ("x^{1/2}", r"\sqrt{x}"),
    (r"\frac{1}{\sqrt x}", r"\frac{\sqrt x}{x}"),
    (r"\cos 2x", r"1-2\sin^2 x"),
    (r"\sin(x+y)", r"\sin x\cos y+\cos x\sin y"),
    (r"\tan x", r"\frac{\sin x}{\cos x}"),
    (r"\sin 3x", r"3\sin x-4\sin^3 x"),
    (r"\cos(x+\pi)", r"-\cos x"),
    (r"\sin(\frac{\pi}{2}-x)", r"\cos x"),
    (r"e^{x+y}", "e^x e^y"),
    (r"\cosh x", r"\frac{e^x+e^{-x}}{2}"),
    ("2^{n+1}", r"2\cdot 2^n"),
    ("4^n", "2^{2n}"),
    ("6^n", "2^n 3^n"),
    ("(-2)^n", "(-1)^n 2^n"),
    (r"f(x^2-1)+1", "1+f((x-1)(x+1))"),
    (r"2\mathbf{i}+3\mathbf{j}", "2i+3j"),
    (r"\log 1000", "3"),
    (r"\pm 3", r"\mp 3"),
    (r"x\pm\sqrt2", r"\mp\sqrt2+x"),
    (r"+\infty", r"\infty"),
    (r"\int_0^1 2x dx", r"\int_0^1 x\cdot2 dx"),
    ("P(1+r)^n", "(r+1)^nP"),
    (r"a_n + \cdots + a_1", r"a_1 + \ldots + a_n"),
]


@pytest.mark.parametrize(("gold", "answer"), PROVED)
def test_equal_expressions_are_proved_without_multiprecision(gold: str, answer: str) -> None:
    assert compared(gold, answer, bounded=True).result is True
    assert compared(answer, gold, bounded=True).result is True


LEFT_OPEN = [
    (r"\sqrt{3+2\sqrt2}", r"1+\sqrt2"),
    ("0", r"\sqrt{3+2\sqrt2}-1-\sqrt2"),
    (r"\frac{1}{\sqrt{109}}", r"\frac{\sqrt{109}}{109}"),
    (r"\cos 20^\circ\cos 40^\circ\cos 80^\circ", r"\frac18"),
    (r"\log x^2", r"2\log x"),
    (r"\ln(xy)", r"\ln x+\ln y"),
    (r"\sqrt{x}\sqrt{y}", r"\sqrt{xy}"),
    (r"\sqrt{\frac1n}", r"\frac{1}{\sqrt n}"),
    (r"\sqrt{x^2}", "|x|"),
    ("(-1)^n", r"\cos(n\pi)"),
    (r"\frac{n!}{(n-1)!}", "n"),
    (r"\binom{n}{2}", r"\frac{n(n-1)}{2}"),
    (r"2\arcsin\sqrt{a}", r"\arccos(1-2a)"),
    (r"\arcsin x", r"\frac{\pi}{2}-\arccos x"),
    (r"e^{2\ln x}", "x^2"),
]


@pytest.mark.parametrize(("gold", "answer"), LEFT_OPEN)
def test_equal_expressions_that_doubles_cannot_prove_are_left_open_and_then_accepted(gold: str, answer: str) -> None:
    assert compared(gold, answer, bounded=True).result is None
    found = compared(gold, answer, bounded=False)
    assert found.result is True
    assert found.method is Method.NUMERIC
    assert compared(answer, gold, bounded=False).result is True


DIFFERENT = [
    (r"2\sqrt2", "2.83"),
    (r"\pi", "3.14159265"),
    (r"\pi", "3.141592653589793238462643383279502884197169399375"),
    (r"\frac{1}{2004!}", r"\frac{1}{2006!}"),
    ("2^{-99}", "2^{-98}"),
    ("x^2+4x+4", "(x+2)^2+0.0001"),
    ("(x+2)^2", "(x+2)^2+10^{-40}"),
    (r"\sin x", r"\sin x+10^{-50}"),
    (r"\sqrt{3+2\sqrt2}", r"1+\sqrt2+10^{-300}"),
    ("x", r"\sqrt{x^2}"),
    ("x+1", r"\sqrt{x^2+2x+1}"),
    ("|x|", "x"),
    (r"\frac{2}{3}", "0.667"),
    (r"\sqrt{7+4\sqrt3}", r"2-\sqrt3"),
    (r"\arctan x+\arctan\frac1x", r"\frac{\pi}{2}"),
    ("E", "E'"),
    ("x", "X"),
    ("x_1", "x_2"),
    ("f(x)", "f(y)"),
    ("f(x)", "g(x)"),
    ("f(x)^2", "f(x^2)"),
    (r"\cos x", r"\sin x"),
    ("(-1)^n", "1"),
    ("n!", r"n\cdot n"),
    (r"\infty", r"-\infty"),
    (r"\infty", "1000"),
    ("6", "9^{9^{9^9}}"),
    ("1", r"\frac{0}{0}"),
    ("1", r"\log 0"),
    ("6", r"\int_0^2 3x dx"),
    ("3", r"\pm 3"),
    (r"\sum_{k=1}^{n} k", r"\sum_{k=1}^{n} 2k"),
    (r"\log_2 8", r"\log_8 2"),
    (r"\sqrt5", r"-\sqrt5"),
    (r"1+2+\cdots+n", r"1+3+\cdots+n"),
    ("i", "-i"),
    (r"\sqrt{-4}", "-2i"),
]


@pytest.mark.parametrize(("gold", "answer"), DIFFERENT)
def test_different_expressions_are_distinguished(gold: str, answer: str) -> None:
    assert compared(gold, answer, bounded=True).result in (False, None)
    assert compared(gold, answer, bounded=False).result is False
    assert compared(answer, gold, bounded=False).result is False


def test_nearly_all_differences_need_no_multiprecision() -> None:
    decided = [compared(*pair, bounded=True).result is False for pair in DIFFERENT]
    assert sum(decided) >= len(decided) - 2  # 1e-50 and 1e-300 next to what the field does not know


@pytest.mark.parametrize(
    ("gold", "answer", "problem"),
    [
        ("6", "9^{9^{9^9}}", "too_big"),
        ("6", r"\int_0^2 3x dx", "unevaluated"),
        ("6", "1/0", "undefined"),
        ("6", "7", ""),
    ],
)
def test_the_problem_says_why_there_was_nothing_to_compare(gold: str, answer: str, problem: str) -> None:
    assert compared(gold, answer, bounded=True).problem == problem


def test_a_gold_sum_over_a_small_range_is_evaluated() -> None:
    assert compared(r"\sum_{k=1}^{10} k^2", "385", bounded=True).result is True


def test_the_method_names_the_evidence() -> None:
    assert compared("x+1", "x+1", bounded=True).method is Method.STRUCTURE
    assert compared(r"\sqrt8", r"2\sqrt2", bounded=True).method is Method.NUMBER
    assert compared("(x+1)^2", "x^2+2x+1", bounded=True).method is Method.SYMBOLIC
    assert compared("|x|", "x", bounded=True).method is Method.NUMERIC


@pytest.mark.parametrize(
    ("gold", "answer", "expected"),
    [
        ("3x-y-2", "2y-6x+4", True),
        ("3x-y-2", "2y-6x-4", False),
        ("x^2-1", r"\pi(x-1)(x+1)", True),
        ("x^2-1", "x(x^2-1)", False),
        ("x", "0", False),
        ("0", "0", True),
        ("x-x", "0", True),
        (r"\sqrt{x^2+1}-1", r"2\sqrt{x^2+1}-2", True),
        (r"\ln x-1", r"1-\ln x", True),
        (r"\ln x-1", r"1+\ln x", False),
    ],
)
def test_proportional_is_equality_up_to_a_nonzero_factor(gold: str, answer: str, expected: bool) -> None:
    assert proportional(parse(gold), parse(answer), bounded=False).result is expected
    assert proportional(parse(answer), parse(gold), bounded=False).result is expected


@pytest.mark.parametrize(
    ("gold", "answer", "expected"),
    [
        (r"\sin^2 x", r"-\cos^2 x", True),
        (r"\sin^2 x", r"\cos^2 x", False),
        (r"\frac{(x+1)^2}{2}", r"\frac{x^2}{2}+x", True),
        (r"\ln(2x)", r"\ln x", True),
        ("x", "2x", False),
        (r"\arctan x", r"-\arctan\frac{1}{x}+5", None),
    ],
)
def test_antiderivatives_may_differ_by_a_constant(gold: str, answer: str, expected: bool | None) -> None:
    found = same_up_to_constant(parse(gold), parse(answer), bounded=False).result
    assert expected is None or found is expected


def test_the_field_has_the_roots_that_it_claims() -> None:
    assert pow(2, P - 1, P) == 1
    assert P.bit_length() == 149
    assert I * I % P == P - 1
    assert pow(ZETA_120, 120, P) == 1
    assert all(pow(ZETA_120, 120 // q, P) != 1 for q in (2, 3, 5))
    for q, root in TWELFTH_ROOTS.items():
        assert pow(root, 12, P) == q
    for q in (2, 3, 5, 7, 11, 13, 17, 53, 89, 97):
        assert square_root(q) ** 2 % P == q
    eighth = pow(ZETA_120, 15, P)
    assert (eighth + pow(eighth, -1, P)) % P == square_root(2)  # 2 cos 45 degrees


@pytest.mark.parametrize("text", ["0.1+0.2", r"\sqrt{2}\sin 3", r"e^{5}\ln 7", r"(1+\pi)^{9}/3"])
def test_the_error_bound_of_a_double_covers_the_precise_value(text: str) -> None:
    double, bound = value_at(parse(text), {}, DOUBLES)
    precise, _ = value_at(parse(text), {}, Precise(50))
    assert abs(precise - double) <= bound <= 1e-12 * abs(double)


def test_values_within_their_bounds_are_not_apart() -> None:
    assert is_apart((1.0, 1e-16), (1.0 + 1e-10, 1e-16))
    assert not is_apart((1.0, 1e-9), (1.0 + 1e-10, 1e-16))


X = Var("x")
numbers = st.builds(Num, st.fractions(min_value=-9, max_value=9, max_denominator=6))
polynomials = st.recursive(
    numbers | st.sampled_from([X, Var("y")]),
    lambda inner: st.one_of(
        st.builds(lambda parts: Add(tuple(parts)), st.lists(inner, min_size=2, max_size=3)),
        st.builds(lambda parts: Mul(tuple(parts)), st.lists(inner, min_size=2, max_size=3)),
        st.builds(lambda base, n: Pow(base, Num(Fraction(n))), inner, st.integers(0, 3)),
        st.builds(lambda name, a: Func(name, (a,)), st.sampled_from(["sin", "abs"]), inner),
    ),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(polynomials)
def test_a_shift_by_a_tiny_number_is_noticed_and_none_is_equal(tree: Expr) -> None:
    assert same(tree, Add((tree, Num(Fraction(0)))), bounded=False).result is True
    assert same(tree, Add((tree, Num(Fraction(1, 10**30)))), bounded=False).result is False


@settings(max_examples=150, deadline=None)
@given(polynomials, polynomials)
def test_equality_is_symmetric(first: Expr, second: Expr) -> None:
    there = same(first, second, bounded=False).result
    assert there is same(second, first, bounded=False).result
    quick = same(first, second, bounded=True).result
    assert quick in (there, None)


def test_the_bounded_path_imports_no_computer_algebra() -> None:
    code = (
        "import sys\n"
        "from rlvr_verifiers.mathcheck.algebra.equality import same\n"
        "from rlvr_verifiers.mathcheck.parse.expression import parse\n"
        r"same(parse(r'\sin 2x+|x|'), parse(r'2\sin x\cos x+x'), bounded=True)" + "\n"
        "print([name for name in ('mpmath', 'sympy', 'math_verify') if name in sys.modules])\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": ":".join(sys.path)}
    )
    assert out.stdout.strip() == "[]"


def test_threads_do_not_share_a_precision() -> None:
    pairs = [(r"\sqrt{3+2\sqrt2}", r"1+\sqrt2"), (r"\sin x+10^{-400}", r"\sin x")] * 20
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda pair: compared(*pair, bounded=False).result, pairs))
    assert found == [True, False] * 20
