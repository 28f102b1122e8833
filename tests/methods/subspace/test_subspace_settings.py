# SPDX-License-Identifier: Apache-2.0
"""Settings of `unlearn` and `learn` that do not go together, told at once."""

import pytest
from settings_cases import settings_of


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"adapter": "a"}, "config.adapter='a' needs config.lora.rank"),
        (
            {"lora": {"rank": 4}, "rounds": {"mode": "one_shot"}},
            "lora.rank=4 trains an adapter step by step: use config.rounds.mode",
        ),
        (
            {"lora": {"rank": 4}, "rounds": {"alpha": 0.5}},
            "rounds.alpha=0.5 would make",
        ),
        (
            {"lora": {"rank": 4}, "optimizer": {"name": "muon"}},
            "use optimizer.name=adamw",
        ),
        ({"identify": {"start": "random"}}, "which only config.rounds.mode='one_shot'"),
        ({"tasks": {"rows_kept": 0}}, "rows_kept=0 leaves nothing to guard"),
        (
            {"rounds": {"alpha": 0, "stop": 0}},
            "alpha=0 seeks the smallest that reaches",
        ),
        (
            {"tasks": {"similar": "overlap"}, "report": {"angles": 0}},
            "similar='overlap' is measured by config.report.angles",
        ),
        ({"report": {"alphas": "0,x"}}, "config.report.alphas='0,x'; use numbers"),
        ({"report": {"records": 0}}, "config.report.records=0; use 1 or more"),
        ({"statistics": {"save_every": 0}}, "save_every=0; use 1 or more"),
        ({"rounds": {"step": 0}}, "config.rounds.step=0.* must be positive"),
        (
            {"rounds": {"mode": "once"}},
            "config.rounds.mode='once'; choose one of rounds",
        ),
        ({"discriminate": {"ridge": 0}}, "ridge=0.* must be positive"),
        ({"discriminate": {"method": "x"}}, "method='x'; choose one of none, gram"),
        ({"identify": {"order": "x"}}, "order='x'; choose one of joint"),
        ({"identify": {"loss": "x"}}, "identify.loss='x'; use 'margin'"),
    ],
)
@pytest.mark.parametrize("run", ["unlearn", "learn"])
def test_wrong_settings_are_told(run, fields, words):
    settings_of(run)
    with pytest.raises(ValueError, match=words):
        settings_of(run, fields)


def test_targets_are_read_in_stages():
    of = lambda t: settings_of("unlearn", {"tasks": {"targets": t}}).tasks.stages
    assert of(" a, b ;c;") == [["a", "b"], ["c"]] and of(";") == []
