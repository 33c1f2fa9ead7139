"""Which rows are the test split, and which training rows ask what a test row asks.

What a test row asks is its whole context: every turn before its last answer, letter case and whitespace aside. A training
row overlaps with it when it answers that context anywhere, at its end or on the way. Turns that many chats share ("Thanks!",
"Go on.") make no overlap by themselves. Where the test split is split off, near-duplicate conversations stay on one side;
of two files that are given, training rows that are near-duplicates of a test row are found.
"""

from __future__ import annotations

import hashlib
import itertools
import zlib
from array import array
from collections.abc import Iterator, Sequence

import numpy as np

from holdfast.core import records
from holdfast.data.overlap import SHINGLE, mix_bits, words
from holdfast.data.turns import Turn

BANDS, ROWS = 8, 4  # of MinHash: misses 1.5 % of the pairs with a similarity of 0.8, 0.02 % of those with 0.9
BLOCK = 2**22  # hashes that are looked up at once
TABLE_BITS = 24  # word 3-grams are counted in a table of this size
MAX_HEADS = 8  # of the rows with one key, so many of the first are compared with the others
MIN_COMMON, COMMON_PART = (
    10,
    0.01,
)  # a 3-gram in more rows than this number and this part of them is phrasing, no evidence


def contexts(turns: Sequence[Turn]) -> tuple[int, ...]:
    """A hash of the turns before each of the assistant's, the last one last; a context that occurs twice counts once."""
    hashes, so_far, last = [], hashlib.blake2b(digest_size=8), len(turns) - 1
    for n, turn in enumerate(turns):
        if turn["role"] == "assistant" and n:
            hashes.append(int.from_bytes(so_far.digest(), "big"))
            if n == last:
                break
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


def near_pairs(texts: Iterator[str], threshold: float, anchors: int = 0) -> Iterator[tuple[int, int]]:
    """Pairs of rows with a Jaccard similarity >= threshold of the word 3-grams that few rows share.

    With `anchors`, only pairs of one of the first so many rows and one of the others.
    """
    hashes, ends = hash_shingles(texts)
    if len(ends) < 2:
        return
    hashes, ends = drop_phrasing(hashes, ends)
    starts = np.concatenate([[0], ends[:-1]])
    rows = np.flatnonzero(ends > starts)  # the others hold phrasing alone
    if len(rows) < 2:
        return

    def shingles(row: int) -> set[int]:
        return set(hashes[starts[row] : ends[row]].tolist())

    for band in range(BANDS):
        key = hash_band(hashes, starts[rows], band)
        order = np.argsort(key, kind="stable")
        same = np.flatnonzero(key[order][1:] == key[order][:-1])
        for run in np.split(same, np.flatnonzero(np.diff(same) > 1) + 1) if len(same) else ():
            bucket = rows[order[run[0] : run[-1] + 2]].tolist()  # rows of one key, in their order
            heads = [row for row in bucket if row < anchors][:MAX_HEADS] if anchors else bucket[:1]
            for a in heads:
                one = shingles(a)
                for b in bucket:
                    if b > a and b >= anchors and len(one & (other := shingles(b))) >= threshold * len(one | other):
                        yield a, b


def drop_phrasing(hashes: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(those hashes that few texts have, where each text ends among them). The first array is overwritten: at a million rows it
    is the largest thing in memory."""
    table, shift = np.zeros(2**TABLE_BITS, dtype=np.int32), np.uint32(32 - TABLE_BITS)
    blocks = range(0, len(hashes), BLOCK)
    for start in blocks:
        np.add.at(table, hashes[start : start + BLOCK] >> shift, np.int32(1))
    few = table <= max(MIN_COMMON, COMMON_PART * len(ends))
    new_ends, written = np.empty(len(ends), dtype=np.int64), 0
    for start in blocks:
        block = hashes[start : start + BLOCK]
        rare = few[block >> shift]
        first, last = np.searchsorted(ends, [start, start + len(block)], side="right")  # texts that end in this block
        new_ends[first:last] = written + np.cumsum(rare)[ends[first:last] - start - 1]
        chosen = block[rare]
        hashes[written : written + len(chosen)] = chosen
        written += len(chosen)
    return hashes[:written], new_ends


def find_copies(test: Iterator[str], train: Iterator[str], threshold: float) -> set[int]:
    """The training rows (by number) that are near-duplicates of a test row."""
    tests = list(test)
    pairs = near_pairs(itertools.chain(tests, train), threshold, len(tests)) if threshold < 1 and tests else ()
    return {row - len(tests) for _, row in pairs}


def hash_band(hashes: np.ndarray, starts: np.ndarray, band: int) -> np.ndarray:
    """A hash of the smallest 3-grams of each text under the permutations of one band, (N,) uint64."""
    key = np.zeros(len(starts), dtype=np.uint64)
    cuts = np.searchsorted(starts, np.arange(BLOCK, len(hashes), BLOCK))  # texts by the block they begin in
    for texts in np.split(np.arange(len(starts)), cuts):
        if not len(texts):
            continue
        end = starts[texts[-1] + 1] if texts[-1] + 1 < len(starts) else len(hashes)
        block, inside = hashes[starts[texts[0]] : end], starts[texts] - starts[texts[0]]
        part = np.zeros(len(texts), dtype=np.uint64)
        for n in range(band * ROWS, (band + 1) * ROWS):
            numbers = mix_bits(np.array([2 * n + 1, 2 * n + 2], dtype=np.uint64)) >> np.uint64(32)
            factor, shift = numbers.astype(np.uint32)
            part = mix_bits(part + np.minimum.reduceat(block * (factor | np.uint32(1)) + shift, inside))
        key[texts] = part
    return key


def hash_shingles(texts: Iterator[str], chunk: int = 4_096) -> tuple[np.ndarray, np.ndarray]:
    """(hashes (uint32) of the distinct word 3-grams of all texts, one text after the other; where each text ends)."""
    hashed, lengths = array("I"), []  # it grows in place: parts that are joined in the end are twice as much
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
        hashed.frombytes((hashes[new] >> np.uint64(32)).astype(np.uint32).tobytes())
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
    if not lengths:
        return np.empty(0, dtype=np.uint32), np.empty(0, dtype=np.int64)
    return np.frombuffer(hashed, dtype=np.uint32), np.cumsum(np.concatenate(lengths))
