"""Which rows are the test split, and which training rows ask what a test row asks.

What a test row asks is its whole context: every turn before its last answer, letter case and whitespace aside. A training
row overlaps with it when it answers that context anywhere, at its end or on the way. Turns that many chats share ("Thanks!",
"Go on.") make no overlap by themselves. Where the test split is split off, near-duplicate conversations stay on one side.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Sequence

import numpy as np

from holdfast.core import records
from holdfast.data.overlap import SHINGLE, mix_bits, words
from holdfast.data.turns import Turn

BANDS, ROWS = 8, 4  # of MinHash: misses 1.5 % of the pairs with a similarity of 0.8, 0.02 % of those with 0.9
BLOCK = 2**22  # hashes that are looked up at once
TABLE_BITS = 24  # word 3-grams are counted in a table of this size
MIN_COMMON, COMMON_PART = (
    10,
    0.01,
)  # a 3-gram in more rows than this number and this part of them is phrasing, no evidence


def contexts(turns: Sequence[Turn]) -> tuple[int, ...]:
    """A hash of the turns before each of the assistant's, the last one last; a context that occurs twice counts once."""
    hashes, so_far = [], hashlib.blake2b(digest_size=8)
    for n, turn in enumerate(turns):
        if turn["role"] == "assistant" and n:
            hashes.append(int.from_bytes(so_far.digest(), "big"))
        so_far.update(f"{turn['role']}\x1e{' '.join(turn['content'].casefold().split())}\x1f".encode())
        if "tool_calls" in turn:
            so_far.update(str(turn["tool_calls"]).encode())
    return tuple(hashes)


def find_groups(
    rows: Sequence[tuple[int, ...]], keys: Sequence[str], texts: Iterator[str], threshold: float
) -> list[list[int]]:
    """Rows (by number) that have to stay on one side: equal context, equal key (if not ""), or near-duplicates."""
    parent = list(range(len(rows)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    first: dict[object, int] = {}
    for i, row in enumerate(rows):
        for same in (row[-1], *([keys[i]] if keys[i] else [])):
            parent[root(i)] = root(first.setdefault(same, i))
    for i, j in near_pairs(texts, threshold) if threshold < 1 else ():
        parent[root(j)] = root(i)
    groups: dict[int, list[int]] = {}
    for i in range(len(rows)):
        groups.setdefault(root(i), []).append(i)
    return list(groups.values())


def choose_test(rows: Sequence[tuple[int, ...]], groups: list[list[int]], fraction: float, seed: int) -> set[int]:
    """The rows (by number) of the test split: whole groups, near `fraction` of all rows, and never all groups.

    Groups whose context is an earlier part of other conversations go last: those would overlap with them. Equal rows and
    seed give an equal split in any order.
    """
    earlier = {context for row in rows for context in row[:-1]}
    order = sorted(
        (
            any(rows[i][-1] in earlier for i in group),
            min(records.text_id(seed, *map(str, rows[i])) for i in group),
            number,
        )
        for number, group in enumerate(groups)
    )
    wanted, test = max(1, round(fraction * len(rows))), set[int]()
    left = len(groups)
    for overlaps, _, number in order:
        if left > 1 and len(test) + len(groups[number]) <= wanted and not (overlaps and test):
            test |= set(groups[number])
            left -= 1
    smallest: list[int] = min(groups, key=len)
    return test or set(smallest)


def near_pairs(texts: Iterator[str], threshold: float) -> Iterator[tuple[int, int]]:
    """Pairs of rows with a Jaccard similarity >= threshold of the word 3-grams that few rows share."""
    hashes, ends = hash_shingles(texts)
    if len(ends) < 2:
        return
    table = np.zeros(2**TABLE_BITS, dtype=np.int32)
    blocks = [slice(start, start + BLOCK) for start in range(0, len(hashes), BLOCK)]
    for block in blocks:
        table += np.bincount(hashes[block] >> np.uint32(32 - TABLE_BITS), minlength=2**TABLE_BITS).astype(np.int32)
    few = table <= max(MIN_COMMON, COMMON_PART * len(ends))
    rare = np.concatenate([few[hashes[block] >> np.uint32(32 - TABLE_BITS)] for block in blocks])
    del table, few
    kept = np.concatenate([[0], np.cumsum(rare)])[ends]
    hashes, starts = hashes[rare], np.concatenate([[0], kept[:-1]])
    rows = np.flatnonzero(kept > starts)  # the others hold phrasing alone
    if len(rows) < 2:
        return

    def shingles(row: int) -> set[int]:
        return set(hashes[starts[row] : kept[row]].tolist())

    for band in range(BANDS):
        key = hash_band(hashes, starts[rows], band)
        order = np.argsort(key, kind="stable")
        first = -1
        for at in np.flatnonzero(key[order][1:] == key[order][:-1]).tolist():
            if first < 0 or key[order[at]] != key[first]:
                first = int(order[at])
            a, b = int(rows[first]), int(rows[order[at + 1]])
            one, other = shingles(a), shingles(b)
            if len(one & other) >= threshold * len(one | other):
                yield a, b


def hash_band(hashes: np.ndarray, starts: np.ndarray, band: int) -> np.ndarray:
    """A hash of the smallest 3-grams of each text under the permutations of one band, (N,) uint64."""
    key = np.zeros(len(starts), dtype=np.uint64)
    for n in range(band * ROWS, (band + 1) * ROWS):
        factor, shift = (mix_bits(np.array([2 * n + 1, 2 * n + 2], dtype=np.uint64)) >> np.uint64(32)).astype(np.uint32)
        permuted = hashes * (factor | np.uint32(1))
        permuted += shift
        key = mix_bits(key + np.minimum.reduceat(permuted, starts))
    return key


def hash_shingles(texts: Iterator[str], chunk: int = 16_384) -> tuple[np.ndarray, np.ndarray]:
    """(hashes (uint32) of the distinct word 3-grams of all texts, one text after the other; where each text ends)."""
    parts, lengths = [], []
    flat: list[int] = []
    sizes: list[int] = []

    def flush() -> None:
        codes, ends = np.array(flat, dtype=np.uint64), np.cumsum(sizes, dtype=np.int64)
        hashes = codes[: max(0, len(codes) - SHINGLE + 1)].copy()
        for i in range(1, SHINGLE):
            hashes = mix_bits(hashes) + codes[i : len(codes) - SHINGLE + 1 + i]
        inside = np.ones(len(codes), dtype=bool)
        for i in range(1, SHINGLE):
            inside[ends - i] = False
        owner = np.repeat(np.arange(len(sizes)), sizes)
        hashes, owner = mix_bits(hashes)[inside[: len(hashes)]], owner[inside]
        order = np.lexsort((hashes, owner))
        hashes, owner = hashes[order], owner[order]
        new = np.ones(len(hashes), dtype=bool)
        new[1:] = (hashes[1:] != hashes[:-1]) | (owner[1:] != owner[:-1])
        parts.append((hashes[new] >> np.uint64(32)).astype(np.uint32))
        lengths.append(np.bincount(owner[new], minlength=len(sizes)))
        flat.clear()
        sizes.clear()

    for text in texts:
        tokens = [zlib.crc32(word.encode()) for word in words(text)]
        tokens += [0] * (SHINGLE - len(tokens))  # a shorter text is one shingle
        flat += tokens
        sizes.append(len(tokens))
        if len(sizes) == chunk:
            flush()
    if sizes:
        flush()
    if not parts:
        return np.empty(0, dtype=np.uint32), np.empty(0, dtype=np.int64)
    return np.concatenate(parts), np.cumsum(np.concatenate(lengths))
