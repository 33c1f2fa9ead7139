"""Prompts that deserve a refusal, so that the replay set holds what the base refuses (`curate.refusals`).

They are short, generic and ask for nothing that is not forbidden by its name; the base answers them in `respond`, and only its
refusals are kept. Three refusals in a hundred rows of tuning are what kept models safe in Bianchi et al., arXiv 2309.07875.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from holdfast.chat import encoding
from holdfast.core import records, storage
from holdfast.core.errors import UserError
from holdfast.core.rows import RawInstruction
from holdfast.data import balancing
from holdfast.data.instructions import normalise
from holdfast.data.row_checks import FitRows
from holdfast.params.reconstruct import Reconstruct
from holdfast.params.row_checks import REFUSAL_PROMPTS, RowChecks
from holdfast.reconstruction.drawing import Drawn
from holdfast.reconstruction.prompt_files import resolve_below

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPARE = 2  # prompts asked for each refusal that is needed: a base obeys some, and some are evaluation items


def draw_prompts(
    params: Reconstruct, checks: RowChecks, sources: Sequence[Drawn], tokenizer: PreTrainedTokenizerBase, fit: FitRows
) -> Drawn:
    """As many prompts as the floor may need beside the fit rows of `sources`, in an order drawn by the seed.

    Raises UserError where there is no such file, or it has no line.
    """
    path = resolve_below(params.folder, REFUSAL_PROMPTS, "folder")
    lines = list(enumerate(map(normalise, path.read_text(encoding="utf-8").split("\n")), start=1))
    prompts = [(line, text) for line, text in lines if text]
    if not prompts:
        raise UserError("no prompt in the file", where=path, do="write one per line, or set curate.refusals: 0")
    revision = storage.file_sha256(path)
    wanted = SPARE * balancing.count_refusals(checks.refusals, sum(len(source.fit_rows) for source in sources))
    ids = {line: records.text_id(params.seed, revision, line, text) for line, text in prompts}
    first = sum(len(source.rows) for source in sources)  # the number of the first row
    rows: list[RawInstruction] = []
    rejected: Counter[str] = Counter()
    for line, text in sorted(prompts, key=lambda prompt: ids[prompt[0]]):
        if len(rows) == wanted:
            break
        row: RawInstruction = {
            "id": f"{first + len(rows):08d}-{ids[line]}",
            "family": "refusals",
            "context": [],
            "text": text,
            "finish_reason": "stop",
            "n_tokens": len(encoding.tokenise(tokenizer, text)),
            "temperature": None,
            "top_p": None,
            "sample": line,
            "seed": params.seed,
            "model": REFUSAL_PROMPTS,
            "revision": revision,
        }
        if reason := fit.reason_against(row):
            rejected[reason] += 1
        else:
            rows.append(row)
    details = {"read": len(prompts), "revision": revision}
    return Drawn("refusals", rows, rows, wanted, rejected, details, counts=False)
