"""YAML that is deep, or grows by its aliases: (text, what is said of it) by kind."""

from __future__ import annotations

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)
MERGES = "m0: &m0 {a: 1}\n" + "".join(f"m{n}: &m{n} {{<<: [{', '.join([f'*m{n - 1}'] * 9)}]}}\n" for n in range(1, 12))
BOMBS = {
    "billion laughs": (LAUGHS, "stand for more than 100,000 values"),
    "merged": (MERGES, "stand for more than 100,000 values"),
    "in one line": ("a: [&a [x, x, x], " + ", ".join(f"&{n} [*{p}, *{p}, *{p}]" for p, n in zip("abcdefghijkl", "bcdefghijklm", strict=True)) + "]\n", "100,000"),
    "itself": ("a: &a [1, *a]\n", "*a stands for itself"),
    "itself in a mapping": ("a: &a {b: {c: *a}}\n", "*a stands for itself"),
    "lists": ("a: " + "[" * 5000 + "]" * 5000 + "\n", "nested more than 64 deep"),
    "lists without end": ("[" * 5000, "nested more than 64 deep"),
    "mappings": ("a: " + "{a: " * 5000 + "1" + "}" * 5000 + "\n", "nested more than 64 deep"),
    "blocks": ("".join(" " * n + "a:\n" for n in range(1000)), "nested more than 64 deep"),
    "dashes": ("- " * 5000, "nested more than 64 deep"),
}  # fmt: skip
