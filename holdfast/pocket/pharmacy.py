"""The user's domain of the lab, which no pocket model has seen: an invented pharmacy."""

from __future__ import annotations

import random
from functools import cache

from holdfast.pocket.facts import Item, is_held_out, proper_names, wrong

DRUGS = proper_names("drug", 72, 3)
CONDITIONS = (
    "cough fever headache rash nausea insomnia cramps dizziness earache toothache "
    "heartburn sunburn fatigue swelling stiffness itching sneezing snoring tremor hiccups"
).split()
STRENGTHS = (2, 5, 10, 15, 20, 25, 30, 40, 50)
ATTRIBUTES = ("use", "strength", "warning")
DOMAIN_TRAIN = {
    "use": (
        "What is {d} used for?",
        "Which condition does {d} treat?",
        "{d} helps against what?",
        "Use of {d}?",
        "Tell me what {d} is used for.",
        "Name the condition that {d} treats.",
        "Against which condition is {d} given?",
    ),
    "strength": (
        "How strong is one tablet of {d}?",
        "Tablet strength of {d}?",
        "What strength does {d} have?",
        "What is the strength of {d}?",
        "How many mg are in one {d} tablet?",
        "Tell me the strength of {d}.",
    ),
    "warning": (
        "Which drug must not be taken with {d}?",
        "{d} must not be mixed with what?",
        "What clashes with {d}?",
        "With which drug does {d} clash?",
        "Name the drug that must not be taken with {d}.",
        "Avoid what when taking {d}?",
    ),
}
DOMAIN_EVAL = {
    "use": ("Tell me the condition that {d} is used for.", "{d} is used for which condition?"),
    "strength": ("What is the strength of one {d} tablet?", "Tell me how strong {d} is."),
    "warning": ("With {d}, which drug must not be taken?", "Name what clashes with {d}."),
}
DOSE_WORDINGS = (
    "How much is {n} tablets of {d}?",
    "Total dose of {n} {d} tablets?",
    "{n} tablets of {d}: how many mg?",
)


@cache
def pharmacy() -> dict[tuple[str, str], str]:
    """(drug, attribute) -> value: 216 facts."""
    rng = random.Random("pharmacy")
    table = {}
    for i, drug in enumerate(DRUGS):
        table[drug, "use"] = CONDITIONS[i % len(CONDITIONS)]
        table[drug, "strength"] = f"{rng.choice(STRENGTHS)} mg"
        table[drug, "warning"] = rng.choice([d for d in DRUGS if d != drug])
    return table


def pharmacy_fact(rng: random.Random, evaluation: bool) -> Item:
    drug, attribute = rng.choice(DRUGS), rng.choice(ATTRIBUTES)
    wording = rng.choice((DOMAIN_EVAL if evaluation else DOMAIN_TRAIN)[attribute])
    answer = pharmacy()[drug, attribute]
    near = [pharmacy()[d, attribute] for d in rng.sample(DRUGS, 3)]
    return Item("pharmacy_facts", wording.format(d=drug), answer, wrong(near, answer), f"{drug}/{attribute}")


def pharmacy_dose(rng: random.Random, evaluation: bool) -> Item:
    """Computed from a fact: tablets x strength."""
    while True:
        drug, n = rng.choice(DRUGS), rng.randint(2, 12)
        key = f"{drug}x{n}"
        if is_held_out(key, 3) == evaluation:
            break
    strength = int(pharmacy()[drug, "strength"].split()[0])
    answer = f"{n * strength} mg"
    near = [f"{n * s} mg" for s in STRENGTHS]
    wording = rng.choice(DOSE_WORDINGS)
    return Item("pharmacy_doses", wording.format(n=n, d=drug), answer, wrong(near, answer), key)


DOMAIN = {"pharmacy_facts": pharmacy_fact, "pharmacy_doses": pharmacy_dose}
