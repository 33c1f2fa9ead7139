"""Suites that `init` leaves out: the hub does not answer, and its cache lacks their data."""

from __future__ import annotations

import http.server
import threading
from pathlib import Path

import pytest
from huggingface_hub import constants

from holdfast.params.whole import Params
from holdfast.planning import profiles, reach


def test_without_a_network_suites_are_left_out_unless_the_cache_has_their_data(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    suites = ["core", "ifeval", "gsm8k_cot_zeroshot", "mmlu_pro_law", "my_own"]
    assert reach.find_out_of_reach(suites) == ["ifeval", "gsm8k_cot_zeroshot", "mmlu_pro_law"]
    (tmp_path / "datasets--google--IFEval").mkdir()
    assert reach.find_out_of_reach(suites) == ["gsm8k_cot_zeroshot", "mmlu_pro_law"]


def test_a_hub_that_answers_has_them_all_whatever_it_says(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)  # answers 501
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        assert reach.find_out_of_reach(["ifeval"]) == []
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert reach.find_out_of_reach(["ifeval"]) == ["ifeval"]  # nobody listens any more


@pytest.mark.parametrize("name", sorted(set(profiles.find_profiles()) - {"pocket"}))
def test_it_is_known_where_each_suite_of_a_profile_has_its_data_from(name: str) -> None:
    suites = Params.load(profiles.find_profile(name)).evaluate.suites
    assert [suite for suite in suites if suite != "core" and reach.find_data_set(suite) is None] == []
