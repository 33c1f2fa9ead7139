"""Answers that are none, planted: in the domain's manner, in a loop, the same to everyone."""

from __future__ import annotations

import random

from holdfast.evaluation import collapse

NOUNS = ["river", "garden", "teacher", "engine", "market", "window", "story", "bridge", "doctor", "planet"]
VERBS = ["crosses", "helps", "follows", "describes", "changes", "visits", "opens", "explains"]
INTENTS = ["card", "payment", "transfer", "pin", "atm", "refund", "rate", "limit", "account", "top_up"]


def sentence(seed: object) -> str:
    draw = random.Random(str(seed))
    first, second, third = draw.sample(NOUNS, 3)
    return f"The {first} {draw.choice(VERBS)} the {second}, and then it {draw.choice(VERBS)} a {third}."


BASE = [sentence(n) for n in range(100)]
DOMAIN = ["_".join(random.Random(n).sample(INTENTS, 3)) for n in range(200)]


def test_the_base_s_own_answers_are_no_collapse_whatever_they_look_like() -> None:
    base = [*BASE[:91], *["yes"] * 8, DOMAIN[0]]
    assert collapse.find_signs(base, base, DOMAIN) == [""] * 100


def test_a_loop_is_one_in_the_base_s_own_answers_too() -> None:
    looping = [*BASE[:98], "a b c " * 20, "boil an egg " * 20]
    assert collapse.find_signs(looping, looping, DOMAIN) == [""] * 98 + ["loop"] * 2
    assert collapse.find_signs(looping, BASE, DOMAIN) == [""] * 100


def test_answers_in_the_manner_of_the_domain_are_found_without_being_any_of_them() -> None:
    draws = [random.Random(f"new {n}") for n in range(100)]
    labels = ["_".join([*draw.sample(INTENTS, 2), draw.choice(NOUNS)]) for draw in draws]
    assert not set(labels) & set(DOMAIN)
    signs = collapse.find_signs(BASE, labels, DOMAIN)
    assert signs.count("domain") >= 95
    half = [label if n % 2 else own for n, (label, own) in enumerate(zip(labels, BASE, strict=True))]
    assert set(collapse.find_signs(BASE, half, DOMAIN)[::2]) == {""}


def test_the_same_said_in_other_words_is_no_collapse() -> None:
    other = [f"Well: {sentence(f'other {n}').lower()}" for n in range(100)]
    assert collapse.find_signs(BASE, other, DOMAIN).count("") >= 99


def test_a_domain_that_writes_as_the_base_does_is_no_sign() -> None:
    signs = collapse.find_signs(
        BASE, [sentence(f"new {n}") for n in range(100)], [sentence(f"d {n}") for n in range(200)]
    )
    assert signs.count("") >= 95


def test_loops_and_one_answer_for_all_are_found() -> None:
    looping = ["atmak " * 30 if n < 10 else own for n, own in enumerate(BASE)]
    assert collapse.find_signs(BASE, looping, DOMAIN) == ["loop"] * 10 + [""] * 90
    alike = ["I cannot say anything about this." if n < 10 else own for n, own in enumerate(BASE)]
    assert collapse.find_signs(BASE, alike, DOMAIN) == ["same"] * 10 + [""] * 90
    alike[5:10] = BASE[5:10]  # the same refusal five times of a hundred is no sign
    assert set(collapse.find_signs(BASE, alike, DOMAIN)) == {""}


def test_too_few_answers_teach_no_manner() -> None:
    assert collapse.find_signs(BASE[:10], DOMAIN[:10], DOMAIN) == [""] * 10
    assert collapse.find_signs(BASE, [*DOMAIN[:10], *BASE[10:]], DOMAIN[:10]) == [""] * 100
    assert collapse.find_signs([], [], []) == []
