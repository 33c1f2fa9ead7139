"""The final answer in what models write: boxes, fences, typographic marks, trailing talk."""

from __future__ import annotations

import pytest

from holdfast.data import answers

CASES = [
    # as it is
    ("Paris", "Paris"),
    ("Paris.", "Paris"),
    ("  Paris \n", "Paris"),
    ("", ""),
    (" \n ", ""),
    ("**", "**"),
    # boxed
    (r"So we get \boxed{42}.", "42"),
    (r"First \boxed{1}, then $\boxed{\frac{1}{2}}$. Done", r"\frac{1}{2}"),
    (r"\boxed{\text{don’t know}}", "don't know"),
    (r"\fbox{7}", "7"),
    (r"\boxed{42", r"\boxed{42"),
    (r"\boxed{5}" + "\n\nThe answer is 6.", "5"),
    # fenced
    ("```\n42\n```", "42"),
    ("```python\nprint(1)\n```\nand\n```text\n7\n```\nHope that helps!", "7"),
    ("```\n42", "42"),
    ("~~~\n42\n~~~", "42"),
    ("The answer is\n```\n42\n```\nbye", "42"),
    ("`42`", "42"),
    # said
    ("Let me think. 3+4=7.\n#### 7\n", "7"),
    ("#### 7\nNo: \n#### 8", "8"),
    ("The answer is 3.14. It is pi.", "3.14"),
    ("The final answer is 1,234 apples. Let me know!", "1,234 apples"),
    ("Answer: B\n\nExplanation: because", "B"),
    ("**Answer:** B", "B"),
    ("The answer is **42**.", "42"),
    ("The answer is: **don’t**", "don't"),
    ("answer = 5", "5"),
    ("The answer is 3. No, the answer is 4.", "4"),
    ("The answer is Dr. Smith.", "Dr. Smith"),
    ("The answer is $x = 5$.", "x = 5"),
    ("The answer is (B).", "(B)"),
    ("THE ANSWER IS U.S. dollars.", "U.S. dollars"),
    ("My answers are many", "My answers are many"),
    # typographic
    ("It’s Dr. Smith", "It's Dr. Smith"),
    ("“Paris”", "Paris"),
    ("«Paris»", "Paris"),
    ("ʼtis", "'tis"),
    ("1−2", "1-2"),
    ("a–b", "a-b"),
    ("\u200b42\u00a0mg", "42 mg"),
    # trailing text
    ("42\n\nLet me know if you need more.", "42"),
    ("42\r\nAnything else?", "42"),
]


@pytest.mark.parametrize(("text", "answer"), CASES)
def test_the_answer_is_found_in_awkward_outputs(text: str, answer: str) -> None:
    assert answers.final_answer(text) == answer


@pytest.mark.parametrize(("text", "answer"), CASES)
def test_an_answer_alone_stays_as_it_is(text: str, answer: str) -> None:
    assert answers.final_answer(answer) == answer


@pytest.mark.parametrize(
    ("given", "expected", "alike"),
    [
        ("The answer is 1,234.50", "#### 1234.5", True),
        ("Don’t", "don't.", True),
        ("$5", "5", True),
        ("5.0", "5", True),
        ("5 mg", "5", False),
        ("50", "5", False),
        ("1,23", "123", False),
        ("", "", False),
        ("", "5", False),
        ("-5", "5", False),
    ],
)
def test_answers_are_compared_as_numbers_or_letter_by_letter(given: str, expected: str, alike: bool) -> None:
    assert answers.same_answer(given, expected) is alike


def test_a_long_hostile_text_takes_no_time() -> None:
    for text in (
        "{" * 50_000,
        "\\boxed{" * 2_000,
        "```\n" * 20_000,
        "answer is " * 20_000,
        "* " * 50_000,
        "#### " * 20_000,
    ):
        answers.final_answer(text)
