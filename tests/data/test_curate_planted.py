"""stages/curate.py: at least a hundred planted of each kind are caught, in any script and inside long texts, and clean rows stay."""

from __future__ import annotations

import csv
import json
import random
import unicodedata
from pathlib import Path

import pytest
from helpers import SHARED


def variants(rng: random.Random, text: str) -> list[str]:
    """A question in ten disguises."""
    words = text.split()
    middle = len(words) // 2
    return [
        text.upper(),
        text.lower().replace(",", "").replace(".", "").replace("'", "’"),
        "  \n".join(words),
        f"**{text}**",
        f"Here is a task for you. {text} Thank you!",
        " ".join(text.replace("\n", " ").split()),
        text.replace(" ", "\u00a0"),
        " ".join(words[: int(0.85 * len(words))]),
        " ".join([*words[:middle], "indeed", *words[middle:]]),
        "".join(c if rng.random() > 0.02 or not c.isspace() else " \u200b" for c in text),
    ]


def personal(rng: random.Random) -> list[str]:
    def digits(n: int) -> str:
        return "".join(rng.choice("0123456789") for _ in range(n - 1)) + rng.choice("123456789")

    def card() -> str:
        number = "4" + digits(14)
        total = sum(sum(divmod(int(d) * (2 if i % 2 == 0 else 1), 10)) for i, d in enumerate(number))
        number += str(-total % 10)
        return " ".join(number[i : i + 4] for i in range(0, 16, 4))

    def iban() -> str:
        account = digits(18)
        check = 98 - int(account + "131400") % 97  # D = 13, E = 14
        return f"DE{check:02d}{account}"

    name = rng.choice(["anna", "li.wei", "j_smith", "o-reilly"])
    return [
        f"{name}{digits(2)}@mail{digits(1)}.org",
        f"(2{digits(2)}) {digits(3)}-{digits(4)}",
        f"+49 {digits(3)} {digits(4)} {digits(3)}",
        f"+1-2{digits(2)}-{digits(3)}-{digits(4)}",
        card(),
        iban(),
        f"{rng.randint(100, 665)}-{rng.randint(10, 99)}-{rng.randint(1000, 9999)}",
        f"{rng.randint(11, 126)}.{rng.randint(0, 255)}.{rng.randint(0, 255)}.{rng.randint(1, 254)}",
        "sk-" + "aB3" * 9 + digits(5),
        f"date of birth: {rng.randint(10, 28)}/0{rng.randint(1, 9)}/19{rng.randint(40, 99)}",
        f"2{digits(2)}.{digits(3)}.{digits(4)}",
        f"{rng.randint(10, 999)} Maple Grove Street, Springfield",
    ]


LEAKS = (
    "{}<|end|>",
    "<|user|>{}",
    "<|im_start|>user\n{}<|im_end|>",
    "[INST] {} [/INST]",
    "{}<|eot_id|>",
    "<start_of_turn>user\n{}",
    "### Instruction:\n{}\n### Response:",
    "Human: {}\nAssistant: Yes.",
    "<<SYS>>\n<</SYS>>\n{}",
    "{}</s>",
    "user\n{}\nassistant\n",
    "<|start_header_id|>user<|end_header_id|>\n\n{}",
    "<｜User｜>{}",
    "{}\n\n### Assistant: Of course.",
    "[|Human|]: {} <|endofturn|>",
    "USER: {} ASSISTANT:",
)


def real_text() -> tuple[list[str], list[str]]:
    """(evaluation items, clean texts of other sources and splits)"""
    data = SHARED / "data"

    def lines(path: Path) -> list[dict]:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

    items = [row["question"] for row in lines(next((data / "gsm8k").rglob("*test*.jsonl")))[:500]]
    items += [row["prompt"] for row in lines(data / "ifeval" / "input_data.jsonl")]
    for file in sorted((data / "mmlu" / "test").glob("*.csv"))[::4]:
        with file.open(encoding="utf-8", newline="") as handle:
            for row in list(csv.reader(handle))[1:60]:
                items.append(
                    row[0] + "".join(f"\n{letter}. {choice}" for letter, choice in zip("ABCD", row[1:5], strict=False))
                )
    clean = [row["question"] for row in lines(next((data / "gsm8k").rglob("*train*.jsonl")))[:1500]]
    clean += [
        row["QUESTION"] for row in json.loads(next((data / "pubmedqa").glob("ori_pqal*.json")).read_text()).values()
    ]
    clean += [row["instruction"] for row in lines(next((data / "self_instruct_seed").glob("*.jsonl")))]
    clean += [row["turns"][0] for row in lines(data / "mt_bench" / "question.jsonl")]
    return items, clean


@pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="../shared with public data sets is not there")
def test_a_hundred_planted_of_each_kind_are_caught_and_clean_text_is_kept(curated):
    rng = random.Random(0)
    items, clean = real_text()
    texts = {f"clean-{i:04d}": text for i, text in enumerate(clean)}
    for n, item in enumerate(rng.sample([item for item in items if len(item.split()) >= 16], 120)):
        forms = variants(rng, item)
        texts[f"item-{n:03d}"] = forms[n % len(forms)]
    long = [text for text in clean if len(text.split()) >= 42]
    for n, text in enumerate(rng.sample(clean, 110)):
        texts[f"same-{n:03d}"] = (text.upper(), f" {text}\n", "  ".join(text.split()))[n % 3]
    for n, text in enumerate(rng.sample(long, 110)):
        words = text.split()
        words[rng.randrange(3, len(words) - 3)] = "purple"
        texts[f"variant-{n:03d}"] = " ".join(words)
    for n in range(120):
        marks = personal(rng)
        texts[f"personal-{n:03d}"] = (
            f"Please write a short note {n} to my neighbour. You reach him at {marks[n % len(marks)]} today."
        )
    for n, text in enumerate(rng.sample(clean, 112)):
        texts[f"leak-{n:03d}"] = LEAKS[n % len(LEAKS)].format(f"{text} ({n})")

    check(texts, curated(texts, items, clusters=8)[1])


def check(texts: dict[str, str], rejected: dict[str, dict]) -> None:
    """All that is planted is rejected, nearly all for its reason; clean rows are not."""
    expected = {
        "item": {"evaluation_overlap"},
        "same": {"duplicate"},
        "variant": {"near_duplicate"},
        "personal": {"personal_data"},
        "leak": {"template_leak"},
    }
    for kind, reasons in expected.items():
        planted = [id for id in texts if id.startswith(kind)]
        missed = [
            (texts[id], rejected.get(id, {}).get("reason"))
            for id in planted
            if rejected.get(id, {}).get("reason") not in reasons
        ]
        assert len(planted) >= 100
        assert [text for text, reason in missed if reason is None] == [], kind  # all are caught,
        assert len(missed) <= 2, missed  # and nearly all for the reason they were planted for
    wrong = {id: row for id, row in rejected.items() if id.startswith("clean")}
    assert len(wrong) <= 0.01 * sum(id.startswith("clean") for id in texts), [
        (row["reason"], row["text"], row["detail"]) for row in wrong.values()
    ]


# first and last letter, vowel signs, whether blanks stand between words, and the digits
SCRIPTS = {
    "han": ("\u4e00\u4fff", "", "", "0０"),
    "kana": ("ぁゖ", "", "", "0０"),
    "thai": ("กฮ", "ะาิีุู", "", "0๐"),
    "hangul": ("가곽", "", " ", "00"),
    "cyrillic": ("ая", "", " ", "00"),
    "greek": ("αω", "", " ", "00"),
    "hebrew": ("את", "", " ", "00"),
    "arabic": ("غي", "", " ", "0٠"),
    "devanagari": ("कह", "ािीुूे", " ", "0०"),
}


class Script:
    """Made-up text of one script: 400 words, sentences of 10 to 20 of them with a span of numbers."""

    def __init__(self, name: str) -> None:
        (first, last), self.signs, self.blank, self.digits = SCRIPTS[name]
        self.rng = random.Random(name)
        self.letters = [chr(c) for c in range(ord(first), ord(last) + 1) if c != 0x640]  # a stroke that is no letter
        self.vocabulary = [self.word() for _ in range(400)]

    def word(self) -> str:
        return "".join(
            self.rng.choice(self.letters) + (self.rng.choice(self.signs) if self.signs else "")
            for _ in range(self.rng.randint(2, 5))
        )

    def sentence(self) -> str:
        words = self.rng.choices(self.vocabulary, k=self.rng.randint(10, 20))
        words.insert(len(words) // 2, f"{self.rng.randint(10, 99)}-{self.rng.randint(100, 999)}")
        return self.blank.join(words) + "?"

    def text(self, count: int) -> str:
        return " ".join(self.sentence() for _ in range(count))

    def disguised(self, item: str, n: int) -> str:
        """A question in another look."""
        digits = str.maketrans("0123456789", "".join(chr(ord(self.digits[1]) + d) for d in range(10)))
        forms = (
            item.translate(digits),
            item.replace("-", " – "),
            item.replace("-", " "),
            unicodedata.normalize("NFD", item).upper(),
            f"{self.word()} «{item}» {self.word()}",
            item[: int(0.8 * len(item))],
            item.replace(" ", "\u3000\u200b"),
        )
        return forms[n % len(forms)]


def test_a_hundred_planted_of_each_kind_are_caught_in_any_script_and_inside_long_texts(curated):
    rng = random.Random(1)
    scripts = [Script(name) for name in SCRIPTS]
    items = [scripts[n % len(scripts)].sentence() for n in range(108)]
    texts: dict[str, str] = {}
    for n in range(540):
        texts[f"clean-{n:04d}"] = scripts[n % len(scripts)].text(40 if n % 10 == 0 else 3)
    for n, item in enumerate(items):  # each third inside a long text
        script = scripts[n % len(scripts)]
        before, after = (script.text(20), script.text(20)) if n // len(scripts) % 3 == 0 else ("", "")
        around = before or script.sentence()
        clean = texts[f"clean-{n * 5:04d}"]
        half = len(clean) // 2
        texts[f"item-{n:03d}"] = f"{before} {script.disguised(item, n)} {after}"
        texts[f"same-{n:03d}"] = f" {clean.upper()}\n"
        texts[f"variant-{n:03d}"] = clean[:half] + clean[half:].replace(script.blank or "?", f" {script.word()} ", 1)
        marks = personal(rng)
        texts[f"personal-{n:03d}"] = (
            f"{around}{script.blank}{marks[n % len(marks)]}{script.blank}{after or script.word()}"
        )
        texts[f"leak-{n:03d}"] = LEAKS[n % len(LEAKS)].format(f"{before}{script.sentence()}{after}")
    check(texts, curated(texts, items, clusters=8, max_chars=20_000)[1])
