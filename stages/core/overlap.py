"""Closeness of texts: exact, near (MinHash), and to evaluation items (shared word n-grams).

Pure functions over lists of strings; words are what remains after case, accents of punctuation and spacing are ignored.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

WORD = re.compile(r"\w+|[+\-*/=<>%^]")  # signs count: "7 + 2" and "7 - 2" are different questions
SHORTEST = 4  # words; a shorter evaluation item counts only when it is the whole text


def words(text: str) -> tuple[str, ...]:
    return tuple(WORD.findall(unicodedata.normalize("NFKC", text).casefold()))


def ngrams(tokens: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """The distinct n-grams in the order of the text: a set of strings is ordered anew in every process."""
    return list(dict.fromkeys(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)))


def repetition(text: str, n: int = 3) -> float:
    """Part of a text's word n-grams that the most frequent one makes up, 0 for texts under four n-grams."""
    tokens = words(text)
    grams = Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))
    total = sum(grams.values())
    return max(grams.values()) / total if total >= 4 else 0.0


class EvaluationIndex:
    """Finds texts that are, contain, or share a long n-gram with an evaluation item.

    An n-gram that stands in more than `common` items is the phrasing of a task and tells nothing (the GPT-3 paper,
    arXiv 2005.14165, appendix C, ignores frequent n-grams in the same way).
    """

    def __init__(self, suites: Mapping[str, Iterable[str]], n: int, common: int) -> None:
        self.n = n
        self.whole: dict[tuple[str, ...], str] = {}
        self.short: dict[tuple[str, ...], str] = {}
        found: dict[tuple[str, ...], str] = {}
        frequency: Counter[tuple[str, ...]] = Counter()
        for suite, texts in suites.items():
            for text in texts:
                tokens = words(text)
                self.whole.setdefault(tokens, suite)
                if SHORTEST <= len(tokens) < n:
                    self.short.setdefault(tokens, suite)
                grams = ngrams(tokens, n)
                frequency.update(grams)
                for gram in grams:
                    found.setdefault(gram, suite)
        self.grams = {gram: suite for gram, suite in found.items() if frequency[gram] <= common}
        self.lengths = sorted({len(tokens) for tokens in self.short})

    def match(self, text: str) -> tuple[str, str] | None:
        """(suite, how) of the first evaluation item that the text is too close to, or None."""
        tokens = words(text)
        if suite := self.whole.get(tokens):
            return suite, "the item itself"
        for length in self.lengths:
            for gram in ngrams(tokens, length):
                if suite := self.short.get(gram):
                    return suite, f"contains the item: {' '.join(gram)}"
        for gram in ngrams(tokens, self.n):
            if suite := self.grams.get(gram):
                return suite, f"shares {self.n} words: {' '.join(gram)}"
        return None


def near_duplicates(texts: Sequence[str], threshold: float, n: int = 3) -> list[int | None]:
    """For each text the index of an earlier kept text whose word n-grams have Jaccard similarity >= threshold.

    Candidates by MinHash LSH (Broder 1997; datasketch), each confirmed by the exact similarity. The net is cast 0.3 wider
    than the threshold: cast at 0.1, it missed 14 of 100 pairs of similarity 0.81.
    """
    from datasketch import MinHash, MinHashLSH

    if threshold >= 1:
        return [None] * len(texts)
    lsh = MinHashLSH(threshold=max(threshold - 0.3, 0.05), num_perm=64)
    kept: dict[int, set[tuple[str, ...]]] = {}
    found: list[int | None] = []
    for i, text in enumerate(texts):
        tokens = words(text)
        grams = set(ngrams(tokens, n)) or {tokens}
        sketch = MinHash(num_perm=64, seed=1)
        sketch.update_batch([" ".join(gram).encode() for gram in sorted(grams)])
        close = [j for j in sorted(lsh.query(sketch)) if len(grams & kept[j]) >= threshold * len(grams | kept[j])]
        found.append(close[0] if close else None)
        if not close:
            lsh.insert(i, sketch)
            kept[i] = grams
    return found
