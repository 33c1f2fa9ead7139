"""Cheap filters on the text of one instruction: each says why it rejects, or None.

`filters_by_reason` gives them in the order in which curate applies them, cheapest first. They read one text at a time and
keep nothing. What they cannot see: names and addresses without a number, languages that are not in LANGUAGES, an assistant's
voice in other languages than English.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from collections.abc import Callable, Iterable

from holdfast.data.overlap import ngrams, plain, repetition, words
from holdfast.params.row_checks import RowChecks

Filter = Callable[[str], str | None]


def filters_by_reason(params: RowChecks, special: Iterable[str], system: Iterable[str]) -> dict[str, Filter]:
    """Reason -> filter. `special`: the tokenizer's control tokens as text; `system`: prompts that no user writes."""
    tokens, prompts = list(special), [words(text) for text in system]
    filters: dict[str, Filter] = {
        "too_short": lambda text: f"{len(text)} characters" if len(text) < params.min_chars else None,
        "too_long": lambda text: f"{len(text)} characters" if len(text) > params.max_chars else None,
        "template_leak": lambda text: find_leak(text, tokens),
        "control_characters": find_control_character,
        "broken_text": lambda text: "U+FFFD" if "\N{REPLACEMENT CHARACTER}" in text else None,
    }
    if params.personal_data:
        filters["personal_data"] = find_personal_data
    filters["assistant_voice"] = find_assistant_voice
    filters["system_echo"] = lambda text: find_echo(text, prompts)
    if params.languages:
        filters["language"] = lambda text: find_other_language(text, params.languages)
    filters["repetition"] = lambda text: find_repetition(text, params.max_repetition)
    return filters


# What other templates write around a turn: the tokenizer at hand knows only its own.
MARKERS = re.compile(
    r"<\|[\w/ ]{1,40}\|>|<｜[^｜\n]{1,40}｜>|\[/?(?:INST|AVAILABLE_TOOLS|TOOL_CALLS|SYSTEM_PROMPT)\]|<</?SYS>>|<(?:start|end)_of_turn>"
    r"|<\|?/?(?:im_start|im_end|end_of_turn|eot_id|bos|eos|think|tool_call|tool_response)\|?>|\A<s>|</s>\s*\Z"
    r"|\A\s*(?:human|user|assistant)\s*:?\s*\n|\n\s*assistant\s*:?\s*\Z"
    r"|^\s*#{2,}\s*(?:instruction|input|response|human|user|assistant|system)\b\s*:"
    r"|^\s*(?:<\w+>)?(?:human|user|assistant|system|gpt|chatgpt|用户|用戶|助手|ユーザー|アシスタント)\s*[:：]\s*\S",
    re.IGNORECASE | re.MULTILINE,
)


def find_leak(text: str, special: list[str]) -> str | None:
    if token := next((token for token in special if token in text), None):
        return token
    marker = MARKERS.search(text)
    return marker.group().strip()[:40] if marker else None


def find_control_character(text: str) -> str | None:
    """Control, surrogate, private and unassigned characters; tab and newline are text."""
    if text.isprintable():
        return None
    odd = next((c for c in text if c not in "\n\t" and unicodedata.category(c) in ("Cc", "Cs", "Co", "Cn")), None)
    return f"U+{ord(odd):04X}" if odd else None


# re.ASCII where a boundary matters: in Chinese or Thai a number may touch a letter.
PERSONAL = {
    "key": re.compile(
        r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|\bgh[pousr]_[A-Za-z0-9]{30,}|\bgithub_pat_\w{20,}|\bsk-[A-Za-z0-9_-]{20,}|\bxox[abpr]-[\w-]{10,}"
        r"|\bhf_[A-Za-z0-9]{30,}|\bAIza[\w-]{35}|-----BEGIN [A-Z ]*PRIVATE KEY-----|\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.",
        re.ASCII,
    ),
    "e-mail": re.compile(r"[\w.+-]{1,64}@(?:[\w-]{1,63}\.)+[^\W\d_]{2}"),
    "card": re.compile(r"(?<![\d.])\d(?:[ -]?\d){12,18}(?![\d.]\d)"),
    "iban": re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b", re.ASCII),
    "social security number": re.compile(r"(?<![\d-])(?!000|666|9\d\d)\d{3}-(?!00)\d\d-(?!0000)\d{4}(?![\d-])"),
    "phone": re.compile(
        r"(?<![\w+])\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{1,4}(?:[ .-]?\d{2,4}){2,5}(?!\d)"
        r"|(?<![\w.+-])(?:1[ .-])?(?:\(\d{3}\) ?|\d{3}[ .-])\d{3}[ .-]\d{4}(?![\d.-]\d)"
        r"|\b(?:call|phone|tel|telephone|mobile|cell|fax|whatsapp)\b\W{0,3}(?:\w+\W{1,2}){0,3}?[(+]?\d[\d ().-]{5,}\d"
        r"|(?:telefon|teléfono|téléphone|[тТ]елефон|[тТ]ел\.|[τΤ]ηλέφωνο|电话|手机|電話|携帯|전화|휴대폰|هاتف|טלפון|फ़ोन|फोन|โทร)[^\d\n]{0,15}[(+]?\d[\d ().-]{5,}\d",
        re.IGNORECASE | re.ASCII,
    ),
    "ip address": re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.]*\d)"),
    "date of birth": re.compile(
        r"(?:\b(?:dob|date of birth|born on|geburtsdatum|geboren am|fecha de nacimiento|date de naissance)\b"
        r"|[дД]ата рождения|出生日期|出生年月日|生年月日|생년월일|تاريخ الميلاد|תאריך לידה|जन्म ?तिथि|วันเกิด)"
        r"\W{0,3}\d{1,4}[/. -]\d{1,2}[/. -]\d{1,4}(?!\d)",
        re.IGNORECASE | re.ASCII,
    ),
    "address": re.compile(
        r"\b\d{1,5}[a-z]? (?:[NSEW]\.? )?(?:[A-Z][a-z]+ ){1,3}"
        r"(?:Street|St|Avenue|Ave|Road|Rd|Lane|Ln|Drive|Dr|Boulevard|Blvd|Court|Ct|Way|Terrace|Place)\b\.?,? (?=[A-Z#0-9])",
        re.ASCII,
    ),
}


def find_personal_data(text: str) -> str | None:
    """The kind of personal data or secret that a text seems to hold; the detail never repeats it."""
    if not any(c.isdigit() or c in "@-_" for c in text):
        return None
    text = plain(text)
    for kind, pattern in PERSONAL.items():
        for match in pattern.finditer(text):
            if CONFIRMATIONS.get(kind, bool)(match.group()):
                return kind
    return None


def luhn_holds(number: str) -> bool:
    """The check digit of payment cards (ISO/IEC 7812-1, annex B), and a first digit that card issuers use."""
    digits = [int(c) for c in number if c.isdigit()]
    doubled = [sum(divmod(2 * d, 10)) for d in digits[-2::-2]]
    return digits[0] in (2, 3, 4, 5, 6) and len(set(digits)) > 1 and (sum(doubled) + sum(digits[-1::-2])) % 10 == 0


def mod97_holds(iban: str) -> bool:
    """The check digits of an IBAN (ISO 13616-1; ISO/IEC 7064 MOD 97-10)."""
    plain = iban.replace(" ", "")
    return 15 <= len(plain) <= 34 and int("".join(str(int(c, 36)) for c in plain[4:] + plain[:4])) % 97 == 1


def is_public_address(text: str) -> bool:
    """An IPv4 address that may belong to a person: not loopback, link-local, multicast or of a private network."""
    try:
        address = ipaddress.IPv4Address(text)
    except ValueError:
        return False
    private = any(address in ipaddress.ip_network(net) for net in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"))
    odd = address.is_loopback or address.is_link_local or address.is_multicast or address.is_reserved
    return not (private or odd or int(address) < 2**24)


def has_phone_length(number: str) -> bool:
    return 7 <= sum(c.isdigit() for c in number) <= 15


# what must also be true of a match of PERSONAL
CONFIRMATIONS: dict[str, Callable[[str], bool]] = {
    "card": luhn_holds,
    "iban": mod97_holds,
    "ip address": is_public_address,
    "phone": has_phone_length,
}

ASSISTANT_VOICE = re.compile(  # refusing, in the user's turn
    r"\bas an? (?:ai|artificial intelligence|large)\b(?: language)?(?: model| assistant)?,? (?:i|my)\b"
    r"|\bi(?:'m| am) (?:sorry|afraid|unable)\b.{0,30}\b(?:but )?i (?:can(?:no|')?t|am (?:not able|unable)|won'?t)\b"
    r"|\bi (?:can(?:no|')t|am unable to|won't|will not) (?:assist|help|comply|fulfil+|provide|engage)\b",
    re.IGNORECASE,
)
BAIT = re.compile(
    # attempts to switch rules off
    r"\b(?:ignore|disregard|forget|override) (?:all |any |every )?(?:of )?(?:the |your |my )?(?:previous|prior|above|earlier|preceding)"
    r" (?:instructions?|prompts?|rules|guidelines|directions)\b"
    r"|\b(?:jailbreak|developer mode (?:on|enabled)|do anything now|dan mode|no (?:ethical|moral|content) (?:restrictions|guidelines|filters?))\b"
    r"|\bwithout (?:any )?(?:ethical|moral|safety|content) (?:restrictions|guidelines|filters?|limits)\b"
    # requests whose only good answer is a refusal
    r"|\bhow (?:to|do i|can i|would i|could i) (?:\w+ ){0,2}?(?:make|build|construct|synthesi[sz]e|cook|create) (?:\w+ ){0,3}?"
    r"(?:bombs?|explosives?|meth(?:amphetamine)?|nerve agents?|ricin|bioweapons?|malware|ransomware|computer virus)\b"
    r"|\bhow (?:to|do i|can i|would i|could i) (?:\w+ ){0,2}?(?:hack into|break into|steal|launder|forge|counterfeit|stalk|poison|kidnap|murder)\b",
    re.IGNORECASE,
)


def find_assistant_voice(text: str) -> str | None:
    """An assistant's refusal in the place of a user's turn. English only."""
    match = ASSISTANT_VOICE.search(text)
    return match.group()[:60] if match else None


def is_bait(text: str) -> bool:
    """Whether the text tries to switch rules off, or asks for what deserves a refusal. English, and a few set phrases only."""
    return BAIT.search(text) is not None


ASSISTANT = re.compile(
    r"^\W{0,3}(?:system(?: prompt| message)?\s*:|you are (?:a |an )?(?:chatgpt|gpt-?\d|claude|qwen|gemini|llama|mistral|ai|helpful|honest|"
    r"large language model|language model|intelligent|knowledgeable)\b[^.\n]{0,60}(?:assistant|model|chatbot|ai|created by|trained by|developed by))",
    re.IGNORECASE,
)
MIN_ECHO_WORDS = (
    7  # consecutive words of a system prompt that make an echo; a shorter prompt counts when it is all there
)


def find_echo(text: str, prompts: list[tuple[str, ...]]) -> str | None:
    """A system prompt, or a good part of one, in the user's turn."""
    if match := ASSISTANT.match(text):
        return match.group().strip()[:60]
    tokens: tuple[str, ...] | None = None
    for prompt in prompts:
        n = min(MIN_ECHO_WORDS, len(prompt))
        if n >= 3:
            tokens = words(text) if tokens is None else tokens
            known = set(ngrams(prompt, n))
            if shared := next((gram for gram in ngrams(tokens, n) if gram in known), None):
                return " ".join(shared)
    return None


# Function words that are frequent in one language; those of several count for each of them and so decide nothing.
LANGUAGES = {
    "en": "the of and to in is that it for was on are with as be this have from or what how which write you your not by an at does can name give make explain list describe please",
    "de": "der die das und ist nicht ein eine zu den von mit sich des dem auf für wie was ich sie wir es im auch bei einen einer welche warum bitte schreibe erkläre kann werden",
    "fr": "le la les des et est un une du que qui dans pour pas sur avec ce il elle je vous nous au aux par quelle quel quels comment pourquoi écrivez expliquez sont être plus",
    "es": "el la los las y es un una de que en por para con no se del al lo su como más qué cuál cómo quién por son ser escribe explica está puede yo",
    "it": "il lo la gli le e è un una di che in per con non si del della dei come più sono qual quale cosa perché scrivi spiega nel alla essere può anche",
    "pt": "o a os as e é um uma de que em para com não se do da dos das no na como mais qual quais são ser está escreva explique pelo você por também",
    "nl": "de het een en van is dat niet in op te voor met zijn aan er om ook als wat hoe welke waarom schrijf uit deze kan worden ik je wordt naar bij",
}
FUNCTION_WORDS = {language: frozenset(text.split()) for language, text in LANGUAGES.items()}
SCRIPTS = {
    "ja": re.compile("[\u3040-\u30ff]"),
    "ko": re.compile("[\uac00-\ud7af\u1100-\u11ff]"),
    "zh": re.compile("[\u4e00-\u9fff\u3400-\u4dbf]"),
    "ru": re.compile("[\u0400-\u04ff]"),
    "el": re.compile("[\u0370-\u03ff]"),
    "ar": re.compile("[\u0600-\u06ff]"),
    "he": re.compile("[\u0590-\u05ff]"),
    "hi": re.compile("[\u0900-\u097f]"),
    "th": re.compile("[\u0e00-\u0e7f]"),
}


def recognise_language(text: str) -> str | None:
    """The language a text is recognisably in, or None. By script, else by function words; Cyrillic counts as 'ru'."""
    letters = sum(c.isalpha() for c in text)
    if not letters:
        return None
    if not text.isascii():
        for name, pattern in SCRIPTS.items():  # Japanese before Chinese: it uses the same characters and its own
            share = len(pattern.findall(text)) / letters
            if share >= (0.1 if name == "ja" else 0.4):
                return name
    tokens = [token for token in words(text) if token.isalpha()]
    hits = sorted(((sum(t in known for t in tokens), name) for name, known in FUNCTION_WORDS.items()), reverse=True)
    (best, name), (second, _) = hits[:2]
    return name if best >= 3 and best >= 1.5 * second and best >= 0.15 * len(tokens) else None


def find_other_language(text: str, allowed: Iterable[str]) -> str | None:
    """The language, when it is recognised and not allowed; what is not recognised passes."""
    language = recognise_language(text)
    return language if language is not None and language not in set(allowed) else None


def find_repetition(text: str, limit: float) -> str | None:
    """How much of a text repeats itself, where it is more than `limit` (0 to 1), or where one character does 30 times."""
    run = re.search(r"(\S)\1{29}", text)
    part = 1.0 if run else repetition(text)
    return f"{part:.2f}" if part > limit else None
