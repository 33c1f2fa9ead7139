"""Which of the profiles' suites can be had here: lm-eval's own tasks download their data from the hub on first use."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

PATIENCE = 5.0  # seconds for the hub to answer
DATA_SETS = {  # by how the names of their suites begin
    "ifeval": "google/IFEval",
    "arc_challenge_chat": "allenai/ai2_arc",
    "gsm8k_cot_zeroshot": "openai/gsm8k",
    "gpqa_": "Idavidrein/gpqa",
    "mmlu_pro": "TIGER-Lab/MMLU-Pro",
    "leaderboard_math_": "DigitalLearningGmbH/MATH-lighteval",
}


def find_out_of_reach(suites: Iterable[str]) -> list[str]:
    """Suites whose data are not in the hub's cache, where the hub does not answer; those of other names are not judged."""
    absent = [name for name in suites if (data := find_data_set(name)) and not is_cached(data)]
    return [] if not absent or is_hub_reachable() else absent


def find_data_set(suite: str) -> str | None:
    return next((data for start, data in DATA_SETS.items() if suite.startswith(start)), None)


def is_cached(data_set: str) -> bool:
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return (Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=data_set, repo_type="dataset")).is_dir()


def is_hub_reachable() -> bool:
    from huggingface_hub import constants

    if constants.is_offline_mode():
        return False
    import httpx2 as httpx

    try:
        httpx.head(constants.ENDPOINT, timeout=PATIENCE)
    except (httpx.HTTPError, httpx.InvalidURL):
        return False
    return True
