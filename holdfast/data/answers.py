"""The final answer in what a model wrote: in a box, a fence or a sentence, without typographic marks and trailing talk.

lm-eval's task files can use it as the filter `final_answer`; `evaluate.domain_test: answer` compares answers with it.
"""

from __future__ import annotations

import re

# typographic characters as a keyboard spells them; zero-width ones are removed
PLAIN = str.maketrans(
    dict.fromkeys("\u2018\u2019\u201a\u201b\u02bc\u2032\u00b4`", "'")
    | dict.fromkeys("\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb", '"')
    | dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-")
    | dict.fromkeys("\u00a0\u2007\u2009\u202f", " ")
    | dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff", "")
)
BOX = re.compile(r"\\(?:boxed|fbox)\s{0,9}\{")
FENCE = re.compile(r"^[ \t]*(```+|~~~+)[^\n`]*\n(.*?)(?:^[ \t]*\1[ \t]*$|\Z)", re.DOTALL | re.MULTILINE)
ANSWER_PHRASE = re.compile(r"\banswer(?:\s{1,9}is)?\s{0,9}[*_]{0,3}\s{0,9}(?::|=|(?<=is)\b)\s*", re.IGNORECASE)
SENTENCE_END = re.compile(r"(?<![A-Z])(?<!\bDr)(?<!\bMr)(?<!\bMrs)(?<!\bSt)[.!?](?=[\"')*_$\]]*(?:\s|$))")
WRAPPERS = [("__", "__"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ("'", "'"), ('"', '"')]
NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|[-+]?\.\d+")


def final_answer(text: str) -> str:
    """The answer alone, on one line. The first of these that the text holds: the last \\boxed{...}, the last `#### ...`,
    what follows the last "answer is" or "answer:", the last fenced block, the first line that is not empty."""
    if (boxed := last_box(text)) is not None:
        return strip_marks(boxed)
    if marked := re.findall(r"^[ \t]*####[ \t]*(\S.*)$", text, re.MULTILINE):
        return strip_marks(marked[-1])
    if phrases := list(ANSWER_PHRASE.finditer(text)):
        return strip_marks(first_sentence(first_line(text[phrases[-1].end() :])))
    return strip_marks(first_line(text))


def last_box(text: str) -> str | None:
    """What the last \\boxed{...} or \\fbox{...} holds, inner braces counted; None where there is none that closes."""
    starts = {box.end() for box in BOX.finditer(text)}
    opened: list[int] = []  # where each brace begins that is still open
    closed: list[tuple[int, int]] = []
    for brace in re.finditer(r"[{}]", text) if starts else ():
        if brace[0] == "{":
            opened.append(brace.end())
        elif opened and (start := opened.pop()) in starts:
            closed.append((start, brace.start()))
    return text[slice(*max(closed))] if closed else None


def first_line(text: str) -> str:
    """The first line of the last fenced block if there is one, or of the text."""
    fenced = [block[2] for block in FENCE.finditer(text) if block[2].strip()]
    return next((line for line in (fenced[-1] if fenced else text).splitlines() if line.strip()), "")


def first_sentence(text: str) -> str:
    """Up to where the sentence ends; a full stop inside a number or after an initial does not end it."""
    end = SENTENCE_END.search(text)
    return text[: end.start()] if end else text


def strip_marks(answer: str) -> str:
    r"""Without the marks around it: emphasis, quotes, dollars, \text{...}, a full stop; spaces and apostrophes plain."""
    answer = re.sub(r"\\(?:text|mathrm|mathbf|textbf)\s*\{([^{}]*)\}", r"\1", answer)
    answer = " ".join(answer.translate(PLAIN).split())
    while True:
        before = answer
        answer = answer.rstrip(".!;, ").lstrip(": ")
        answer = answer.strip("* ") or answer  # emphasis, of which a sentence may have kept one half
        for opening, closing in WRAPPERS:
            inner = answer[len(opening) : -len(closing)]
            if answer.startswith(opening) and answer.endswith(closing) and inner and closing not in inner:
                answer = inner.strip()
        if answer == before:
            return answer


def same_answer(answer: str, expected: str) -> bool:
    """Whether two texts end in the same answer: as numbers if both are, else letter by letter, case aside."""
    one, other = final_answer(answer), final_answer(expected)
    if (a := number(one)) is not None and (b := number(other)) is not None:
        return a == b
    return bool(other) and one.casefold() == other.casefold()


def number(text: str) -> float | None:
    """A text as a number: 1,234.50 and $1234.5 are equal; None for a text that is more than a number."""
    text = text.removeprefix("$").removeprefix("\\$").strip()
    return float(text.replace(",", "")) if NUMBER.fullmatch(text) else None


def register_filter_of_lm_eval() -> None:
    """Make `final_answer` known to lm-eval: `filter_list: [{name: final, filter: [{function: final_answer}, {function: take_first}]}]`."""
    from lm_eval.api.filter import Filter
    from lm_eval.api.registry import filter_registry, register_filter

    if "final_answer" in filter_registry:
        return

    @register_filter("final_answer")
    class FinalAnswer(Filter):
        def apply(self, resps, docs):  # type: ignore[no-untyped-def]
            return [[final_answer(text) for text in texts] for texts in resps]
