"""What `curate`'s filters by meaning catch and what they wrongly reject, where the truth is known: on the pocket lab.

    python -m benchmarks.lab.meaning        (about a minute)

Clean rows are questions of the pocket world, each about something else. Planted among them are the same questions in
another wording, of evaluation items and of earlier rows. Prints, for the filters off and at several cosine thresholds and
amounts of shared words, the part of the planted rows that is rejected, and of the clean ones.
"""

from __future__ import annotations

import contextlib
import io
import random
import tempfile
from pathlib import Path

import pyarrow as pa

from benchmarks.speed.curate import raw_rows, write_suite
from holdfast.core import manifest
from holdfast.data import clustering, screening
from holdfast.data.row_checks import RowChecker
from holdfast.engines import embedder
from holdfast.engines.inspection import inspect_model
from holdfast.evaluation import suites
from holdfast.params.curate import Curate
from holdfast.params.models import Model
from holdfast.pocket import fidelity, recipe, world

ROOT = Path(__file__).resolve().parents[2]

CLEAN, PLANTED = 3000, 200
WORDINGS = {skill: wordings for skill, _, wordings, _ in fidelity.WORDINGS}


def read(prompt: str) -> tuple[str, dict[str, str]] | None:
    """(skill, what the question is about), or None for skills that have one wording only."""
    for skill, pattern, _ in fidelity.FORMS:
        if skill in WORDINGS and (found := pattern.fullmatch(prompt)):
            return skill, found.groupdict()
    return None


def reword(prompt: str, rng: random.Random) -> str | None:
    """The same question in another wording of the world."""
    if not (found := read(prompt)):
        return None
    others = [text for wording in WORDINGS[found[0]] if (text := wording.format(**found[1])) != prompt]
    return rng.choice(others)


def plant(rng: random.Random) -> tuple[dict[str, str], list[str]]:
    """(rows by id, evaluation items): ids tell clean rows from reworded items and reworded rows."""
    items = [item.prompt for skill in world.GENERAL for item in world.evaluation_items(skill, 120, "meaning")]
    about = {str(read(item)) for item in items}
    clean: dict[str, str] = {}
    for item in world.draw(fidelity.true_mixture(), 20 * CLEAN, "meaning", recipe.LACKS["base"]):
        found = read(item.prompt)
        if str(found or item.prompt) not in about and len(clean) < CLEAN:
            about.add(str(found or item.prompt))
            clean[f"clean-{len(clean):04d}"] = item.prompt
    rows = dict(clean)
    for kind, source in (("item", items), ("row", list(clean.values()))):
        texts = [text for prompt in rng.sample(source, len(source)) if (text := reword(prompt, rng))]
        rows |= {f"zz-{kind}-{n:03d}": text for n, text in enumerate(texts[:PLANTED])}  # after what they repeat
    return rows, items


def reject(raw: pa.Table, items: dict[str, list[str]], base: manifest.Manifest, params: Curate) -> set[str]:
    """Ids of the rows that the steps of stages/curate.py reject."""
    checked = screening.ScreenedRows(raw)
    screening.reject_unfit_rows(checked, RowChecker(params, manifest.load_tokenizer(base.folder()), base.name))
    screening.reject_copies_and_overlap(checked, items, params)
    screening.reject_near_duplicates(checked, items, params)
    clustering.cluster_by_meaning(checked, items, embedder.load_embedder(base, params.batch), params)
    return {checked.ids[row] for row in checked.faults}


def main() -> None:
    rows, items = plant(random.Random(1))
    kinds = {"reworded items": "zz-item", "reworded rows": "zz-row", "clean rows": "clean"}
    print(f"{'cosine':>8}{'words':>8}" + "".join(f"{kind:>18}" for kind in kinds))
    raw = raw_rows(list(rows), list(rows.values()))
    base = inspect_model("base", Model(path="base"), ROOT / "models" / "pocket")
    with tempfile.TemporaryDirectory() as name:
        by_suite = suites.prompts(write_suite(Path(name) / "suites", items), Path(name) / "none")
        for cosine, shared in ((1.0, 0.5), *((c, s) for s in (0.3, 0.5, 0.7) for c in (0.8, 0.9, 0.95, 0.98))):
            clustering.MIN_SHARED_WORDS = shared
            params = Curate(near_duplicate=0.9, clusters=24, near_meaning=cosine, overlap_meaning=cosine)
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                rejected = reject(raw, by_suite, base, params)
            parts = []
            for start in kinds.values():
                members = [id for id in rows if id.startswith(start)]
                parts.append(sum(id in rejected for id in members) / len(members))
            print(f"{'off' if cosine == 1 else cosine:>8}{shared:>8}" + "".join(f"{part:>18.3f}" for part in parts))


if __name__ == "__main__":
    main()
