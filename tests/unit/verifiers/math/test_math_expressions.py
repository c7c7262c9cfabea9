"""Reading expressions: what the grammar takes, how it resolves ambiguities, what it refuses, and how fast."""

from fractions import Fraction

import pytest

from rlvr_verifiers.mathcheck.parse.expression import (
    Add,
    Apply,
    Const,
    Div,
    Expr,
    Func,
    Mul,
    Num,
    Pow,
    TooBig,
    Unevaluated,
    Unreadable,
    Var,
    expanded_signs,
    expanded_sums,
    is_unevaluated,
    parse,
    substituted,
    variables,
    without_degrees,
)
from rlvr_verifiers.mathcheck.tree.exact import Undefined, exact_value

X, Y = Var("x"), Var("y")


def number(top: int, bottom: int = 1) -> Num:
    return Num(Fraction(top, bottom))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("17", Fraction(17)),
        ("-17", Fraction(-17)),
        ("+17", Fraction(17)),
        ("0.75", Fraction(3, 4)),
        (".5", Fraction(1, 2)),
        ("2,500", Fraction(2500)),
        ("2{,}500", Fraction(2500)),
        (r"2\,500", Fraction(2500)),
        (r"1,\!234,\!567", Fraction(1234567)),
        ("6.02e5", Fraction(602000)),
        ("1.5E-3", Fraction(3, 2000)),
        (r"6.02\times 10^{5}", Fraction(602000)),
        (r"0.\overline{3}", Fraction(1, 3)),
        (r"0.1\overline{6}", Fraction(1, 6)),
        (r"2.\dot{7}", Fraction(25, 9)),
        (r"\frac12", Fraction(1, 2)),
        (r"\frac{-4}{6}", Fraction(-2, 3)),
        (r"\dfrac3{4}", Fraction(3, 4)),
        (r"{3 \over 4}", Fraction(3, 4)),
        ("3/4", Fraction(3, 4)),
        (r"3\frac{1}{2}", Fraction(7, 2)),
        (r"1\frac52", Fraction(7, 2)),
        ("1 1/2", Fraction(3, 2)),
        (r"-3\frac12", Fraction(-7, 2)),
        (r"40\%", Fraction(2, 5)),
        ("3!", Fraction(6)),
        ("6!!", Fraction(48)),
        ("(3!)!", Fraction(720)),
        (r"\binom{5}{2}", Fraction(10)),
        (r"\binom52", Fraction(10)),
        ("C(8,3)", Fraction(56)),
        ("C_8^3", Fraction(56)),
        (r"\sqrt{16}", Fraction(4)),
        (r"\sqrt[3]{-8}", Fraction(-2)),
        (r"\log_2 8", Fraction(3)),
        (r"\log_28", Fraction(3)),
        (r"\log_{4}{8}", Fraction(3, 2)),
        (r"\lfloor -7/2\rfloor", Fraction(-4)),
        (r"\lceil 7/2\rceil", Fraction(4)),
        ("|3-5|", Fraction(2)),
        (r"\left|3-|-5|\right|", Fraction(2)),
        (r"\gcd(12,180)", Fraction(12)),
        (r"\operatorname{lcm}(4,6)", Fraction(12)),
        (r"\max\{2,7,5\}", Fraction(7)),
        (r"17 \bmod 5", Fraction(2)),
        ("2^10", Fraction(1024)),
        ("2**10", Fraction(1024)),
        ("2^{3^2}", Fraction(512)),
        ("2^3^2", Fraction(512)),
        ("10^{-2}", Fraction(1, 100)),
        ("-2^2", Fraction(-4)),
        ("(-2)^2", Fraction(4)),
        (r"2\cdot-3", Fraction(-6)),
        ("12/3/2", Fraction(2)),
        ("12/3*2", Fraction(8)),
        (r"12\div 4", Fraction(3)),
        (r"\textbf{7}", Fraction(7)),
        ("2−1×3", Fraction(-1)),
        ("½", Fraction(1, 2)),
        ("3²", Fraction(9)),
        ("√16", Fraction(4)),
        (r"27^{2/3}", Fraction(9)),
    ],
)
def test_texts_of_numbers_have_their_exact_value(text: str, value: Fraction) -> None:
    assert exact_value(parse(text)) == value


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("2xy", Mul((number(2), X, Y))),
        ("2(x+1)", Mul((number(2), Add((X, number(1)))))),
        ("(x+1)(x-1)", Mul((Add((X, number(1))), Add((X, number(-1)))))),
        ("a(b+c)", Mul((Var("a"), Add((Var("b"), Var("c")))))),
        ("f(x)", Apply("f", (X,))),
        ("f(x,y)", Apply("f", (X, Y))),
        ("y'(x)", Apply("y'", (X,))),
        (r"f^{-1}(x)", Apply("f^-1", (X,))),
        (r"f^{\prime}(x)", Apply("f'", (X,))),
        ("1/2x", Div(Mul((number(1), X)), number(2))),
        ("x/2y", Div(X, Mul((number(2), Y)))),
        (r"\frac{1}{2}x", Mul((number(1, 2), X))),
        (r"2\frac{x}{3}", Mul((number(2), Div(X, number(3))))),
        ("x^23", Pow(X, number(23))),
        ("x^{2}3", Mul((Pow(X, number(2)), number(3)))),
        (r"\sin 2x", Func("sin", (Mul((number(2), X)),))),
        (r"\sin x\cos y", Mul((Func("sin", (X,)), Func("cos", (Y,))))),
        (r"x\sin y", Mul((X, Func("sin", (Y,))))),
        (r"\sin(x)y", Mul((Func("sin", (X,)), Y))),
        (r"\sin^2 x", Pow(Func("sin", (X,)), number(2))),
        (r"\sin^{-1} x", Func("arcsin", (X,))),
        (r"\cos\pi/4", Func("cos", (Div(Const("pi"), number(4)),))),
        (r"\ln x", Func("log", (X, Const("e")))),
        (r"\lg x", Func("log", (X, number(10)))),
        (r"\log x", Func("log", (X,))),
        (r"\ln|x|", Func("log", (Func("abs", (X,)), Const("e")))),
        ("sinx", Func("sin", (X,))),
        ("sqrt(2)", Func("root", (number(2), number(2)))),
        (r"\exp(x)", Pow(Const("e"), X)),
        (r"e^{x}", Pow(Const("e"), X)),
        (r"\mathrm{e}^{x}", Pow(Const("e"), X)),
        (r"60^\circ", Mul((number(60), Const("degree")))),
        ("60°", Mul((number(60), Const("degree")))),
        ("x_1", Var("x_1")),
        ("x_{12}", Var("x_12")),
        ("a_{n+1}", Var("a_n+1")),
        (r"x_{\text{max}}", Var("x_max")),
        ("E'", Var("E'")),
        (r"\alpha", Var("alpha")),
        ("α", Var("alpha")),
        ("theta", Var("theta")),
        (r"\hat{\mathbf{i}}", Var("vec:i")),
        (r"\vec{AB}", Var("vec:AB")),
        (r"\overline{AB}", Var("overline:AB")),
        (r"\overline{3+4i}", Func("conj", (parse("3+4i"),))),
        (r"\frac{dy}{dx}", Var("dy/dx")),
        (r"\infty", Const("oo")),
        (r"\mathrm{i}", Const("i")),
        ("|x||y|", Mul((Func("abs", (X,)), Func("abs", (Y,))))),
        (r"{n \choose k}", Func("binom", (Var("n"), Var("k")))),
    ],
)
def test_texts_read_as_their_tree(text: str, tree: Expr) -> None:
    assert parse(text) == tree


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "--5",
        "++5",
        "5--5",
        "5 +",
        "5 *",
        "x^",
        "x_",
        "*5",
        "/5",
        "!",
        "()",
        "f()",
        "(x",
        "x)",
        "(x]",
        "2 3",
        "x,y",
        "x=1",
        "x<1",
        "[7]",
        r"\{7\}",
        "2**-",
        r"x**2\pi",
        r"\frac{1}",
        r"\frac",
        r"\sqrt",
        r"\unknown{x}",
        "lambda: 2",
        "(lambda: 2)()",
        "__import__('os').getpid()",
        "open('Z','w')",
        "x.__class__",
        "see figure",
        "none",
        "9!!!",
        r"\text{see figure}",
        "1, 2, \\ldots, n",
        "1011_2",
        r"\begin{pmatrix}1\end{pmatrix}",
        "|x",
        r"\lfloor x",
        r"\lfloor x\rceil",
        "x\x00",
        "\\",
        r"\sin",
        r"\sin^{-1}",
        r"\gcd 4",
        "5:6",
        "x'_'",
        "0.3.4",
    ],
)
def test_what_is_no_expression_is_unreadable(text: str) -> None:
    with pytest.raises(Unreadable):
        parse(text)


@pytest.mark.parametrize("text", ["1/0", "0^{-1}", r"\log_2 0", r"5 \bmod 0", r"\frac{3}{2-2}"])
def test_a_division_by_zero_is_undefined(text: str) -> None:
    with pytest.raises(Undefined):
        exact_value(parse(text))


@pytest.mark.parametrize("text", [r"\sqrt{2}", r"\pi", "x", r"\log_2 3", r"\sqrt{-4}", "2^{1/2}"])
def test_what_is_not_rational_has_no_exact_value(text: str) -> None:
    assert exact_value(parse(text)) is None


def test_signs_are_independent_unless_a_minus_plus_links_them() -> None:
    values = [exact_value(expr) for expr in expanded_signs(parse(r"\pm 3"))]
    assert values == [3, -3]
    assert len(expanded_signs(parse(r"\pm 1 \pm \sqrt2"))) == 4
    linked = [exact_value(expr) for expr in expanded_signs(parse(r"10 \pm 2 \mp 1"))]
    assert linked == [11, 9]
    with pytest.raises(TooBig):
        expanded_signs(parse(r"1\pm2\pm3\pm4\pm5\pm6"))


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (r"\int_0^2 3x dx", "int"),
        (r"\sum_{k=1}^{10} k^2", "sum"),
        (r"\prod_{k=1}^n k", "prod"),
        (r"\lim_{x\to 0}\frac{\sin x}{x}", "lim"),
        (r"\frac{d}{dx} x^2", "derivative"),
    ],
)
def test_what_is_left_unevaluated_is_marked(text: str, kind: str) -> None:
    tree = parse(text)
    assert is_unevaluated(tree)
    assert isinstance(tree, Unevaluated)
    assert tree.kind == kind


def test_sums_over_explicit_ranges_are_written_out_only_on_demand() -> None:
    assert exact_value(parse(r"\sum_{k=1}^{10} k^2")) is None
    assert exact_value(expanded_sums(parse(r"\sum_{k=1}^{10} k^2"))) == 385
    assert exact_value(expanded_sums(parse(r"1+\prod_{k=1}^{5} k"))) == 121
    assert is_unevaluated(expanded_sums(parse(r"\sum_{k=1}^{n} k")))
    with pytest.raises(TooBig):
        expanded_sums(parse(r"\sum_{k=1}^{10^9} k"))
    with pytest.raises(TooBig):
        expanded_sums(parse(r"\sum_{k=1}^{1000000000} k"))


def test_variables_can_be_renamed_and_degrees_dropped() -> None:
    assert substituted(parse("2m+1"), {"m": Var("n")}) == parse("2n+1")
    assert variables(parse(r"\sin(xy)+z_1")) == {"x", "y", "z_1"}
    assert exact_value(without_degrees(parse(r"60^\circ"))) == 60
