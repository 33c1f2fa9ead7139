"""holdfast code: writes .holdfast/code/STAGE, what code each stage can reach (holdfast/core/fingerprint.py), and
models/sources.json, the hashes of local models (holdfast/engines/model_files.py).
"""

from __future__ import annotations

import gc
import hashlib
import json
from contextlib import suppress
from pathlib import Path

from holdfast.commands.run import NO_COSTS, STAGES
from holdfast.core import fingerprint, storage
from holdfast.core.errors import UserError, first_line

CODE = Path(".holdfast/code")
LEDGER = fingerprint.PACKAGE / "core" / "ledger.py"
PARSED = Path(".cache/code.json")  # what parsing said of each module, which takes most of the time of `holdfast code`
MAX_PARSED = 2000  # modules, about 1 kB each; edits leave former ones behind, and past this number all are dropped


def write_code() -> None:
    """Writes one file a stage: a line for each module that it can reach, with its hash. And the hashes of local models."""
    from holdfast.engines import model_files

    gc.disable()  # syntax trees hold no cycles, and the collector would walk through each of them again and again
    model_files.write_sources()
    before = read_parsed()
    fingerprint.parsed |= before
    with storage.replacing_folder(CODE) as folder:
        known: fingerprint.Reach = {}
        for file in sorted(STAGES.glob("*.py")):
            (folder / file.stem).write_text(describe_code(file, known=known), encoding="utf-8")
    if fingerprint.parsed.keys() != before.keys():
        with suppress(OSError):  # the next run parses again
            save_parsed(fingerprint.parsed)


def read_parsed() -> dict[bytes, fingerprint.Source]:
    """What `save_parsed` wrote; nothing where the file is damaged, altered, or of other code that parses."""
    try:
        content = json.loads(PARSED.read_text(encoding="utf-8"))
        if content["sha256"] != hash_parsed(content["modules"]) or len(content["modules"]) > MAX_PARSED:
            return {}
        return {
            bytes.fromhex(key): fingerprint.Source(
                code, frozenset((dots, name) for dots, name in imports), frozenset(beside)
            )
            for key, (code, imports, beside) in content["modules"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def save_parsed(parsed: dict[bytes, fingerprint.Source]) -> None:
    modules = {
        key.hex(): [source.hash, sorted(source.imports), sorted(source.beside)] for key, source in parsed.items()
    }
    PARSED.parent.mkdir(parents=True, exist_ok=True)
    storage.write_text(PARSED, json.dumps({"modules": modules, "sha256": hash_parsed(modules)}))


def hash_parsed(modules: object) -> str:
    """Of what was parsed together with the code that parsed it."""
    code = Path(fingerprint.__file__).read_bytes()
    return hashlib.sha256(code + json.dumps(modules, sort_keys=True).encode()).hexdigest()


def describe_code(script: Path, root: Path = Path(), known: fingerprint.Reach | None = None) -> str:
    """What `write_code` writes for a stage script of the project in `root`. Raises UserError where a module cannot be parsed."""
    try:
        modules = fingerprint.of_file(script, root, known)
        if script.stem not in NO_COSTS:  # the stage's costs are an output too
            modules = dict(sorted((modules | fingerprint.of_file(LEDGER, root, known)).items()))
    except SyntaxError as error:
        where = f"{error.filename or script}, line {error.lineno}"
        raise UserError(error.msg, where=where, do="fix it, or take back the edit") from None
    except ValueError as error:  # bytes that are no UTF-8, or NUL
        raise UserError(
            f"is not readable Python ({first_line(error)})", where=script, do="take back the edit"
        ) from None
    return "".join(f"{name} {code}\n" for name, code in modules.items())


def refuse_other_code(stage: str) -> None:
    """Raises UserError where a stage can reach other code than `holdfast code` wrote down for it, which is what DVC records."""
    file = CODE / stage
    if not file.is_file():
        return
    fingerprint.parsed.update(read_parsed())
    written, present = (
        set(text.splitlines()) for text in (file.read_text("utf-8"), describe_code(STAGES / f"{stage}.py"))
    )
    if written != present:
        names = sorted({line.partition(" ")[0] for line in written ^ present})
        what = f"{', '.join(names[:3])}{' ...' if len(names) > 3 else ''} was edited after `holdfast code` looked at it"
        do = "run `dvc repro` again, which looks first; what is written now is not recorded, and is made anew"
        raise UserError(what, where=f"stage {stage}", do=do)
