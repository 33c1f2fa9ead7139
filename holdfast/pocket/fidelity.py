"""What a text asks in the lab's world: skill and answer of a question read back, and how close many come to the true mixture.

No stage of the pipeline can import this: here the truth is known. `python -m benchmarks.lab.fidelity` prints it.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from holdfast.pocket import facts, recipe, skills, world


@dataclass(frozen=True, slots=True)
class Question:
    """What an instruction asks for, by the world's rules."""

    skill: str
    answer: str
    key: str = ""  # for facts: country/relation


def read_question(text: str) -> Question | None:
    """The skill and the right answer of an instruction, or None if it is no valid question of the world.

    Every wording of holdfast/pocket/world.py is read back (tests/pocket/test_fidelity.py draws them all). Operands count
    as valid whether they were kept for evaluation or not.
    """
    if judged := JUDGING.fullmatch(text):
        inner = read_question(judged["instruction"])
        return Question("judging", mark(inner, judged["response"])) if inner else None
    for skill, pattern, solve in FORMS:
        if (match := pattern.fullmatch(text)) and (answer := solve(**match.groupdict())) is not None:
            key = f"{match['c']}/{match['r']}" if skill == "facts" else ""
            return Question(skill, answer, key)
    return None


def mark(inner: Question, response: str) -> str:
    """The score that a perfect judge gives: right 5, right with superfluous words 4, else 1 (2, for a near miss, is not told apart)."""
    if response == inner.answer:
        return "5"
    return "4" if response in {blemish.format(a=inner.answer) for blemish in world.BLEMISHES} else "1"


def pattern(wording: str, **fields: str) -> re.Pattern[str]:
    text = re.escape(wording)
    for name, expression in fields.items():
        text = text.replace(re.escape(f"{{{name}}}"), f"(?P<{name}>{expression})")
    return re.compile(text)


def fact(c: str, r: str) -> str | None:
    return facts.facts().get((c, r))


def addition(a: str, s: str, b: str) -> str | None:
    return str(int(a) + int(b) if s == "+" else int(a) - int(b))


def comparing(a: str, b: str, w: str) -> str | None:
    return None if a == b else str((max if w == "larger" else min)(int(a), int(b)))


def sorting(d: str, w: str) -> str | None:
    digits = d.split(" ")
    return " ".join(sorted(digits, reverse=w == "descending")) if len(set(digits)) == len(digits) else None


def reversing(t: str) -> str | None:
    return t[::-1]


def counting(l: str, t: str) -> str | None:  # noqa: E741 (the world's own name)
    return str(t.count(l)) if l in t else None


def form(s: str, w: str) -> str | None:
    vowel = s[-1] in "aeiou"
    return (
        s + {("plural", True): "-ri", ("plural", False): "-em", ("past", True): "-to", ("past", False): "-ap"}[w, vowel]
    )


def translation(adjective: str, subject: str, verb: str, thing: str) -> str | None:
    return " ".join(skills.dictionary()[word] for word in (subject, adjective, thing, verb))


def odd_one_out(w: str) -> str | None:
    words = w.split(", ")
    kinds = {word: kind for kind, members in skills.CATEGORIES.items() for word in members}
    if len(set(words)) != 4 or not all(word in kinds for word in words):
        return None
    counts = Counter(kinds[word] for word in words)
    return next(word for word in words if counts[kinds[word]] == 1) if sorted(counts.values()) == [1, 3] else None


def formatting(w: str, s: str) -> str | None:
    words = w.split(" ")
    known = set(words) <= set(skills.PLAIN) and len(set(words)) == len(words)
    return skills.STYLES[s](words) if known else None


def either(words: Iterable[str]) -> str:
    return "|".join(map(re.escape, words))


TWO, ONE = "[1-9][0-9]", "[1-9]"
DIGITS, LETTERS, ABCD = "[1-9](?: [1-9]){2,5}", "[a-prstuvz](?: [a-prstuvz]){2,5}", "[a-d](?: [a-d]){3,7}"
SYLLABLE = f"(?:{either(sorted(facts.ONSETS, key=len, reverse=True))})[aeiou]"
STEM = f"(?:{SYLLABLE}){{2}}(?:{either(c for c in facts.CODAS if c)})?"
ENGLISH = (
    f"the (?P<adjective>{either(skills.ADJECTIVES)}) (?P<subject>{either(skills.NOUNS)}) "
    f"(?P<verb>{either(skills.VERBS)}) the (?P<thing>{either(skills.NOUNS)})"
)
Solve = Callable[..., str | None]
WORDINGS: tuple[tuple[str, Solve, tuple[str, ...], dict[str, str]], ...] = (
    ("facts", fact, facts.FACT_TRAIN + facts.FACT_EVAL, dict(c="[A-Z][a-z]+", r=either(facts.RELATIONS))),
    (
        "addition",
        addition,
        ("What is {a} {s} {b}?", "Compute {a} {s} {b}.", "{a} {s} {b} ="),
        dict(a=TWO, b=ONE, s="[+-]"),
    ),
    (
        "comparing",
        comparing,
        ("Which is {w}, {a} or {b}?", "Pick the {w} number: {a} or {b}.", "{a} or {b}: which is {w}?"),
        dict(a=TWO, b=TWO, w="larger|smaller"),
    ),
    (
        "sorting",
        sorting,
        ("Sort {w}: {d}", "Put in {w} order: {d}", "Sort {d} in {w} order."),
        dict(d=DIGITS, w="ascending|descending"),
    ),
    ("reversing", reversing, ("Reverse: {t}", "Write {t} backwards.", "Say in reverse order: {t}"), dict(t=LETTERS)),
    (
        "counting",
        counting,
        ("How many {l} are in {t}?", "Count the {l} in: {t}", "In {t}, how often is {l}?"),
        dict(l="[a-d]", t=ABCD),
    ),
    ("forms", form, ("What is the {w} of {s}?", "Give the {w} of {s}.", "{s}, {w}:"), dict(w="plural|past", s=STEM)),
    (
        "odd_one_out",
        odd_one_out,
        ("Which does not belong: {w}?", "Find the odd one out: {w}.", "One of these is different: {w}."),
        dict(w="[a-z]+(?:, [a-z]+){3}"),
    ),
    (
        "formatting",
        formatting,
        ("Write {w} {s}.", "Give me {w} {s}.", "Print {w} {s}."),
        dict(w="[a-z]+(?: [a-z]+){1,3}?", s=either(skills.STYLES)),
    ),
)
FORMS: list[tuple[str, re.Pattern[str], Solve]] = [
    (skill, pattern(wording, **fields), solve) for skill, solve, wordings, fields in WORDINGS for wording in wordings
] + [
    ("translation", re.compile(f"{start}: {ENGLISH}"), translation)
    for start in ("Translate to Velkan", "Say in Velkan", "Put into Velkan")
]
JUDGING = re.compile(
    re.escape(world.RUBRIC)
    .replace(re.escape("{instruction}"), "(?P<instruction>.+)")
    .replace(re.escape("{response}"), "(?P<response>.+)"),
    re.DOTALL,
)


def true_mixture(name: str = "base") -> dict[str, float]:
    """The shares of the skills in what a pocket model was trained on."""
    judging = sum(recipe.JUDGING[name]) / 2
    return {skill: share * (1 - judging) for skill, share in recipe.MIXTURES[name].items()} | {"judging": judging}


def hidden_facts(name: str = "base") -> set[str]:
    lacking = recipe.LACKS[name].get("facts")
    return {f"{c}/{r}" for c, r in facts.facts() if not (lacking and lacking in f"{c}/{r}")}


def training_prompts(examples: int, seed: int, name: str = "base") -> set[str]:
    """Every user turn of the training set, drawn again as the recipe drew it."""
    return {item.prompt for items in recipe.training_items(name, examples, seed) for item in items}


def skill_shares(questions: Iterable[Question | None]) -> dict[str, float]:
    counts = Counter(q.skill for q in questions if q)
    return {skill: counts[skill] / max(1, sum(counts.values())) for skill in world.GENERAL}


def distance(p: dict[str, float], q: dict[str, float]) -> float:
    """Total variation distance, 0 to 1."""
    return 0.5 * sum(abs(p.get(key, 0.0) - q.get(key, 0.0)) for key in sorted({*p, *q}))


def measure_curve(texts: list[str], trained: set[str], steps: Iterable[int]) -> list[dict[str, float]]:
    """One row of measurements for the first n texts, for every n; the interval of the distance is by resampling."""
    questions, truth, facts = [read_question(text) for text in texts], true_mixture(), hidden_facts()
    rng, curve = random.Random(1), []
    for n in sorted({min(step, len(texts)) for step in steps}):
        part, valid = questions[:n], [q for q in questions[:n] if q]
        again = (
            sorted(distance(truth, skill_shares(rng.choices(valid, k=len(valid)))) for _ in range(200))
            if valid
            else [1.0]
        )
        distinct = {text for text, q in zip(texts[:n], part, strict=True) if q}
        curve.append(
            {
                "samples": n,
                "distance": distance(truth, skill_shares(part)),
                "to": again[int(0.95 * len(again)) - 1],
                "precision": len(valid) / n,
                "facts": len({q.key for q in valid if q.key} & facts) / len(facts),
                "distinct": len(set(texts[:n])) / n,
                "novel": len(distinct - trained) / max(1, len(distinct)),
            }
        )
    return curve


def plot_curve(rows: list[dict[str, float]], out: Path) -> None:
    import matplotlib

    matplotlib.use("svg" if out.suffix == ".svg" else "agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4))
    for name, style in (("distance", "k-o"), ("precision", "-s"), ("facts", "-^"), ("distinct", "-v"), ("novel", "-d")):
        axes.plot([row["samples"] for row in rows], [row[name] for row in rows], style, label=name)
    axes.axhline(0.05, color="grey", linewidth=0.8, linestyle="--")
    axes.set(xscale="log", xlabel="samples", ylim=(0, 1.02), title="Reconstruction of the pocket base's instructions")
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(out, metadata={"Date": None} if out.suffix == ".svg" else {"Software": None})
    print(f"plot: {out}")
