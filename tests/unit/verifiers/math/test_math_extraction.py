"""Where `math` finds the final answer of a completion: string work, without any comparison."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr_verifiers.mathcheck.text.boxes import last_boxes
from rlvr_verifiers.mathcheck.text.extraction import Extraction, ExtractionOptions, Found, extract, is_placeholder
from rlvr_verifiers.mathcheck.text.markers import ALL_MARKERS, Origin, last_marked, whole_text
from rlvr_verifiers.thinking import Thinking

LIMIT_S = 0.25  # of texts of a million characters; 0.05 on an idle core


def found(text: str, *, is_cut: bool = False, **options: object) -> Extraction:
    return extract(text, is_cut=is_cut, options=ExtractionOptions(**options))  # type: ignore[arg-type] # by name


def thought(text: str, **options: object) -> Extraction:
    return found(text, thinking=Thinking(**options))  # type: ignore[arg-type] # by name


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"So \boxed{42}.", "42"),
        (r"So $\boxed{42}$.", "42"),
        (r"\[\boxed{42}\]", "42"),
        (r"\fbox{42}", "42"),
        (r"\boxed {42}", "42"),
        ("\\boxed\n{42}", "42"),
        (r"\boxed 42.", "42"),
        (r"$\boxed 5$", "5"),
        (r"$\boxed \frac{1}{2}$", r"\frac{1}{2}"),
        (r"\boxed{\boxed{42}}", "42"),
        (r"\boxed{x = \boxed{42}}", "x = 42"),
        (r"\text{Thus \boxed{42}}", "42"),
        (r"\boxed{\frac{1}{\sqrt{2}}}", r"\frac{1}{\sqrt{2}}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\{\}}", r"\{\}"),
        (r"\boxed{ 42 }", "42"),
        ("\\boxed{%\n42}", "42"),
        ("\\boxed{42 % the answer\n}", "42"),
        (r"\boxed{40%}", "40%"),
        (r"It is $\boxed{185\}$.", "185"),
        ("So \\boxed{42}.<|im_end|>\n<|im_start|>user\nNow \\boxed{7}?", "42"),
        ("<|im_start|>assistant\nSo \\boxed{42}.<|endoftext|>", "42"),
        (r"\\boxed{42}", "42"),
        (r"\boxed{41}. Now I see: \boxed{42}.", "42"),
        ("\\boxed{41 was\nnot closed. Then \\boxed{42}", "42"),
    ],
)
def test_the_last_box_is_the_answer(text: str, answer: str) -> None:
    extraction = found(text)
    assert (extraction.found, extraction.origin) == (Found.ANSWER, Origin.BOX)
    assert extraction.answer == answer
    assert extraction.parts == ()


@pytest.mark.parametrize(
    "text",
    [
        r"\boxed{42",
        r"We had \boxed{41} before, so now \boxed{",
        r"\boxed{41} and \boxed{\frac{1}{2",
        r"\boxed{(1, \boxed{2}",
        r"\boxed{\{1, 2\}",
        r"\boxed{185\} and more",
        "The answer is 42. <think>But",
        r"<think>\boxed{42}",
        r"<think>a</think> \boxed{41} <think>\boxed{42}",
    ],
)
def test_what_was_cut_off_is_never_replaced_by_something_earlier(text: str) -> None:
    extraction = found(text)
    assert extraction.found is Found.TRUNCATED
    assert extraction.answer == ""
    assert "never closed" in extraction.reason


@pytest.mark.parametrize(
    "text",
    [r"\boxed{}", r"\boxed{ }", r"\boxed{\text{your answer}}", r"\boxed{...}", r"\boxed{?}", r"\boxed{\ldots}",
     r"\boxed{[answer]}", r"\boxed{\text{final answer}}", r"\boxed{\quad}", r"\boxed{\square}", r"\boxed{___}",
     "The answer is", "Final answer:", "####", r"\boxed{41} is not it, see \boxed{}"],
)  # fmt: skip
def test_an_empty_answer_is_empty(text: str) -> None:
    assert found(text).found is Found.EMPTY


def test_short_words_and_single_letters_are_no_placeholders() -> None:
    for answer in ("no", "none", "x", "A", "yes", r"\emptyset", r"\{\}", "0", r"\infty", "e"):
        assert not is_placeholder(answer), answer


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (r"Either \boxed{16} or \boxed{17}.", ("16", "17")),
        (r"$\boxed{3}$ and $\boxed{4}$", ("3", "4")),
        (r"\boxed{3}, \boxed{4}, and \boxed{5}", ("3", "4", "5")),
        (r"$x = \boxed{1}, y = \boxed{2}$", ("1", "2")),
        ("\\boxed{3}\n\\boxed{4}", ("3", "4")),
        ("$$\\boxed{3}$$\n\nand\n\n$$\\boxed{4}$$", ("3", "4")),
        (r"\boxed{3} \quad \text{or} \quad \boxed{4}", ("3", "4")),
        (r"\boxed{3} \text{ and } \boxed{3}", ()),
        (r"\boxed{3} = \boxed{4}", ()),
        (r"I first got \boxed{16}, but that misses one case, so \boxed{17}.", ()),
        ("\\boxed{3}\n\n\\boxed{4}", ()),
        (r"\boxed{3}. \boxed{4}.", ()),
    ],
)
def test_boxes_side_by_side_are_parts_of_one_statement(text: str, parts: tuple[str, ...]) -> None:
    assert found(text).parts == parts


def test_boxes_of_one_sentence_are_parts_for_a_list_alone() -> None:
    extraction = found(r"The roots are \boxed{2} together with \boxed{3}.")
    assert (extraction.parts, extraction.list_parts) == ((), ("2", "3"))
    corrected = found(r"The root is \boxed{2}, wait, \boxed{3}.")
    assert corrected.list_parts == ()


@pytest.mark.parametrize(
    ("tail", "rival"),
    [(". So the answer is 5.", "5"), (" or 5", "5"), (". The final answer is **5**.", "5"), ("\n#### 5", "5"),
     (". The answer is in the box.", ""), (". This is the correct answer.", ""), (". We used 5 steps.", ""),
     (". We may check our answer: $2+3=5$.", ""), (". To verify the answer is right: 5.", "")],
)  # fmt: skip
def test_a_final_answer_after_the_box_is_a_rival(tail: str, rival: str) -> None:
    extraction = found(r"Thus \boxed{4}" + tail)
    assert (extraction.answer, extraction.rival) == ("4", rival)


@pytest.mark.parametrize(
    ("text", "answer", "origin"),
    [
        ("#### 72", "72", Origin.HASH_MARKS),
        ("48/2 = 24\n#### 1,234\n", "1,234", Origin.HASH_MARKS),
        ("#### 8\n#### 9", "9", Origin.HASH_MARKS),
        ("The answer is 5.\n#### Check\nIt fits.", "5", Origin.THE_ANSWER_IS),
        ("#### Step 1: add\nThe answer is 5.", "5", Origin.THE_ANSWER_IS),
        ("Final answer: 17", "17", Origin.FINAL_ANSWER),
        ("**Final Answer:** 17", "17", Origin.FINAL_ANSWER),
        ("**Final Answer: 17**", "17", Origin.FINAL_ANSWER),
        ("### Final Answer\n\n17\n", "17", Origin.FINAL_ANSWER),
        ("Final answer:\n$$\n\\frac{1}{2}\n$$", r"\frac{1}{2}", Origin.FINAL_ANSWER),
        ("Final Answer: The final answer is $5$. I hope it is correct.", "5", Origin.FINAL_ANSWER),
        ("answer: **B**", "B", Origin.FINAL_ANSWER),
        ("Answer \\[ 9 \\]", "9", Origin.FINAL_ANSWER),
        ("Final answer: `42`", "42", Origin.FINAL_ANSWER),
        ("The answer is 17.", "17", Origin.THE_ANSWER_IS),
        ("The answer is 1.5 m. It is long.", "1.5 m", Origin.THE_ANSWER_IS),
        ("The answer is 3.14", "3.14", Origin.THE_ANSWER_IS),
        ("The answer is 4:30 p.m. on Monday.", "4:30 p.m. on Monday", Origin.THE_ANSWER_IS),
        ("the answer is 4:30 p.m.", "4:30 p.m.", Origin.THE_ANSWER_IS),
        ("The answer is: x = 5", "x = 5", Origin.THE_ANSWER_IS),
        ("The answer is \\(\\frac12\\).", r"\frac12", Origin.THE_ANSWER_IS),
        ("The answer is $5.50.", "$5.50", Origin.THE_ANSWER_IS),
        ("The answer is 5!", "5", Origin.THE_ANSWER_IS),
        ("The answer is 5! = 120.", "5! = 120", Origin.THE_ANSWER_IS),
        ("The answer is 5 or 6.", "5 or 6", Origin.THE_ANSWER_IS),
        ("The answer is $3$ and $-1$.", "3 and -1", Origin.THE_ANSWER_IS),
        ("The answer to the question is 7.", "7", Origin.THE_ANSWER_IS),
        ("The answer would be 10 because 2*5=10.", "10", Origin.THE_ANSWER_IS),
        ("The answer is y = 2x + 3, where x is real.", "y = 2x + 3", Origin.THE_ANSWER_IS),
        ("The answer is 9. No, the answer is 8.", "8", Origin.THE_ANSWER_IS),
        ("The answer is 17. So the answer is correct.", "17", Origin.THE_ANSWER_IS),
        ("\u0130 the ANSWER IS 17", "17", Origin.THE_ANSWER_IS),
        ('Final Answer: The final answer is \\"$12 $ and $13 $\\".', "12 and 13", Origin.FINAL_ANSWER),
        ("The answer is from $5 to $6.", "from $5 to $6", Origin.THE_ANSWER_IS),
        ("The answer is for sure D, it can't be A or B", "D", Origin.THE_ANSWER_IS),
        ("The answer is 4, not 5.", "4", Origin.THE_ANSWER_IS),
        ("#### 12 <|im_start|>user", "12", Origin.HASH_MARKS),
        ("28 percent", "28 percent", Origin.WHOLE_TEXT),
        ("**73**", "73", Origin.WHOLE_TEXT),
        ("(B)", "(B)", Origin.WHOLE_TEXT),
        ("Therefore $x \\geq 5$ is the solution.", "x \\geq 5", Origin.WHOLE_TEXT),
    ],
)  # fmt: skip
def test_without_a_box_a_mark_or_the_whole_text_is_read(text: str, answer: str, origin: Origin) -> None:
    extraction = found(text)
    assert (extraction.found, extraction.answer) == (Found.ANSWER, answer)
    assert extraction.origin is origin


@pytest.mark.parametrize(
    "text",
    ["", "We computed 17 apples and 4 pears.", "There were 8 birds.", "8 is between 7 and 9, I suppose",
     "The result should be 42", "The answer is not 8.", "I cannot solve this problem.", "We take $x$ and $y$ with 3.",
     "It is not $5$.", "########## 7", "Add 8 to 9.\nThen 17.", "He answered 5 times."],
)  # fmt: skip
def test_a_number_in_running_text_is_no_answer(text: str) -> None:
    assert found(text).found is Found.NONE


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("#### 8", Origin.HASH_MARKS),
        ("In the end the final answer is: 8", Origin.FINAL_ANSWER),
        ("Adding them up, the answer is 8", Origin.THE_ANSWER_IS),
        ("$8$", Origin.WHOLE_TEXT),
    ],
)
def test_each_mark_can_be_switched_off(text: str, origin: Origin) -> None:
    assert found(text).origin is origin
    others = ALL_MARKERS - {origin, Origin.WHOLE_TEXT}
    assert found(text, markers=others).found is Found.NONE


def test_a_part_of_a_marked_sentence_is_the_core_where_nothing_is_added_to_it() -> None:
    assert last_marked(r"The answer is $\frac{1}{2}$ of the total.").core == r"\frac{1}{2}"  # type: ignore[union-attr]
    assert last_marked(r"The answer is $5$ times 3.").core == ""  # type: ignore[union-attr]
    assert last_marked("Final Answer: The number of points is 19.").core == "19"  # type: ignore[union-attr]
    assert last_marked("Final Answer: She began 3 hours ago.").core == "3"  # type: ignore[union-attr]
    assert last_marked("Final Answer: There are no more than 3 of them.").core == ""  # type: ignore[union-attr]
    assert last_marked("Final Answer: The 2 cats ate 3 fish.").core == ""  # type: ignore[union-attr]
    assert whole_text("Here is a matrix: $ A $.").answer == "A"  # type: ignore[union-attr]


def test_a_cut_off_completion_needs_a_closed_box() -> None:
    assert found("The answer is 4", is_cut=True).found is Found.TRUNCATED
    assert found(r"\boxed{4} and then", is_cut=True).answer == "4"


def test_only_the_text_after_the_last_closed_think_tag_counts() -> None:
    assert found(r"<think>\boxed{16}</think> \boxed{17}").answer == "17"
    assert found(r"\boxed{16}</think>So \boxed{17}").answer == "17"
    assert found(r"<think>\boxed{16}</think> done").found is Found.NONE
    tags = (("[THINK]", "[/THINK]"), ("<think>", "</think>"))
    assert thought(r"[THINK]\boxed{1}[/THINK] \boxed{2}", think_tags=tags).answer == "2"
    assert thought(r"<think>\boxed{1}", think_tags=()).answer == "1"
    assert Thinking().answer_of("a</think>b<think>c</think>d") == "d"


def test_a_prompt_that_opens_the_thinking_needs_a_closing_tag() -> None:
    assert thought(r"hm \boxed{1}", starts_thinking=True).found is Found.TRUNCATED
    assert thought(r"hm \boxed{1}</think>\boxed{2}", starts_thinking=True).answer == "2"


BIG = {
    "open boxes": "\\boxed{" * 140_000,
    "boxes": "\\boxed{1} " * 100_000,
    "boxes side by side": "\\boxed{1}," * 100_000,
    "joined by or": "\\boxed{1} or " * 80_000,
    "nested boxes": "\\boxed{" * 100_000 + "5" + "}" * 100_000,
    "deep braces": "\\boxed{" + "{" * 50_000 + "}" * 50_001 + "x" * 900_000,
    "braces": "\\boxed{5" + "{x}" * 50_000 + "}" + "x" * 800_000,
    "no box": "x" * 1_000_000,
    "spaces": "\\boxed" + " " * 1_000_000 + "5",
    "the answer is": "the answer is " * 71_000,
    "the answer is, in lines": "the answer is\n" * 71_000,
    "final answer": "final answer:" * 77_000,
    "hash marks": "#### " * 200_000 + "x\ny",
    "answer to": "answer to " * 100_000,
    "dollars": "The answer is " + "$ " * 500_000,
    "dots": "The answer is " + "." * 1_000_000,
    "line ends": "The answer is " + "\n" * 1_000_000,
    "formulas": "The answer is " + "\\(" * 500_000,
    "think tags": "<think>" * 142_000,
    "stars": "the answer is" + "*" * 1_000_000,
    "underscores": "answer" + "_" * 1_000_000,
    "rivals": "\\boxed{5}" + " the answer is" * 70_000,
    "bold": "The answer is **" * 60_000,
    "comments": "\\boxed{%\n" + "%\n" * 400_000 + "5}",
    "per cent signs": "\\boxed{" + "%" * 1_000_000 + "\n5}",
    "backslashes": "\\boxed{" + "\\\\" * 100_000 + "}" + "x" * 800_000,
    "dotted capitals": "\u0130" * 500_000 + "the answer is 5",
}


@pytest.mark.parametrize("name", BIG)
def test_a_million_characters_are_read_at_once(name: str) -> None:
    start = time.process_time()
    found(BIG[name])
    assert time.process_time() - start < LIMIT_S


PIECES = st.sampled_from(
    ["\\boxed{", "\\boxed ", "\\fbox{", "{", "}", "\\{", "\\}", "$", "$$", "\\(", "\\)", "\\[", "\\]", "5", " or ",
     ", ", "\n", "\n\n", "the answer is ", "Final answer: ", "#### ", ".", "**", "%", "</think>", "<think>", "x=", "\\"]
)  # fmt: skip


@given(st.lists(PIECES, max_size=25).map("".join))
def test_any_text_is_read_without_an_exception(text: str) -> None:
    extraction = found(text)
    assert (extraction.answer == "") == (extraction.found is not Found.ANSWER)
    for box in last_boxes(text).boxes:
        assert 0 <= box.start < box.end <= len(text)


@given(st.text(alphabet="01 +x^{}", max_size=20), st.text(alphabet="ab .,\n", max_size=40))
def test_a_balanced_box_is_found_after_any_text(content: str, before: str) -> None:
    depth = 0
    for character in content:
        depth += (character == "{") - (character == "}")
        if depth < 0:
            return
    if depth == 0:
        box = last_boxes(f"{before}\\boxed{{{content}}}").boxes[-1]
        assert box.content == content.strip()
