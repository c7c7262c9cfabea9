"""Regions of the reals in one normal form, inequalities, equations and families."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr_verifiers.mathcheck.compare.compare import compare, read_gold
from rlvr_verifiers.mathcheck.text.spelling import tidy
from rlvr_verifiers.mathcheck.values.relations import region


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("[2,9)", r"2\le x<9"), ("(2,5]", r"\{x \mid 2<x\le5\}"), (r"x\neq 1", r"(-\infty,1)\cup(1,\infty)"),
        ("x>5", r"(5,\infty)"),
        (r"5 \geq x", r"x \leqslant 5"), (r"\mathbb{R}\setminus\{0\}", r"x \ne 0"),
        (r"\{x|x<3/2\}-\{-6\}", r"(-\infty,-6)\cup(-6,1.5)"),
        (r"x>1\text{ and }x<3", "(1,3)"), ("x>1, x<3", "(1,3)"), ("x<-1, x>3", r"x<-1\text{ or }x>3"),
        (r"a \le -2 \text{ or } a=1", r"(-\infty,-2]\cup\{1\}"),
        ("]2,7]", "(2,7]"), (r"\mathbb{R}\setminus[1,4]", r"(-\infty,1)\cup(4,\infty)"), ("[0,1]∪[1,2]", "[0,2]"),
        ("(0,1)∪{1}∪(1,2)", "(0,2)"),
        (r"\text{all real numbers except }1", r"x\neq1"),
        (r"x \in \mathbb{R}, x \neq 2", r"\left\{x \in \mathbb{R} : x \neq 2\right\}"),
        ("(2,∞)", "x > 2"), (r"x \in \{-1\} \cup [0,7)", r"\{-1\}\cup[0,7)"), ("3 > x > 1", "1<x<3"),
    ],
)  # fmt: skip
def test_two_spellings_of_a_region_have_one_normal_form(first: str, second: str) -> None:
    left, right = region(tidy(first)), region(tidy(second))
    assert left is not None
    assert right is not None
    assert [(p.low.value, p.high.value, p.has_low, p.has_high) for p in left.pieces] == [
        (p.low.value, p.high.value, p.has_low, p.has_high) for p in right.pieces
    ]
    assert compare(read_gold(first), second, bounded=True).result is True


@pytest.mark.parametrize(
    ("gold", "answer", "is_equal"),
    [
        ("[2,9)", "[2,9]", False), ("[2,9)", "(2,9)", False), ("[0,1)∪(1,2]", "[0,2]", False),
        (r"\mathbb{R}", r"x \ne 0", False),
        (r"(-\frac{\sqrt{5}}{2}, \pi)", r"\left(-\frac{\sqrt5}{2}, \pi\right)", True),
        (r"[\sqrt{8},5]", r"[2\sqrt2,5]", True),
        (r"[\sqrt{8},5]", r"[2\sqrt3,5]", False), ("x>5", "y>5", False), ("x>5", "x<5", False),
        ("x<1", "-x>-1", True), ("x<1", "x>-1", False),
        ("y>2x+1", "2x-y+1<0", True), ("y>2x+1", "2x-y+1>0", False), ("f(2)<f(1)<f(4)", "f(4)>f(1)>f(2)", True),
        ("f(2)<f(1)<f(4)", "f(1)<f(2)<f(4)", False), ("(4,-2)", "(4,2)", False), ("(4,-2)", "[4,-2]", False),
        ("(1,2)", "[1,2]", False),
        (r"(-\infty,1)\cup(4,\infty)", r"(4,\infty),(-\infty,1)", True), ("a<x<b", "(a,b)", True),
        ("a<x<b", "(b,a)", False),
    ],
)  # fmt: skip
def test_regions_and_inequalities_compare(gold: str, answer: str, is_equal: bool) -> None:
    assert compare(read_gold(gold), answer, bounded=True).result is is_equal


@pytest.mark.parametrize(
    ("gold", "answer", "is_equal"),
    [
        ("3x-y-2=0", "y=3x-2", True), ("3x-y-2=0", "y=3x+2", False), ("y=3x-2", "3x-2", True),
        ("3x-2", "y=3x-2", True),
        ("x^2/4+y^2/3=1", "x^2/16+y^2/12=1/4", True), ("xy=6", r"\frac{6}{x}", True), ("7=11a+c", "11a+c", False),
        ("4", "2x=8", False),
        ("4", "x=x", False), ("0", "0=0", False), ("x=4", "4", True), ("4", "4=x", True),
        (r"x=\frac23", "3x=2", False), ("7", "a+b=7", True),
        ("0", "x^2-4=0", False), ("x=4", "y=4", False), ("f(n)=2n+7", "f(m)=2m+7", True),
        ("f(n)=2n+7", "f(m)=2n+7", False),
        ("f(x)=x^2", "y=x^2", True), (r"\frac12", r"= \frac12 = 0.5", True), (r"\frac12", r"\frac12 = 0.6", False),
        (r"\frac13", r"\frac13 \approx 0.33", True), ("11", r"x \approx 11", True), ("2", r"\sqrt{4} = 2", True),
        ("3x-y-2=0", "0=0", False),
        (r"\frac13", r"x = \frac13 = 0.333", True), ("7", r"\sqrt{5} = 7 = x+3", False), ("7", "2+5 = 7 = x+3", False),
        ("7", r"x+3 = 7 = \sqrt{5}", False), ("7", r"2+5 = 7 = \sqrt{49}", True),
    ],
)  # fmt: skip
def test_equations_and_chains_compare(gold: str, answer: str, is_equal: bool) -> None:
    assert compare(read_gold(gold), answer, bounded=True).result is is_equal


@pytest.mark.parametrize(
    ("answer", "is_equal"),
    [
        (r"\frac{\pi}{4}+n\pi, n\in\mathbb{Z}", True),
        (r"\left\{\frac{\pi}{4}+m\pi : m\in\mathbb{Z}\right\}", True), (r"\frac{5\pi}{4}+k\pi, k\in\mathbb{Z}", True),
        (r"\frac{\pi}{4}-k\pi, k\in\mathbb{Z}", True),
        (r"x=\frac{\pi}{4}+k\pi\text{ where }k\text{ is an integer}", True), (r"\frac{\pi}{4}+n\pi", True),
        (r"\frac{\pi}{4}+2k\pi, k\in\mathbb{Z}", False), (r"\frac{\pi}{3}+k\pi, k\in\mathbb{Z}", False),
        (r"\frac{\pi}{4}", False),
    ],
)  # fmt: skip
def test_a_family_may_rename_shift_and_turn_its_integer(answer: str, is_equal: bool) -> None:
    gold = read_gold(r"\frac{\pi}{4}+k\pi, k\in\mathbb{Z}")
    assert compare(gold, answer, bounded=True).result is is_equal


@given(st.integers(-50, 50), st.integers(1, 50), st.booleans(), st.booleans())
def test_an_interval_is_its_inequality(low: int, width: int, has_low: bool, has_high: bool) -> None:
    high = low + width
    interval = f"{'[' if has_low else '('}{low},{high}{']' if has_high else ')'}"
    signs = [r"\le" if held else "<" for held in (has_low, has_high)]
    inequality = f"{low} {signs[0]} t {signs[1]} {high}"
    assert compare(read_gold(interval), inequality, bounded=True).result is True
    other = f"{'(' if has_low else '['}{low},{high}{']' if has_high else ')'}"
    assert compare(read_gold(inequality), other, bounded=True).result is False
