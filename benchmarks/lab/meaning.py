"""What `curate`'s filters by meaning catch and what they wrongly reject, where the truth is known: on the pocket lab.

    python benchmarks/meaning.py        (about a minute)

Clean rows are questions of the pocket world, each about something else. Planted among them are the same questions in
another wording, of evaluation items and of earlier rows. Prints, for the filters off and at several cosine thresholds and
amounts of shared words, the part of the planted rows that is rejected, and of the clean ones.
"""

from __future__ import annotations

import contextlib
import io
import random
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import fidelity  # noqa: E402
from curate import raw_rows, write_suite  # noqa: E402

from holdfast.core import manifest, records  # noqa: E402
from holdfast.data import screening  # noqa: E402
from holdfast.engines.inspection import inspect  # noqa: E402
from holdfast.params.curate import Curate  # noqa: E402
from holdfast.params.models import Model  # noqa: E402
from holdfast.pocket import recipe, world  # noqa: E402

CLEAN, PLANTED = 3000, 200
WORDINGS = {skill: wordings for skill, _, wordings, _ in fidelity.WORDINGS}


def read(prompt: str) -> tuple[str, dict[str, str]] | None:
    """(skill, what the question is about), or None for skills that have one wording only."""
    for skill, pattern, _ in fidelity.FORMS:
        if skill in WORDINGS and (found := pattern.fullmatch(prompt)):
            return skill, found.groupdict()
    return None


def reworded(prompt: str, rng: random.Random) -> str | None:
    """The same question in another wording of the world."""
    if not (found := read(prompt)):
        return None
    others = [text for wording in WORDINGS[found[0]] if (text := wording.format(**found[1])) != prompt]
    return rng.choice(others)


def planted(rng: random.Random) -> tuple[dict[str, str], list[str]]:
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
        texts = [text for prompt in rng.sample(source, len(source)) if (text := reworded(prompt, rng))]
        rows |= {f"zz-{kind}-{n:03d}": text for n, text in enumerate(texts[:PLANTED])}  # after what they repeat
    return rows, items


def main() -> None:
    rows, items = planted(random.Random(1))
    kinds = {"reworded items": "zz-item", "reworded rows": "zz-row", "clean rows": "clean"}
    print(f"{'cosine':>8}{'words':>8}" + "".join(f"{kind:>18}" for kind in kinds))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        records.write_table("instructions_raw", folder / "raw.parquet", raw_rows(list(rows), list(rows.values())))
        asked = write_suite(folder / "suites", items)
        manifest.save(inspect("base", Model(path="base"), ROOT / "models" / "pocket"), base := folder / "base.json")
        for cosine, shared in ((1.0, 0.5), *((c, s) for s in (0.3, 0.5, 0.7) for c in (0.8, 0.9, 0.95, 0.98))):
            screening.SAME_WORDS = shared
            knobs = Curate(near_duplicate=0.9, clusters=24, near_meaning=cosine, overlap_meaning=cosine)
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                screening.main(knobs, asked, base, base, folder / "none", folder, folder / "curate.json")
            rejected = set(records.read_table("instructions_rejected", folder / "rejected.parquet")["id"].to_pylist())
            parts = []
            for start in kinds.values():
                members = [id for id in rows if id.startswith(start)]
                parts.append(sum(id in rejected for id in members) / len(members))
            print(f"{'off' if cosine == 1 else cosine:>8}{shared:>8}" + "".join(f"{part:>18.3f}" for part in parts))


if __name__ == "__main__":
    main()
