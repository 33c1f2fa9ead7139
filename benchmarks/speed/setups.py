"""What `holdfast plan` says of the set-ups in docs/scale.md: 10,000 rows of domain data of 140 tokens, and each profile as it is.

    python -m benchmarks.speed.setups        (half a minute; needs no GPU and no weights)

Prints, of each, the whole plan. Figures are reckoned for the named device and not measured.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

import yaml

from holdfast.commands import plan
from holdfast.params.base import PARAMS

ROOT = Path(__file__).resolve().parents[2]
ROWS = 10_000
MODEL_STAGES = ("reconstruct", "curate", "respond", "judge", "finetune", "evaluate")
SETUPS = {  # title: (profile, device, number of them, price of the whole machine for an hour)
    "a laptop and one GPU box": ("qwen2.5-0.5b", "l40s", 1, 1.0),
    "the same with a model of 8B": ("llama-3.1-8b", "h100", 1, 2.5),
    "eight GPUs under Slurm": ("llama-3.1-8b", "h100", 8, 20.0),
    "70B with servers of vLLM and FSDP2, on H100s": ("paper", "h100", 8, 20.0),
    "70B with servers of vLLM and FSDP2, on H200s": ("paper", "h200", 8, 30.0),
}


def make_project(folder: Path, profile: str, price: float) -> None:
    """Profile, data, and a launch.yaml that sends what runs a model to one machine."""
    shutil.copytree(ROOT / "profiles", folder / "profiles")
    shutil.copytree(ROOT / "stages", folder / "stages")
    shutil.copyfile(ROOT / "profiles" / f"{profile}.yaml", folder / PARAMS)
    (folder / "data" / "local").mkdir(parents=True)
    (folder / "data" / "prompts").mkdir()
    with (folder / "data" / "local" / "train.jsonl").open("w") as file:
        for n in range(ROWS):
            prompt, completion = f"question {n} " + "word " * 60, f"answer {n} " + "word " * 65
            file.write(json.dumps({"prompt": prompt, "completion": completion}) + "\n")
    machine = {"launcher": "ssh", "host": "gpubox", "price": price}
    launch = {"machines": {"box": machine}, "stages": dict.fromkeys(MODEL_STAGES, "box")}
    (folder / "launch.yaml").write_text(yaml.safe_dump(launch))


def main() -> None:
    for title, (profile, device, count, price) in SETUPS.items():
        print(f"\n## {title}: profile {profile}, {count} x {device}, {price:.2f} an hour", flush=True)
        with tempfile.TemporaryDirectory() as name:
            make_project(Path(name), profile, price)
            os.chdir(name)
            plan.main(None, device, count, as_json=False)
            os.chdir(ROOT)


if __name__ == "__main__":
    main()
