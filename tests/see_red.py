"""Shows that the tests of docs/security.md can fail: takes one guard after the other out of a copy of this checkout, and runs the
test that is to notice. Not part of the suite.

    python tests/see_red.py [WORD]      only guards whose name holds the word; ten minutes for all

Exit code 1 where a test stays green without its guard, or a guard is not where it is said to be.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
SECONDS, MEMORY = 120, 12 << 30  # of one run of tests: without their guards, some would never end


class Guard(NamedTuple):
    name: str
    file: str
    line: str  # as it stands there, once
    without: str  # what takes its place
    tests: str  # arguments of pytest


GUARDS = [
    Guard("tensors that are missing or left over", "holdfast/core/exact_loading.py", "    refuse_other_keys(info, folder)\n", "", "tests/core/test_checkpoint.py -k refused"),
    Guard("NaN among the weights", "holdfast/core/checkpoint.py", "    return tensor.numel() == 0 or all(", "    return True or all(", "tests/engines/test_acquire.py tests/core/test_checkpoint.py -k 'nan or finite or unusable'"),
    Guard("absurd numbers in config.json", "holdfast/core/checkpoint.py", "        check_numbers(content)\n", "", "tests/core/test_checkpoint.py -k refused"),
    Guard("params.yaml or inputs edited", "holdfast/commands/inputs.py", "    if before is None:\n        return\n", "    return\n", "tests/commands/test_run.py"),
    Guard("code edited", "holdfast/commands/code.py", "    if not file.is_file():\n        return\n    fingerprint", "    return\n    fingerprint", "tests/commands/test_run.py -k code"),
    Guard("lock of a training", "holdfast/core/locks.py", "            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)\n        except Blocking", "            pass\n        except Blocking", "tests/core/test_lock_files.py"),
    Guard("lock of a training, between processes", "holdfast/training/fine_tuning.py", "    with locks.hold_lock(folder.with_name(f\"{folder.name}.lock\"), f\"finetune, arm '{arm}'\"):", "    if True:", "tests/training/test_training.py -k second_run"),
    Guard("lock on a disk without locks", "holdfast/core/locks.py", "            if not has_ended(holder):", "            if False:", "tests/core/test_lock_files.py"),
    Guard("checksum of a shard", "holdfast/core/shards.py", 'shard.pop("sha256") == shard_digest(shard, file)', 'bool(shard.pop("sha256"))', "tests/core/test_cache.py tests/core/test_fuzz.py -k shard"),
    Guard("checksum of a reply", "holdfast/core/cache.py", " and digest == entry_digest(key, value):", ":", "tests/core/test_cache.py tests/core/test_fuzz.py -k 'repl'"),
    Guard("checksum of a checkpoint", "holdfast/training/job.py", "            if storage.file_sha256(checkpoint / name) != expected:", "            if False:", "tests/core/test_fuzz.py tests/training/test_training.py -k 'altered_checkpoints or the_checkpoint_before'"),
    Guard("files added to a checkpoint", "holdfast/training/job.py", "            return added[0]\n", "            pass\n", "tests/training/test_training.py -k no_checkpoint"),
    Guard("shapes of a checkpoint", "holdfast/training/process.py", "        check_resumable(earlier, tuned)", "        pass", "tests/training/test_training.py -k other_shapes"),
    Guard("verdict derived anew", "holdfast/verdict/provenance.py", "        reasons += contradictions(content, params, trainings)", "        pass", "tests/verdict/test_situations.py"),
    Guard("types and ranges of gate.json", "holdfast/verdict/gate_file.py", "    measured.check(content, path, do)\n", "", "tests/verdict/test_measured.py"),
    Guard("duplicate keys", "holdfast/core/storage.py", "    if len(content) < len(pairs):", "    if False:", "tests/verdict/test_situations.py -k duplicate"),
    Guard("settings that are gone", "holdfast/verdict/provenance.py", "        reasons.append(f\"{settings_file} is missing", "        len(f\"{settings_file} is missing", "tests/verdict/test_situations.py -k 'settings and name'"),
    Guard("frozen stages", "holdfast/verdict/yardstick.py", '    return stage.get("cmd") != "holdfast code" and any(', "    return False and any(", "tests/verdict/test_yardstick.py tests/commands/test_check.py -k 'yardstick or frozen'"),
    Guard("thresholds that moved", "holdfast/verdict/yardstick.py", "    if not there.params:\n        return\n    for key in sorted(old.keys() | new.keys()):\n        before, after = old.get(key), new.get(key)\n        if before == after or key in", "    return\n    for key in sorted(old.keys() | new.keys()):\n        before, after = old.get(key), new.get(key)\n        if before == after or key in", "tests/verdict/test_yardstick.py"),
    Guard("the comment's opening", "holdfast/commands/comment.py", "    if not shifts:\n        return \"\"\n", "    return \"\"\n", "tests/commands/test_ci.py -k 'loosened or looser or harmless or green'"),
    Guard("mentions and commands in the comment", ".ci/comment.py", '    text = text.encode("utf-8", "replace")', '    return text\n    text = text.encode("utf-8", "replace")', "tests/commands/test_ci.py -k 'broken or disarmed'"),
    Guard("artefacts without a comment", ".ci/comment.py", "        text = NOTHING.format(why)\n", "        raise\n", "tests/commands/test_ci.py -k artefact"),
    Guard("a report that links out", "holdfast/commands/comment.py", "    if not report.is_absolute() and not report.resolve().is_relative_to(Path.cwd()):", "    if False:", "tests/reporting/test_comment.py -k links"),
    Guard("forged settings", "holdfast/evaluation/settings.py", "        Settings.model_validate(content)\n", "        pass\n", "tests/verdict/test_situations.py tests/core/test_fuzz.py -k 'settings'"),
    Guard("surplus suites", "holdfast/verdict/provenance.py", "    for name in sorted(base[\"suites\"].keys() - wanted.keys()):", "    for name in []:", "tests/verdict/test_situations.py -k dropped"),
    Guard("many suites past their margin", "holdfast/verdict/decision.py", "    return [f\"{past} of {limited} suites", "    return [][:0] or [][:0] and [f\"{past} of {limited} suites", "tests/verdict/test_gate.py"),
    Guard("the template's child", "holdfast/chat/template_check.py", "    if known not in _guarded:", "    if False:", "tests/chat/test_template.py -k child"),
    Guard("the template's time", "holdfast/chat/template_limits.py", "    if _started is None:\n        return\n", "    return\n", "tests/chat/test_template.py -k 'without_end or longer_conversation'"),
    Guard("the template's memory", "holdfast/chat/template_limits.py", "        raise run_away(\"needs more memory than there is\") from None", "        raise", "tests/chat/test_template.py -k child"),
    Guard("the template's length", "holdfast/chat/template_limits.py", "    if len(text) > LONGEST and", "    if False and", "tests/chat/test_template.py -k 'without_end or long_conversation'"),
    Guard("bytes of an answer", "holdfast/engines/http_answers.py", "            if len(content) > MAX_REPLY_BYTES:", "            if False:", "tests/engines/test_hostile_servers.py -k gigabytes"),
    Guard("packings of an answer", "holdfast/engines/http_answers.py", '        if packed not in ("", "identity", "gzip", "x-gzip", "deflate"):', "        if False:", "tests/engines/test_hostile_servers.py -k gigabytes"),
    Guard("time of an answer", "holdfast/engines/endpoint.py", "async with asyncio.timeout(self.endpoint.timeout):", "async with contextlib.AsyncExitStack():", "tests/engines/test_hostile_servers.py -k trickles"),
    Guard("the key in a message", "holdfast/engines/http_answers.py", '        text = key_pattern(key).sub("***", text)\n', "", "tests/engines/test_hostile_servers.py -k key"),
    Guard("the key in an answer", "holdfast/engines/http_answers.py", 'return text.replace(key, "***") if', "return text if", "tests/engines/test_hostile_servers.py -k key"),
    Guard("usage that is none", "holdfast/engines/endpoint.py", "            if not isinstance(count, int) or not 0 <= count <= MAX_TOKENS:", "            if False:", "tests/engines/test_hostile_servers.py -k 'nonsense or mutated'"),
    Guard("an error with status 200", "holdfast/engines/endpoint.py", '        if isinstance(content, dict) and content.get("error") and not', "        if False and not", "tests/engines/test_hostile_servers.py -k nonsense"),
    Guard("depth and aliases of YAML", "holdfast/core/yaml_text.py", "    open_nodes: list[tuple[str | None, int]] = []", "    return\n    open_nodes: list[tuple[str | None, int]] = []", "tests/core/test_yaml_text.py tests/commands/test_upgrade.py -x -k 'grows or hostile'"),
    Guard("control characters in messages", "holdfast/core/errors.py", "    if text.isprintable():\n        return text\n", "    return text\n", "tests/core/test_errors.py tests/core/test_terminal.py"),
    Guard("a full disk", "holdfast/core/shards.py", "        raise unwritable_error(error, file.parent) from None", "        raise", "tests/core/test_kill.py -k half_shard"),
    Guard("Ctrl-C", "holdfast/core/shards.py", "    except KeyboardInterrupt:", "    except ZeroDivisionError:", "tests/core/test_cache.py -k interrupted"),
    Guard("hashes of the lock", "Makefile", "--no-deps --require-hashes\n", "--no-deps\n", "tests/project/test_locks.py -k set_up"),
    Guard("hashes of the lock for CPUs", "Makefile", '{ ! grep -A9 "DO NOT MATCH THE HASHES" .venv/torch.log && echo', "{ echo", "tests/project/test_locks.py -k altered_hash"),
    Guard("list of licences", "docs/licences.md", "## All\n", "## Most\n", "tests/project/test_locks.py -k licences"),
]  # fmt: skip


def limit_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def run_tests(copy: Path, tests: str) -> str:
    """green, red, or why neither: "no test" or "broken"."""
    environment = os.environ | {"PYTHONPATH": str(copy)}
    command = f"exec {sys.executable} -m pytest -q -x -p no:cacheprovider {tests}"
    with subprocess.Popen(
        ["bash", "-c", command], cwd=copy, env=environment, preexec_fn=limit_memory,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            return "red"  # it never ends
    return {0: "green", 1: "red", 5: "no test"}.get(process.returncode, "red" if process.returncode < 0 else "broken")


def main(word: str = "") -> int:
    faults = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "checkout"
        shutil.copytree(ROOT, copy, symlinks=True, ignore=shutil.ignore_patterns(".git", ".venv", ".cache", ".dvc"))
        for guard in (one for one in GUARDS if word in one.name):
            file = copy / guard.file
            text = file.read_text(encoding="utf-8")
            state = "not there"
            if text.count(guard.line) == 1:
                file.write_text(text.replace(guard.line, guard.without), encoding="utf-8")
                state = run_tests(copy, guard.tests)
                file.write_text(text, encoding="utf-8")
            faults += state != "red"
            print(f"{state:10} without {guard.name:42} {guard.tests}", flush=True)
    print(f"{faults} of the tests above do not notice" if faults else "each guard is missed by its test")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
