"""Tool calls: one function, one of several, none that fits, two calls, and what follows a tool's result."""

from __future__ import annotations

import random
from typing import Any, NamedTuple

from holdfast.chat.calls import parse_calls
from holdfast.core_suite.call_scoring import match_calls
from holdfast.core_suite.items import Answer, Family, Item, ask, has_phrase

CITIES = ("Lisbon", "Oslo", "Nairobi", "Lima", "Hanoi", "Vienna", "Dublin", "Quito", "Riga", "Accra", "Perth", "Turin")
NAMES = ("Ana", "Ben", "Chen", "Dina", "Emil", "Farah", "Goran", "Hana")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
DISHES = ("lentil soup", "fried rice", "apple pie", "fish stew", "pancakes", "tomato salad")
COLOURS = ("red", "green", "blue", "yellow", "white", "black")
ROOMS = ("kitchen", "bedroom", "office", "hall", "garage")
GENRES = ("jazz", "opera", "folk", "rock", "techno")
Values = dict[str, Any]


class Function(NamedTuple):
    name: str
    description: str
    parameters: dict[str, tuple[str, str, tuple[Any, ...]]]  # name -> (type, description, values)
    request: str  # with the parameters in braces
    enum: str = ""  # a parameter whose values the schema lists

    def schema(self) -> dict[str, Any]:
        properties: dict[str, Any] = {
            key: {"type": kind, "description": text} for key, (kind, text, _) in self.parameters.items()
        }
        if self.enum:
            properties[self.enum]["enum"] = list(self.parameters[self.enum][2])
        parameters = {"type": "object", "properties": properties, "required": list(properties)}
        function = {"name": self.name, "description": self.description, "parameters": parameters}
        return {"type": "function", "function": function}

    def draw(self, rng: random.Random) -> Values:
        return {key: rng.choice(values) for key, (_, _, values) in self.parameters.items()}


NUMBERS, SMALL = tuple(range(11, 99)), tuple(range(2, 10))
FUNCTIONS = (
    Function(
        "get_weather",
        "Weather forecast for a city.",
        {"city": ("string", "Name of the city.", CITIES), "days": ("integer", "Days ahead.", SMALL)},
        "What will the weather be in {city} in {days} days?",
    ),
    Function(
        "set_alarm",
        "Sets an alarm clock.",
        {
            "hour": ("integer", "Hour, 0 to 23.", tuple(range(5, 12))),
            "minute": ("integer", "Minute, 0 to 59.", (5, 10, 15, 20, 30, 45)),
        },
        "Set an alarm for hour {hour}, minute {minute}.",
    ),
    Function(
        "convert_length",
        "Converts metres to feet.",
        {"metres": ("number", "Length in metres.", (1.5, 2.5, 12.0, 40.5, 7.25, 100.0))},
        "How many feet are {metres} metres?",
    ),
    Function(
        "find_recipe",
        "Finds a recipe for a dish.",
        {"dish": ("string", "Name of the dish.", DISHES), "people": ("integer", "Number of people.", SMALL)},
        "Find me a recipe for {dish} for {people} people.",
    ),
    Function(
        "send_message",
        "Sends a text message to a contact.",
        {
            "name": ("string", "Whom to send it to.", NAMES),
            "text": (
                "string",
                "The message.",
                ("I am late", "Happy birthday", "See you soon", "Call me back", "Dinner is ready"),
            ),
        },
        "Send {name} this message: {text}",
    ),
    Function(
        "book_table",
        "Books a table in a restaurant.",
        {"guests": ("integer", "Number of guests.", SMALL), "day": ("string", "Day of the week.", DAYS)},
        "Book a table for {guests} guests on {day}.",
    ),
    Function(
        "set_light",
        "Sets the colour of a lamp.",
        {"room": ("string", "The room.", ROOMS), "colour": ("string", "The colour.", COLOURS)},
        "Make the light in the {room} {colour}.",
        "colour",
    ),
    Function(
        "play_music",
        "Plays music of a genre.",
        {"genre": ("string", "The genre.", GENRES), "volume": ("integer", "Volume in percent.", NUMBERS)},
        "Play some {genre} at {volume} percent volume.",
        "genre",
    ),
    Function(
        "add_numbers",
        "Adds two whole numbers.",
        {"first": ("integer", "First number.", NUMBERS), "second": ("integer", "Second number.", NUMBERS)},
        "Use the tool to add {first} and {second}.",
    ),
    Function(
        "translate_word",
        "Translates an English word.",
        {
            "word": ("string", "The word.", ("bridge", "window", "river", "ladder", "spoon")),
            "language": ("string", "Target language.", ("French", "German", "Spanish", "Turkish")),
        },
        "Translate the word {word} into {language}.",
    ),
    Function(
        "find_train",
        "Finds a train between two cities.",
        {
            "start": ("string", "Where it leaves.", CITIES),
            "end": ("string", "Where it arrives.", CITIES),
            "day": ("string", "Day of the week.", DAYS),
        },
        "Find a train from {start} to {end} on {day}.",
    ),
    Function(
        "create_event",
        "Adds an event to the calendar.",
        {
            "title": ("string", "Its title.", ("Dentist", "Chess club", "Team lunch", "Piano lesson")),
            "day": ("string", "Day of the week.", DAYS),
            "hour": ("integer", "Hour, 0 to 23.", tuple(range(8, 20))),
        },
        "Add '{title}' to my calendar on {day} at hour {hour}.",
    ),
    Function(
        "get_exchange_rate",
        "Exchange rate between two currencies.",
        {
            "source": ("string", "Currency code.", ("EUR", "USD", "GBP", "JPY")),
            "target": ("string", "Currency code.", ("CHF", "NOK", "BRL", "INR")),
        },
        "What is the exchange rate from {source} to {target}?",
    ),
    Function(
        "lock_door",
        "Locks or unlocks a door.",
        {"room": ("string", "The room.", ROOMS), "locked": ("boolean", "Whether it shall be locked.", (True,))},
        "Lock the door of the {room}.",
    ),
    Function(
        "count_stock",
        "Counts items in the warehouse.",
        {
            "item": ("string", "The item.", ("chairs", "lamps", "shelves", "desks")),
            "shelf": ("integer", "Number of the shelf.", NUMBERS),
        },
        "How many {item} are on shelf {shelf} of the warehouse?",
    ),
    Function(
        "set_timer",
        "Starts a kitchen timer.",
        {"minutes": ("integer", "Minutes.", NUMBERS)},
        "Start a timer of {minutes} minutes.",
    ),
)
UNRELATED = (
    "What is the capital of Spain?",
    "Write a sentence about the sea.",
    "Who wrote Romeo and Juliet?",
    "What is the opposite of cold?",
    "Tell me a fact about elephants.",
    "How many legs does a spider have?",
    "What colour is a ripe banana?",
    "Thank you for your help!",
    "Which planet is closest to the sun?",
    "What does the word 'enormous' mean?",
)


def expect(function: Function, values: Values) -> dict[str, Any]:
    return {function.name: {key: [value] for key, value in values.items()}}


def draw_values(function: Function, rng: random.Random) -> Values:
    values = function.draw(rng)
    return function.draw(rng) if values.get("start", 0) == values.get("end", 1) else values


def make_item(level: int, rng: random.Random) -> Item:
    functions = rng.sample(FUNCTIONS, 6)
    first = functions[0]
    values = draw_values(first, rng)
    request = first.request.format(**values)
    if level == 1:
        return Item(ask(request), [expect(first, values)], [first.schema()])
    offered = functions[: 3 if level == 2 else 5]
    rng.shuffle(offered)
    tools = [one.schema() for one in offered]
    kind = rng.choice(("one", "one", "none") if level == 2 else ("one", "none", "two", "after", "after"))
    if kind == "one":
        return Item(ask(request), [expect(first, values)], tools)
    if kind == "none":
        return Item(ask(rng.choice(UNRELATED)), [], tools)
    if kind == "two":
        second = next(one for one in offered if one is not first)
        others = draw_values(second, rng)
        both = f"{request} Also: {second.request.format(**others)}"
        return Item(ask(both), [expect(first, values), expect(second, others)], tools)
    code = str(rng.randint(1000, 9999))
    called = {"id": "call00001", "type": "function", "function": {"name": first.name, "arguments": values}}
    messages = [
        *ask(f"{request} Then tell me the number of the confirmation."),
        {"role": "assistant", "content": "", "tool_calls": [called]},
        {"role": "tool", "name": first.name, "tool_call_id": "call00001", "content": f'{{"confirmation": "{code}"}}'},
    ]
    return Item(messages, {"says": code}, tools)


def score_calls(expected: Any, answer: Answer) -> float:
    """`expected`: the calls, [] for an answer without one, or what an answer without a call says; its schemas come with it."""
    calls = parse_calls(answer.text, expected["tools"])
    wanted = expected["calls"]
    if isinstance(wanted, dict):
        return float(not calls and has_phrase(answer.text, wanted["says"]))
    if not wanted:
        return float(not calls and bool(answer.text.strip()))
    return float(match_calls(calls, wanted))


def make_with_schemas(level: int, rng: random.Random) -> Item:
    item = make_item(level, rng)
    return Item(item.messages, {"calls": item.expected, "tools": item.tools}, item.tools)


TOOLS = Family(make_with_schemas, score_calls, max_tokens=128, needs="tools")
