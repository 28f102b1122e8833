# SPDX-License-Identifier: Apache-2.0
"""kill -9 in every phase of a run: nothing that a finished save held is lost.

results/kill_table.py does many more of the same kills.
"""

import pathlib

import pytest

RESULTS = pathlib.Path(__file__).parents[2] / "results"


@pytest.fixture
def kills(monkeypatch):
    """results/kills.py, which fails where a run does not go on or ends otherwise."""
    monkeypatch.syspath_prepend(RESULTS)
    import kills

    return kills


@pytest.mark.slow
def test_a_run_that_is_killed_five_times_ends_as_if_it_were_not(kills, tmp_path):
    kills.prepare(tmp_path)
    found = kills.take(tmp_path, "pretrain", 1, 0)
    assert [kill.phase for kill in found][:4] == ["start", "load", "steps", "save"]
    assert max(kill.held for kill in found) >= kills.EVERY


@pytest.mark.slow
def test_two_processes_of_which_one_is_killed_both_go_on(kills, tmp_path):
    kills.prepare(tmp_path)
    found = kills.take(tmp_path, "pretrain", 2, 0, ["load", "save"])
    assert [kill.code for kill in found] == [kills.LOST] * 2


@pytest.mark.slow
def test_a_surgery_that_is_killed_in_its_statistics_goes_on(kills, tmp_path):
    kills.prepare(tmp_path)
    found = kills.take(tmp_path, "surgery", 1, 0, ["statistics", "steps", "end"])
    assert found[0].phase == "statistics"
