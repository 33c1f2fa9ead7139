"""Many turns: a fact or a rule of some turns ago, a correction, a system prompt that is kept."""

from __future__ import annotations

import random
from typing import Any

from holdfast.core_suite.items import Answer, Family, Item, chat, has_phrase

NAMES = ("Ana", "Ben", "Chen", "Dina", "Emil", "Farah", "Goran", "Hana", "Ivo", "Julia")
ANIMALS = ("cat", "dog", "parrot", "rabbit", "horse", "turtle", "goat", "hamster")
PLACES = ("Lisbon", "Oslo", "Nairobi", "Lima", "Hanoi", "Vienna", "Dublin", "Quito")
FOODS = ("noodles", "soup", "pancakes", "olives", "mangoes", "cheese", "bread", "plums")
ENDINGS = ("over", "amen", "cheers", "ahoy", "bingo", "voila")
SMALL_TALK = (
    ("What is a good name for a boat?", "The Sea Breeze is a good name for a boat."),
    ("Which season comes after winter?", "Spring comes after winter."),
    ("Tell me a fact about the moon.", "The moon goes around the Earth in about 27 days."),
    ("What can I cook with rice?", "You can cook a risotto or a pilaf with rice."),
    ("How do I keep a plant healthy?", "Give it light, and water it when the soil is dry."),
    ("What is a synonym of fast?", "A synonym of fast is quick."),
    ("What do owls eat?", "Owls eat mice and other small animals."),
    ("Why do leaves fall in autumn?", "Trees drop their leaves to save water in the cold months."),
)
QUESTIONS = (
    "What do cows drink?",
    "What is two plus two?",
    "What colour is grass?",
    "Where do fish live?",
    "What is snow made of?",
)


def make_fact(rng: random.Random) -> tuple[str, str, str, str]:
    """(what the user says, what the assistant replies, the question, the right answer)"""
    kind, name = rng.randrange(4), rng.choice(NAMES)
    if kind == 0:
        pet = rng.choice(ANIMALS)
        return f"Hi! I have a {pet} called {name}.", f"{name} is a lovely name!", f"What kind of animal is {name}?", pet
    if kind == 1:
        place = rng.choice(PLACES)
        return (
            f"My name is {name}, and I live in {place}.",
            f"Nice to meet you, {name}!",
            "In which city do I live?",
            place,
        )
    if kind == 2:
        food = rng.choice(FOODS)
        return f"My favourite food is {food}.", "That sounds tasty!", "What is my favourite food?", food
    code = str(rng.randint(100, 999))
    return f"Please remember the number {code}.", "I will remember it.", "Which number did I ask you to remember?", code


def talk(rng: random.Random, number: int) -> list[str]:
    return [text for pair in rng.sample(SMALL_TALK, number) for text in pair]


def make_item(level: int, rng: random.Random) -> Item:
    between = talk(rng, level)
    kind = rng.choice(("fact", "fact", "rule", "correction", "system"))
    if kind == "rule":
        word = rng.choice(ENDINGS)
        rule = f"From now on, end each of your answers with the word '{word}'."
        replies = [text if n % 2 == 0 else f"{text} {word.capitalize()}." for n, text in enumerate(between)]
        return Item(chat(rule, f"I will. {word.capitalize()}.", *replies, rng.choice(QUESTIONS)), {"ends": word})
    if kind == "system":
        word = rng.choice(ENDINGS)
        system = f"You are a helpful assistant. Begin every answer with the word '{word.capitalize()}'."
        replies = [text if n % 2 == 0 else f"{word.capitalize()}! {text}" for n, text in enumerate(between)]
        return Item(chat(*replies, rng.choice(QUESTIONS), system=system), {"begins": word})
    said, reply, question, right = make_fact(rng)
    if kind == "fact":
        return Item(chat(said, reply, *between, question), {"says": right, "not": []})
    first, second = rng.sample(PLACES, 2)
    corrected = [f"I am flying to {first} on Friday.", "Have a good flight!", *between]
    corrected += [f"Sorry, I was wrong: I am flying to {second}, not to {first}.", "Thank you for telling me."]
    return Item(
        chat(*corrected, "Where am I flying to on Friday? Answer with the city only."), {"says": second, "not": [first]}
    )


def score_turn(expected: Any, answer: Answer) -> float:
    words = answer.text.split()
    if "ends" in expected:
        return float(has_phrase(" ".join(words[-1:]), expected["ends"]))
    if "begins" in expected:
        return float(has_phrase(" ".join(words[:1]), expected["begins"]))
    return float(
        has_phrase(answer.text, expected["says"]) and not any(has_phrase(answer.text, no) for no in expected["not"])
    )


TURNS = Family(make_item, score_turn, max_tokens=40)
