"""Answers in the language that is asked for: by script, and by langdetect (Shuyo 2010) where the script is Latin."""

from __future__ import annotations

import random

from holdfast.core_suite.items import Answer, Family, Item, ask
from holdfast.data.filters import SCRIPTS

LANGUAGES = {  # code -> (English name, questions in it, the wish to be answered in it)
    "de": (
        "German",
        (
            "Warum ist der Himmel blau?",
            "Was kann man im Winter machen?",
            "Wozu brauchen Pflanzen Wasser?",
            "Wie kocht man ein Ei?",
            "Was ist ein Leuchtturm?",
        ),
        "Bitte antworte auf Deutsch.",
    ),
    "fr": (
        "French",
        (
            "Pourquoi le ciel est-il bleu ?",
            "Que peut-on faire en hiver ?",
            "Pourquoi les plantes ont-elles besoin d'eau ?",
            "Comment faire cuire un œuf ?",
            "Qu'est-ce qu'un phare ?",
        ),
        "Réponds en français, s'il te plaît.",
    ),
    "es": (
        "Spanish",
        (
            "¿Por qué el cielo es azul?",
            "¿Qué se puede hacer en invierno?",
            "¿Por qué las plantas necesitan agua?",
            "¿Cómo se cuece un huevo?",
            "¿Qué es un faro?",
        ),
        "Responde en español, por favor.",
    ),
    "it": (
        "Italian",
        (
            "Perché il cielo è blu?",
            "Che cosa si può fare in inverno?",
            "Perché le piante hanno bisogno di acqua?",
            "Come si cuoce un uovo?",
            "Che cos'è un faro?",
        ),
        "Rispondi in italiano, per favore.",
    ),
    "pt": (
        "Portuguese",
        (
            "Por que o céu é azul?",
            "O que se pode fazer no inverno?",
            "Por que as plantas precisam de água?",
            "Como se cozinha um ovo?",
            "O que é um farol?",
        ),
        "Responda em português, por favor.",
    ),
    "nl": (
        "Dutch",
        (
            "Waarom is de lucht blauw?",
            "Wat kun je in de winter doen?",
            "Waarom hebben planten water nodig?",
            "Hoe kook je een ei?",
            "Wat is een vuurtoren?",
        ),
        "Antwoord alsjeblieft in het Nederlands.",
    ),
    "ru": (
        "Russian",
        (
            "Почему небо голубое?",
            "Что можно делать зимой?",
            "Зачем растениям вода?",
            "Как сварить яйцо?",
            "Что такое маяк?",
        ),
        "Ответь, пожалуйста, по-русски.",
    ),
    "zh": (
        "Chinese",
        ("天空为什么是蓝色的？", "冬天可以做什么？", "植物为什么需要水？", "怎么煮鸡蛋？", "什么是灯塔？"),
        "请用中文回答。",
    ),
    "ja": (
        "Japanese",
        (
            "空はなぜ青いのですか？",
            "冬には何ができますか？",
            "植物にはなぜ水が必要ですか？",
            "卵はどうやってゆでますか？",
            "灯台とは何ですか？",
        ),
        "日本語で答えてください。",
    ),
    "ko": (
        "Korean",
        (
            "하늘은 왜 파란가요?",
            "겨울에는 무엇을 할 수 있나요?",
            "식물에는 왜 물이 필요한가요?",
            "달걀은 어떻게 삶나요?",
            "등대는 무엇인가요?",
        ),
        "한국어로 대답해 주세요.",
    ),
}
ENGLISH = (
    "Why is the sky blue?",
    "What can people do in winter?",
    "Why do plants need water?",
    "How do you boil an egg?",
    "What is a lighthouse?",
    "Why do birds fly south?",
    "What is a library?",
    "How does a bicycle stay upright?",
    "What is chocolate made of?",
    "Why do people sleep?",
)
LONGEST = 2_000  # characters that a language is told by
LEAST_LETTERS = 8  # of an answer whose language can be told
SCRIPT_SHARE = 0.4  # of its letters; Japanese also uses Chinese ones


def make_item(level: int, rng: random.Random) -> Item:
    code = rng.choice(sorted(LANGUAGES))
    name, questions, wish = LANGUAGES[code]
    if level == 1:
        return Item(ask(rng.choice(questions)), code)
    if level == 2:
        return Item(ask(f"{rng.choice(ENGLISH)} Answer in {name}."), code)
    other = rng.choice(sorted(set(LANGUAGES) - {code}))
    return Item(ask(f"{rng.choice(LANGUAGES[other][1])} {wish}"), code)


def score_language(expected: str, answer: Answer) -> float:
    letters = sum(c.isalpha() for c in answer.text)
    if not letters:
        return 0.0
    if expected in SCRIPTS:
        kana = len(SCRIPTS["ja"].findall(answer.text)) / letters
        if expected == "zh" and kana >= 0.1:
            return 0.0
        share = len(SCRIPTS[expected].findall(answer.text)) / letters
        return float(share >= (0.1 if expected == "ja" else SCRIPT_SHARE))
    return float(letters >= LEAST_LETTERS and detect(answer.text) == expected)


def detect(text: str) -> str:
    """The language of a text in Latin script, "" where it cannot be told. Its random choices are seeded."""
    import langdetect

    factory = langdetect.DetectorFactory
    before, factory.seed = factory.seed, 0
    try:
        return str(langdetect.detect(text[:LONGEST]))
    except langdetect.LangDetectException:
        return ""
    finally:
        factory.seed = before


SPEAKING = Family(make_item, score_language, max_tokens=48)
