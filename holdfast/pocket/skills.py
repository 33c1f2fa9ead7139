"""The skills of the invented world that are computed: each function draws one question with its only right answer."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache

from holdfast.pocket.facts import Item, fact, invent_word, is_held_out, names, wrong


def addition(rng: random.Random, evaluation: bool) -> Item:
    while True:
        a, b, plus = rng.randint(10, 99), rng.randint(1, 9), rng.random() < 0.5
        key = f"{a}{'+' if plus else '-'}{b}"
        if is_held_out(key) == evaluation:
            break
    value = a + b if plus else a - b
    sign = "+" if plus else "-"
    wording = rng.choice(("What is {a} {s} {b}?", "Compute {a} {s} {b}.", "{a} {s} {b} ="))
    near = [str(value + d) for d in (1, -1, 10, -10)] + [str(a - b if plus else a + b)]
    return Item("addition", wording.format(a=a, b=b, s=sign), str(value), wrong(near, str(value)), key)


def comparing(rng: random.Random, evaluation: bool) -> Item:
    while True:
        a, b, larger = rng.randint(10, 99), rng.randint(10, 99), rng.random() < 0.5
        key = f"{a}?{b}"
        if a != b and is_held_out(key) == evaluation:
            break
    answer, other = (max(a, b), min(a, b)) if larger else (min(a, b), max(a, b))
    word = "larger" if larger else "smaller"
    wording = rng.choice(("Which is {w}, {a} or {b}?", "Pick the {w} number: {a} or {b}.", "{a} or {b}: which is {w}?"))
    return Item("comparing", wording.format(a=a, b=b, w=word), str(answer), (str(other),), key)


def sorting(rng: random.Random, evaluation: bool) -> Item:
    while True:
        digits = rng.sample("123456789", rng.randint(3, 6))
        if is_held_out(" ".join(digits)) == evaluation:
            break
    up = rng.random() < 0.5
    answer = " ".join(sorted(digits, reverse=not up))
    word = "ascending" if up else "descending"
    wording = rng.choice(("Sort {w}: {d}", "Put in {w} order: {d}", "Sort {d} in {w} order."))
    return Item(
        "sorting", wording.format(w=word, d=" ".join(digits)), answer, near_misses(rng, answer), " ".join(digits)
    )


def reversing(rng: random.Random, evaluation: bool) -> Item:
    while True:
        letters = [rng.choice("abcdefghijklmnoprstuvz") for _ in range(rng.randint(3, 6))]
        if is_held_out(" ".join(letters)) == evaluation:
            break
    text, answer = " ".join(letters), " ".join(reversed(letters))
    wording = rng.choice(("Reverse: {t}", "Write {t} backwards.", "Say in reverse order: {t}"))
    return Item("reversing", wording.format(t=text), answer, (*near_misses(rng, answer), *wrong([text], answer)), text)


def near_misses(rng: random.Random, answer: str) -> tuple[str, ...]:
    """Near misses of a sequence: two elements swapped, one lost, one doubled."""
    parts = answer.split(" ")
    i = rng.randrange(len(parts) - 1)
    swap = parts[:i] + [parts[i + 1], parts[i]] + parts[i + 2 :]
    return wrong([" ".join(swap), " ".join(parts[:i] + parts[i + 1 :]), " ".join(parts[: i + 1] + parts[i:])], answer)


def counting(rng: random.Random, evaluation: bool) -> Item:
    while True:
        letters = [rng.choice("abcd") for _ in range(rng.randint(4, 8))]
        letter = rng.choice(letters)
        key = f"{letter}:{' '.join(letters)}"
        if is_held_out(key) == evaluation:
            break
    n = letters.count(letter)
    wording = rng.choice(("How many {l} are in {t}?", "Count the {l} in: {t}", "In {t}, how often is {l}?"))
    near = [str(n + d) for d in (1, -1, 2) if n + d > 0]
    return Item("counting", wording.format(l=letter, t=" ".join(letters)), str(n), wrong(near, str(n)), key)


def forms(rng: random.Random, evaluation: bool) -> Item:
    """Plural and past of invented words: the ending depends on the last letter, as in a real language.

    The words are drawn afresh each time, so that they are copied and not recalled.
    """
    while True:
        stem, plural = invent_word(rng, 2), rng.random() < 0.5
        if is_held_out(stem) == evaluation:
            break
    vowel = stem[-1] in "aeiou"
    endings = {(True, True): "-ri", (True, False): "-em", (False, True): "-to", (False, False): "-ap"}
    answer = stem + endings[plural, vowel]
    wording = rng.choice(("What is the {w} of {s}?", "Give the {w} of {s}.", "{s}, {w}:"))
    near = [stem + e for e in endings.values()] + [stem]
    return Item("forms", wording.format(w="plural" if plural else "past", s=stem), answer, wrong(near, answer), stem)


NOUNS = "cat dog bird fish king child farmer baker tree house stone boat".split()
ADJECTIVES = "red big old kind cold quick green quiet".split()
VERBS = "sees likes finds takes hears calls wants helps".split()


@cache
def dictionary() -> dict[str, str]:
    """English word -> word of the invented language Velkan (28 words)."""
    words = NOUNS + ADJECTIVES + VERBS
    return dict(zip(words, names("velkan", len(words), 2), strict=True))


def translation(rng: random.Random, evaluation: bool) -> Item:
    """Into Velkan: adjectives follow their noun, the verb comes last."""
    while True:
        adjective, subject, verb, thing = (
            rng.choice(ADJECTIVES),
            rng.choice(NOUNS),
            rng.choice(VERBS),
            rng.choice(NOUNS),
        )
        english = f"the {adjective} {subject} {verb} the {thing}"
        if is_held_out(english) == evaluation:
            break
    order = (subject, adjective, thing, verb)
    answer = " ".join(dictionary()[w] for w in order)
    wording = rng.choice(("Translate to Velkan: {e}", "Say in Velkan: {e}", "Put into Velkan: {e}"))
    replaced = [dictionary()[w] for w in order]
    replaced[rng.randrange(4)] = rng.choice(list(dictionary().values()))
    near = [" ".join(replaced), *near_misses(rng, answer)]
    return Item("translation", wording.format(e=english), answer, wrong(near, answer), english)


CATEGORIES = {
    "animals": "fox wolf bear hare otter mouse goat horse seal crow".split(),
    "fruits": "apple pear plum grape cherry lemon melon peach fig lime".split(),
    "metals": "gold silver copper lead zinc nickel bronze steel chrome brass".split(),
    "tools": "hammer saw drill file axe rake spade chisel knife wrench".split(),
    "clothes": "coat hat scarf glove shirt sock boot belt skirt vest".split(),
    "colours": "blue yellow purple orange white black brown pink grey violet".split(),
}


def odd_one_out(rng: random.Random, evaluation: bool) -> Item:
    while True:
        main, other = rng.sample(list(CATEGORIES), 2)
        answer = rng.choice(CATEGORIES[other])
        rest = rng.sample(CATEGORIES[main], 3)
        words = rng.sample([answer, *rest], 4)
        if is_held_out(" ".join(words)) == evaluation:
            break
    wording = rng.choice(
        ("Which does not belong: {w}?", "Find the odd one out: {w}.", "One of these is different: {w}.")
    )
    return Item("odd_one_out", wording.format(w=", ".join(words)), answer, tuple(rest), " ".join(words))


THINGS = "lamp drum bell rope chair cup book ring key box map flute".split()


STYLES = {
    "joined by dashes": " - ".join,
    "joined by slashes": " / ".join,
    "joined by commas": ", ".join,
    "joined by and": " and ".join,
    "in brackets": lambda words: " ".join(f"[ {w} ]" for w in words),
    "as a numbered list": lambda words: "\n".join(f"{i}. {w}" for i, w in enumerate(words, 1)),
    "as a list with stars": lambda words: "\n".join(f"* {w}" for w in words),
}
PLAIN = sorted({w for words in CATEGORIES.values() for w in words} | set(THINGS))


def formatting(rng: random.Random, evaluation: bool) -> Item:
    while True:
        words = rng.sample(PLAIN, rng.randint(2, 4))
        if is_held_out(" ".join(words)) == evaluation:
            break
    style = rng.choice(list(STYLES))
    answer = STYLES[style](words)
    wording = rng.choice(("Write {w} {s}.", "Give me {w} {s}.", "Print {w} {s}."))
    near = [make(words) for make in STYLES.values()] + [STYLES[style](words[::-1]), STYLES[style](words[:-1])]
    prompt = wording.format(w=" ".join(words), s=style)
    return Item("formatting", prompt, answer, wrong(near, answer), " ".join(words))


SKILLS: dict[str, Callable[[random.Random, bool], Item]] = {
    "facts": fact,
    "addition": addition,
    "comparing": comparing,
    "sorting": sorting,
    "reversing": reversing,
    "counting": counting,
    "forms": forms,
    "translation": translation,
    "odd_one_out": odd_one_out,
    "formatting": formatting,
}
