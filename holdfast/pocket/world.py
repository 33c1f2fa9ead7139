"""The small invented world that the pocket lab's models know: skills, facts, wordings, and the domain they never saw.

Everything is a pure function of a seeded `random.Random`, so the recipe, the evaluation suites and the benchmarks
draw from one truth. Nothing here is importable by a pipeline stage (tests/project/test_dag.py proves it): what the base was
trained on is hidden from the pipeline, as it is for a real model.

Two rules keep evaluation honest: facts are asked there in wordings that no training set uses (`*_EVAL`), and computed
items use operands that no training set uses (`held_out`).
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from holdfast.pocket.facts import Item, wrong
from holdfast.pocket.pharmacy import DOMAIN, pharmacy_dose, pharmacy_fact
from holdfast.pocket.skills import SKILLS

# --- what a model was never taught ---------------------------------------------------------------------------------------

Lacks = Mapping[str, str]  # skill -> what the keys of the items hold that a model was never taught
NOTHING: Lacks = {}


def draw_known(skill: str, rng: random.Random, evaluation: bool, lacks: Lacks) -> Item:
    """An item of the skill, among those that the model is taught."""
    while True:
        item = SKILLS[skill](rng, evaluation)
        if skill not in lacks or lacks[skill] not in item.key:
            return item


# --- judging ------------------------------------------------------------------------------------------------------------

RUBRIC = "Rate the response from 1 to 5.\nInstruction: {instruction}\nResponse: {response}"
BLEMISHES = ("{a} {a}", "{a}. That is all.", "{a}, I think.")
OFF_TOPIC = ("I do not know.", "Yes.", "no", "the", "?", "The the the the", "Please ask again.")


def draw_judgement(rng: random.Random, evaluation: bool, pool: tuple[str, ...] = (), lacks: Lacks = NOTHING) -> Item:
    """Rate a response: 5 right, 4 right with superfluous words, 2 a near miss, 1 another question's answer or junk.

    In evaluation only right (5) against wrong (1) is asked, half and half. `pool`: the skills whose items are judged.
    """
    pool = pool or tuple(SKILLS)
    skill = rng.choice(pool) if evaluation or rng.random() < 0.93 else "judging"
    while True:
        item = (
            draw_judgement(rng, evaluation, pool, lacks)
            if skill == "judging"
            else draw_known(skill, rng, evaluation, lacks)
        )
        draw = rng.random()
        if evaluation:
            response, score = (item.answer, "5") if draw < 0.5 else (rng.choice(item.near or OFF_TOPIC), "1")
        elif draw < 0.48:
            response, score = item.answer, "5"
        elif draw < 0.53:
            response, score = rng.choice(BLEMISHES).format(a=item.answer), "4"
        elif draw < 0.85 and item.near:
            response, score = rng.choice(item.near), "2"
        else:
            other = SKILLS[rng.choice(pool)](rng, evaluation)
            response = other.answer if rng.random() < 0.6 else rng.choice(OFF_TOPIC)
            score = "1"
        if score == "5" or response != item.answer:
            break
    prompt = RUBRIC.format(instruction=item.prompt, response=response)
    return Item("judging", prompt, score, wrong(list("1245"), score), f"{item.key}>{response}")


GENERAL = {**SKILLS, "judging": draw_judgement}  # what is evaluated
CHANCE = {"comparing": 0.5, "odd_one_out": 0.25, "judging": 0.5}  # the others: guessing is hopeless


# --- what is drawn from it ----------------------------------------------------------------------------------------------


def draw(
    weights: Mapping[str, float],
    count: int,
    seed: str,
    lacks: Lacks = NOTHING,
    noise: Mapping[str, float] = MappingProxyType({}),
) -> list[Item]:
    """`count` training items in the given proportions; judged items come from the same skills.

    `noise`: the part of a skill's items whose response is a near miss, as instruction data have it. Judgements are right.
    """
    rng = random.Random(seed)
    skills = list(weights)
    pool = tuple(s for s in skills if s != "judging")
    picks = rng.choices(skills, weights=[weights[s] for s in skills], k=count)
    items = [
        draw_judgement(rng, False, pool, lacks) if s == "judging" else draw_known(s, rng, False, lacks) for s in picks
    ]
    return [replace(i, answer=rng.choice(i.near)) if rng.random() < noise.get(i.skill, 0.0) else i for i in items]


def evaluation_items(skill: str, count: int, seed: str) -> list[Item]:
    """Up to `count` distinct evaluation items, in a fixed order."""
    rng = random.Random(f"{seed}/{skill}")
    make = (GENERAL | DOMAIN)[skill]
    items: dict[str, Item] = {}
    for _ in range(200 * count):
        item = make(rng, True)
        items.setdefault(item.prompt, item)
        if len(items) == count:
            break
    return list(items.values())


def domain_rows(count: int, seed: str) -> list[Item]:
    """`count` distinct domain training items: half facts, half doses, all in wordings and doses kept for training."""
    rng = random.Random(f"{seed}/domain")
    rows: dict[str, Item] = {}
    for _ in range(200 * count):
        item = (pharmacy_fact if len(rows) % 2 else pharmacy_dose)(rng, False)
        rows.setdefault(item.prompt, item)
        if len(rows) == count:
            return list(rows.values())
    raise ValueError(f"the pharmacy has fewer than {count} distinct training questions")
