"""Closeness of texts: repetition within one, near-duplicates (MinHash), and closeness to evaluation items.

Words are what remains after case, punctuation, invisible characters and spacing are ignored. What hashing finds
is confirmed on the words themselves, and nothing depends on the hash seed of the process.
"""

from __future__ import annotations

import math
import re
import unicodedata
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache

import numpy as np

Words = tuple[str, ...]
MIN_ITEM_WORDS = 4  # words; a shorter evaluation item counts only when it is the whole text
MAX_SHARED_NGRAMS = 4  # times n: so many shared words of an evaluation item are too many, whatever part of it they are

# Signs count beside a number or between blanks: "7 + 2" and "7 / 2" are different questions, "well-known" is two words.
# A minus counts where no number or word stands before it: "-5", but "10-12", "10 - 12" and "10 12" are the same.
SIGN = r"(?:[+/=<>%^]|(?<!\*)\*(?!\*))"
SIGNS = rf"(?<=\d){SIGN}|(?<=\S ){SIGN}(?=\s|$)|(?<!^){SIGN}(?= ?\d)|(?<![^\W_])-(?=\d)"
# Scripts that write no blanks between words. Chinese and Japanese: each character is a word of its own; Thai, Lao, Burmese
# and Khmer: each consonant with the vowels and tones that follow it.
CHARACTER = "\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff"
CONSONANT, BLOCK = "\u0e01-\u0e2e\u0e81-\u0eae\u1000-\u1021\u1780-\u17a2", "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
UNSPACED = rf"[{CHARACTER}]|[{BLOCK}](?:(?![{CONSONANT}])[{BLOCK}])*"
MARKS = "".join(chr(c) for c in range(0x300, 0x10000) if unicodedata.category(chr(c)) in ("Mn", "Mc"))  # vowel signs
ASCII_WORD = re.compile(rf"[a-z]+|\d+|{SIGNS}", re.MULTILINE)
WORD = re.compile(rf"{UNSPACED}|(?:(?![{CHARACTER}{BLOCK}])[^\W\d_]|[{MARKS}])+|\d+|{SIGNS}", re.MULTILINE)
IGNORED = re.compile(r"['`]|(?<=\d),(?=\d{3}(?!\d))")  # don't = dont, 1,000 = 1000
# The same in type: NFKC would make blanks of the acute accent and of the thin space between thousands.
TYPESET = re.compile(r"[\u2018\u2019\u02bc\u00b4]|(?<=\d)[\u2009\u202f](?=\d{3}(?!\d))")


def _alike() -> dict[int, str | None]:
    """Characters that only look different: digits of other scripts, dashes, signs, and what cannot be seen."""
    table: dict[int, str | None] = {}
    for code in range(0x80, 0x10000):
        kind = unicodedata.category(chr(code))
        if kind == "Nd":
            table[code] = str(unicodedata.decimal(chr(code)))
        elif kind == "Pd":
            table[code] = "-"
        elif kind == "Cf" or 0xFE00 <= code <= 0xFE0F:  # invisible: joiners, direction marks, variation selectors
            table[code] = None
    # points that Hebrew and Arabic may leave out, and the stroke that only widens an Arabic word
    table |= dict.fromkeys(
        [*range(0x591, 0x5BE), 0x5BF, 0x5C1, 0x5C2, 0x5C4, 0x5C5, 0x5C7, *range(0x64B, 0x660), 0x670, 0x640]
    )
    return table | {ord(a): b for a, b in zip("\u2212\u00d7\u00f7\u2044\u2215\u2217\u066c", "-*///*,", strict=True)}


ALIKE = _alike()


def plain(text: str) -> str:
    """The text with compatibility forms resolved (NFKC) and without what only makes characters look different."""
    return text if text.isascii() else unicodedata.normalize("NFKC", TYPESET.sub("", text)).translate(ALIKE)


@lru_cache(maxsize=64)  # several filters ask for the same row in turn
def words(text: str) -> Words:
    """What is left of a text when case, punctuation, spacing and the look of its characters do not count."""
    pattern = ASCII_WORD if text.isascii() else WORD
    return tuple(pattern.findall(IGNORED.sub("", plain(text).casefold())))


def ngrams(tokens: Sequence[str], n: int) -> list[Words]:
    """The distinct n-grams in the order of the text: a set of strings is ordered anew in every process."""
    return list(dict.fromkeys(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)))


def repetition(text: str, n: int = 3, loop: int = 8) -> float:
    """How much of a text repeats itself, 0 to 1: the larger of two measures.

    The part of its n-grams that the most frequent one makes up (0 for texts under four n-grams), and the part of its
    `loop`-grams that occurred before: a sentence repeated five times has many n-grams, each of them rare.
    """
    tokens = words(text)
    grams = Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))
    total, long = sum(grams.values()), len(tokens) - loop + 1
    again = 1 - len(ngrams(tokens, loop)) / long if long > loop else 0.0
    return max(again, max(grams.values()) / total if total >= 4 else 0.0)


class EvaluationIndex:
    """Finds texts that are an evaluation item, contain one, or hold a large part of one.

    A text overlaps with an item when the n-grams that they share cover `coverage` of the item (PaLM, arXiv 2204.02311,
    section 8: 70 % of the 8-grams), or MAX_SHARED_NGRAMS * n of its words. What counts is an item's content, not the phrasing of its
    task: an n-gram that is in more than `common` items is no evidence (GPT-3, arXiv 2005.14165, appendix C) and its
    words count for nothing; the others are weighted by their rarity among the items.
    """

    def __init__(self, suites: Mapping[str, Iterable[str]], n: int, common: int, coverage: float = 0.5) -> None:
        self.n, self.coverage = n, coverage
        self.items = [(suite, words(text)) for suite, texts in suites.items() for text in texts]
        self.whole: dict[Words, str] = {}
        self.short: dict[Words, str] = {}
        items_by_gram: dict[int, list[int]] = defaultdict(list)
        frequency: Counter[str] = Counter()
        for i, (suite, tokens) in enumerate(self.items):
            if tokens:
                self.whole.setdefault(tokens, suite)
            if MIN_ITEM_WORDS <= len(tokens) < n:
                self.short.setdefault(tokens, suite)
            frequency.update(set(tokens))
            for gram in ngrams(tokens, n):
                items_by_gram[hash(gram)].append(i)
        # Hashes save nine tenths of the memory; what they find is confirmed below.
        self.grams = {gram: tuple(items) for gram, items in items_by_gram.items() if len(items) <= common}
        self.phrasing = {gram for gram, items in items_by_gram.items() if len(items) > common}
        self.lengths = sorted({len(tokens) for tokens in self.short})
        self.weight = {word: math.log((1 + len(self.items)) / count) for word, count in frequency.items()}

    def match(self, text: str) -> tuple[str, str] | None:
        """(suite, evidence) of an evaluation item that the text is too close to, or None."""
        tokens = words(text)
        if suite := self.whole.get(tokens):
            return suite, "the item itself"
        for length in self.lengths:
            for gram in ngrams(tokens, length):
                if suite := self.short.get(gram):
                    return suite, f"contains the item: {' '.join(gram)}"
        grams = ngrams(tokens, self.n)
        candidates = sorted({i for gram in grams for i in self.grams.get(hash(gram), ())})
        shared = set(grams) if candidates else set()
        for i in candidates:
            suite, item = self.items[i]
            part, count = self.measure_coverage(item, shared)
            if part >= self.coverage or count >= MAX_SHARED_NGRAMS * self.n:
                return suite, f"holds {part:.0%} of the item: {' '.join(item)}"
        return None

    def measure_coverage(self, item: Words, grams: set[Words]) -> tuple[float, int]:
        """(part of the weight of the item's content, number of its words) that the n-grams cover."""
        parts = [item[i : i + self.n] for i in range(len(item) - self.n + 1)]
        phrasing = {j for i, gram in enumerate(parts) if hash(gram) in self.phrasing for j in range(i, i + self.n)}
        shared = {j for i, gram in enumerate(parts) if gram in grams for j in range(i, i + self.n)} - phrasing
        whole = sum(self.weight[word] for j, word in enumerate(item) if j not in phrasing)
        return sum(self.weight[item[j]] for j in sorted(shared)) / whole if whole else 0.0, len(shared)


class Rarity:
    """How rare words are in a collection, in bounded memory: frequencies are counted by a hash of the word."""

    def __init__(self, bits: int = 20) -> None:
        self.counts, self.texts = np.zeros(2**bits, dtype=np.int64), 0

    def add(self, tokens: Words) -> None:
        self.counts[[self.slot(word) for word in set(tokens)]] += 1
        self.texts += 1

    def slot(self, word: str) -> int:
        return zlib.crc32(word.encode()) % len(self.counts)

    def similarity(self, a: Words, b: Words) -> float:
        """Weighted Jaccard similarity of two bags of words, whatever their order, 0 to 1; rare words weigh more."""
        left, right = Counter(a), Counter(b)
        weight = {w: math.log((2 + self.texts) / (1 + self.counts[self.slot(w)])) for w in sorted({*left, *right})}
        union = sum(weight[w] * max(left[w], right[w]) for w in weight)
        return sum(weight[w] * min(left[w], right[w]) for w in weight) / union if union else 1.0


PERMUTATIONS, SHINGLE = 128, 3
_rng = np.random.default_rng(1)
_FACTORS = _rng.integers(0, 2**63, PERMUTATIONS, dtype=np.uint64) * 2 + 1
_SHIFTS = _rng.integers(0, 2**63, PERMUTATIONS, dtype=np.uint64)


def signatures(texts: Iterable[Words]) -> np.ndarray:
    """MinHash signatures (Broder 1997) of the texts' word 3-grams, (N, 128) uint32: equal places estimate Jaccard."""
    padded = [tokens + ("",) * (SHINGLE - len(tokens)) for tokens in texts]  # a shorter text is one shingle
    flat = np.fromiter((zlib.crc32(w.encode()) for tokens in padded for w in tokens), dtype=np.uint64)
    hashes = flat[: len(flat) - SHINGLE + 1].copy()
    for i in range(1, SHINGLE):
        hashes = mix_bits(hashes) + flat[i : len(flat) - SHINGLE + 1 + i]
    ends = np.cumsum([len(tokens) for tokens in padded])
    inside = np.ones(len(flat), dtype=bool)  # a shingle must not reach into the next text
    for i in range(1, SHINGLE):
        inside[ends - i] = False
    hashes = mix_bits(hashes)[inside[: len(hashes)]]
    starts = np.concatenate([[0], np.cumsum([len(tokens) - SHINGLE + 1 for tokens in padded])[:-1]]).astype(np.int64)
    smallest = np.empty((len(padded), PERMUTATIONS), dtype=np.uint32)
    for p in range(PERMUTATIONS):
        smallest[:, p] = np.minimum.reduceat((hashes * _FACTORS[p] + _SHIFTS[p]) >> np.uint64(32), starts)
    return smallest


def mix_bits(x: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele et al. 2014): every input bit changes half of the output bits."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def near_duplicates(signatures: np.ndarray, texts: Sequence[str], threshold: float) -> list[int | None]:
    """For each text the index of the first earlier kept text whose word 3-grams have Jaccard similarity >= threshold.

    Candidates share a band of the signature; bands are as long as they may be to miss less than one pair in a thousand
    at the threshold. Each candidate is confirmed by the exact similarity. Only texts that share a band are indexed:
    beside the signatures, a million distinct texts cost no memory.
    """
    earlier: list[int | None] = [None] * len(texts)
    if threshold >= 1 or len(texts) < 2:
        return earlier
    rows = max(r for r in range(1, 33) if r == 1 or (1 - threshold**r) ** (PERMUTATIONS // r) <= 1e-3)
    keys = np.empty((len(texts), PERMUTATIONS // rows), dtype=np.uint64)
    shared = np.zeros(keys.shape, dtype=bool)
    for band in range(keys.shape[1]):
        key = np.zeros(len(texts), dtype=np.uint64)
        for column in range(band * rows, (band + 1) * rows):
            key = mix_bits(key + signatures[:, column])
        _, index, count = np.unique(key, return_inverse=True, return_counts=True)
        keys[:, band], shared[:, band] = key, count[index] > 1
    buckets: dict[tuple[int, int], list[int]] = defaultdict(list)
    grams: dict[int, set[Words]] = {}

    def shingles(i: int) -> set[Words]:
        if i not in grams:
            if len(grams) > 5_000:
                grams.clear()
            tokens = words(texts[i])
            grams[i] = set(ngrams(tokens, SHINGLE)) or {tokens or (texts[i],)}  # signs only: as they are
        return grams[i]

    for i in np.flatnonzero(shared.any(1)).tolist():
        bands = [(band, int(keys[i, band])) for band in np.flatnonzero(shared[i]).tolist()]
        near = np.array(sorted({j for band in bands for j in buckets.get(band, ())}), dtype=np.int64)
        if len(near):  # four standard errors of the estimate below the threshold
            near = near[(signatures[near] == signatures[i]).mean(1) >= threshold - 4 * math.sqrt(0.25 / PERMUTATIONS)]
        for j in near.tolist():
            a, b = shingles(i), shingles(j)
            if len(a & b) >= threshold * len(a | b):
                earlier[i] = j
                break
        else:
            for bucket in bands:
                buckets[bucket].append(i)
    return earlier


def nearest(vectors: np.ndarray, others: np.ndarray, threshold: float, block: int = 1024) -> Iterator[list[int]]:
    """For each unit vector (N, D) the indices of the others (M, D) whose cosine is >= threshold, nearest first."""
    for start in range(0, len(vectors), block):
        for row in vectors[start : start + block] @ others.T:  # (B, M)
            close = np.flatnonzero(row >= threshold)
            yield close[np.argsort(-row[close], kind="stable")].tolist()


def earlier_neighbours(vectors: np.ndarray, threshold: float, block: int = 1024) -> Iterator[list[int]]:
    """For each unit vector (N, D) the indices of the earlier ones whose cosine is >= threshold."""
    for start in range(0, len(vectors), block):
        cosines = vectors[start : start + block] @ vectors[: start + block].T  # (B, up to N)
        for n, row in enumerate(cosines, start):
            yield np.flatnonzero(row[:n] >= threshold).tolist()
