"""Numbers, units and their spellings: exact values, and which of them are equal."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr_verifiers.mathcheck.compare.compare import compare, read_gold
from rlvr_verifiers.mathcheck.text.spelling import tidy
from rlvr_verifiers.mathcheck.text.units import conversion, parse_unit
from rlvr_verifiers.mathcheck.values.numbers import Form, parse_number, plain_number

VALUES = {
    "5": 5, "-5": -5, "+7": 7, "1,234,567": 1234567, "10 000": 10000, r"10\,000": 10000, "10{,}000": 10000,
    "14 {, }916": 14916,
    r"11,\! 111,\! 111": 11111111, ".4": Fraction(2, 5), "5.": 5, "0.67": Fraction(67, 100), "2{,}5": Fraction(5, 2),
    "3 1/2": Fraction(7, 2), r"3\frac{1}{2}": Fraction(7, 2), r"3\frac12": Fraction(7, 2),
    r"-\frac{2}{3}": Fraction(-2, 3),
    r"\frac{-2}{3}": Fraction(-2, 3), r"\frac23": Fraction(2, 3), r"\dfrac 2 3": Fraction(2, 3),
    "2/3": Fraction(2, 3), "½": Fraction(1, 2),
    "6.02e5": 602000, r"6.02\times 10^{5}": 602000, "10^{-3}": Fraction(1, 1000), r"0.\overline{3}": Fraction(1, 3),
    r"0.1\overline{6}": Fraction(1, 6), "0.1(6)": Fraction(1, 6), "12^{th}": 12, r"12^{\text{th}}": 12, "3rd": 3,
    "(5)": 5, "１２": 12,
    "2.5 million": 2500000, "3 dozen": 36,
}  # fmt: skip


@pytest.mark.parametrize(("text", "value"), VALUES.items())
def test_a_spelling_has_its_exact_value(text: str, value: Fraction) -> None:
    number = parse_number(tidy(text))
    assert number is not None
    assert number.value == value


@pytest.mark.parametrize(
    "text",
    [
        "", "--5", "5-", "3,4", "12,34", "1,2345", "01,234", "1/0", "5x", "5 x", "2 abc", "3 and 4", "7 + 2", "3-4",
        "x",
        r"2\cdot x", "2/x", "1e400000", "5!", "4:30", "1 3/2", r"\sqrt{2}", "5 or more", "5 sin x",
        r"\frac{1}{2}\frac{1}{2}",
    ],
)  # fmt: skip
def test_what_is_no_single_number_is_not_read_as_one(text: str) -> None:
    assert parse_number(tidy(text)) is None


@pytest.mark.parametrize(
    ("gold", "answer", "is_equal"),
    [
        ("0.75", "3/4", True), (r"\frac{2}{3}", "0.667", False), ("0.67", r"\frac{2}{3}", False),
        ("3.14159265", r"\pi", False),
        (r"40\%", "0.4", True), (r"40\%", "40", True), ("40", r"40\%", True), ("0.4", "40", False),
        ("0.4", r"0.4\%", False),
        (r"28\%", "28 percent", True), (r"28\%", r"28\text{ pct}", True), (r"35\%", r"35\text{ km}", False),
        (r"60^\circ", "60", True), (r"60^\circ", r"\frac{\pi}{3}", True), (r"\frac{\pi}{3}", r"60^\circ", True),
        (r"75^\circ", r"75\%", False),
        (r"8\text{ meters}", "8", True), ("8", r"8\text{ meters}", True),
        (r"8\text{ meters}", r"8\text{ feet}", False),
        (r"5\text{ m}", r"500\text{ cm}", True), (r"5\text{ km}", r"5\text{ cm}", False),
        (r"8\text{ m}^2", r"80000\text{ cm}^2", True),
        (r"8\text{ cm}", r"8\text{ cm}^2", False), (r"15\mbox{ cm}^2", "15 square centimeters", True),
        (r"\$4.50", "4.5", True),
        (r"\$5", r"5\text{ dollars}", True), (r"\$0.75", r"75\text{ cents}", True), ("1000.99", "1,000.99€", True),
        (r"\$5", "5 €", False),
        ("90 minutes", "1 hour 30 minutes", True), (r"80\text{ km/h}", r"80\text{ kilometers per hour}", True),
        ("12", "12 units", True),
        (r"7\text{ apples}", r"7\text{ pears}", False), (r"5\text{ m}", r"5 m", True), ("25°C", "25°F", False),
        ("1250.75", "1.250,75", True), ("2450300", "2.450.300", True), ("3.5", "3,5", True),
        ("0,111", "0.111", True), ("-3,0", "-3", False),
        ("-3", "-3,0", False), ("58", "5 8", False), ("32349", "32, 349", False), ("2^{-99}", "2^{-98}", False),
        ("22", "22_{10}", True),
        (r"\frac{1}{2004!}", r"\frac{1}{2006!}", False), ("6", "3!", True), ("5", r"5 \pm 0", True),
        ("21", "Twenty-one", True),
    ],
)  # fmt: skip
def test_numbers_and_units_compare(gold: str, answer: str, is_equal: bool) -> None:
    assert compare(read_gold(gold), answer, bounded=True).result is is_equal


@given(st.integers(-(10**12), 10**12))
def test_thousands_separators_do_not_change_an_integer(value: int) -> None:
    grouped = f"{value:,}"
    assert plain_number(grouped) == value
    assert compare(read_gold(str(value)), grouped, bounded=True).result is True
    assert compare(read_gold(str(value)), f"{value + 1:,}", bounded=True).result is False


@given(st.fractions(max_denominator=10**6), st.fractions(max_denominator=10**6))
def test_fractions_are_equal_exactly_when_their_values_are(first: Fraction, second: Fraction) -> None:
    answer = rf"\frac{{{3 * second.numerator}}}{{{3 * second.denominator}}}"
    decision = compare(read_gold(str(first)), answer, bounded=True)
    assert decision.result is (first == second)


def test_a_decimal_knows_its_digits_and_a_percent_its_numeral() -> None:
    decimal, percent = parse_number("2.50"), parse_number("12.5%")
    assert decimal is not None
    assert percent is not None
    assert decimal.decimals == 2
    assert (percent.value, percent.form) == (Fraction(25, 2), Form.PERCENT)


def test_units_convert_within_a_dimension_only() -> None:
    assert conversion(parse_unit("km/h"), parse_unit("m/s")) == Fraction(18, 5)
    assert conversion(parse_unit("kg"), parse_unit("m")) is None
    assert parse_unit("or more") is None
