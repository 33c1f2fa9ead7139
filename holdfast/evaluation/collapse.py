"""Answers that are none: stuck in a loop, in the manner of the domain whatever was asked, or the same whatever was asked.

A loop is one whoever wrote it, the base included. The other two are looked for beside the base's own answer to the same
instruction, and what is equal to that is neither. No model is asked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np

from holdfast.data import overlap

FOLDS = 5
MIN_ANSWERS = 20  # of the base and of the domain: from fewer no manner can be learnt
MAX_ANSWERS = 2000  # of the domain, evenly spaced: more teach no more
FALSE_ALARMS = (
    0.01  # part of the base's own answers that look more like the domain's than an answer must to count as such
)
LOOP = 0.5  # part of an answer that one repeated 3-gram, or a loop, covers (as curate.max_repetition)
SAME = 0.05  # part of all instructions that get one and the same answer where the base gave others
Sign = Literal["", "domain", "loop", "same"]


def find_signs(base: Sequence[str], written: Sequence[str], domain: Sequence[str]) -> list[Sign]:
    """What is wrong with each written answer; "" where nothing is. base[i] and written[i] answer one instruction; `domain`
    are answers that a model was trained to give to other questions."""
    ours, theirs = ([" ".join(text.split()) for text in texts] for texts in (written, base))
    likeness, likeness_of_base = domain_likeness(theirs, [ours, theirs], domain)
    threshold = max([0.5, *np.quantile(likeness_of_base, [1 - FALSE_ALARMS], method="higher")] if theirs else [1.0])
    others = Counter(one for one, other in zip(ours, theirs, strict=True) if one != other)
    signs: list[Sign] = []
    for n, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        if overlap.repetition(one) > LOOP:
            signs.append("loop")
        elif one == other:
            signs.append("")
        elif likeness[n] > max(threshold, likeness_of_base[n]):
            signs.append("domain")
        else:
            signs.append("same" if others[one] > max(1.0, SAME * len(ours)) else "")
    return signs


def domain_likeness(base: Sequence[str], groups: Sequence[Sequence[str]], domain: Sequence[str]) -> list[np.ndarray]:
    """For each group of answers, one to each instruction, the probability that it belongs to the domain's and not to the base's. (N,) each

    Logistic regression on character 1- to 4-grams, both sides weighing the same. Answer i of each group is judged by a
    model that has not seen the base's answer i (cross-fitting). Zeros where a side has too few answers to learn from.
    """
    likenesses = [np.zeros(len(base)) for _ in groups]
    if min(len(base), len(domain)) < MIN_ANSWERS:
        return likenesses
    from scipy.sparse import vstack
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    number = min(MAX_ANSWERS, len(domain))
    domain = [domain[n * len(domain) // number] for n in range(number)]
    vectoriser = TfidfVectorizer(analyzer="char", ngram_range=(1, 4), sublinear_tf=True, lowercase=False)
    vectoriser.fit([*base, *domain])
    of_base, of_domain = vectoriser.transform(base), vectoriser.transform(domain)
    of_groups = [vectoriser.transform(group) for group in groups]
    folds = np.arange(len(base)) % FOLDS
    for fold in range(FOLDS):
        seen = of_base[folds != fold]
        labels = np.repeat([0, 1], [seen.shape[0], number])
        model = LogisticRegression(C=10.0, class_weight="balanced", max_iter=1000).fit(
            vstack([seen, of_domain]), labels
        )
        for group, likeness in zip(of_groups, likenesses, strict=True):
            likeness[folds == fold] = model.predict_proba(group[folds == fold])[:, 1]
    return likenesses
