# SPDX-License-Identifier: Apache-2.0
"""Settings of `unlearn` and `learn` that do not go together, told at once."""

import dataclasses

import pytest
from settings_cases import settings_of

from jax_surgery.renamed import RENAMED


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"adapter": "a"}, "config.adapter='a' needs config.lora.rank"),
        (
            {"lora": {"rank": 4}, "method": "subspace:one_shot=True"},
            "lora.rank=4 trains an adapter step by step",
        ),
        (
            {"lora": {"rank": 4}, "rounds": {"alpha": 0.5}},
            "rounds.alpha=0.5 would make",
        ),
        ({"method": "subspace:random_start=True"}, "which only one_shot=True can"),
        ({"tasks": {"rows_retained": 0}}, "nothing to guard; .*subspace:guard=0"),
        (
            {"rounds": {"alpha": 0, "stop": 0}},
            "alpha=0 seeks the smallest that reaches",
        ),
        (
            {"lora": {"rank": 2}, "optimizer": {"learning_rate": -1.0}},
            "config.optimizer.learning_rate=-1.0 must be positive",
        ),
        ({"report": "none"}, "config.report='none'; choose one of full, scores"),
        ({"rounds": {"matrices": "q,x"}}, "^config.rounds.matrices has 'x'"),
        (
            {"lora": {"rank": 2}, "rounds": {"matrices": "x"}},
            "^config.rounds.matrices has 'x'",
        ),
        ({"method": "npo"}, "'npo' descends .*; tasks are removed and added by"),
        ({"rounds": {"step": 0}}, "config.rounds.step=0.* must be positive"),
        ({"method": "subspace:ridge=0"}, "subspace:ridge=0.* must be positive"),
        ({"method": "subspace:guard=-1"}, "subspace:guard=-1.*; use 0 or more"),
        ({"method": "subspace:discriminate=x"}, "discriminate='x'; use one of ridge"),
        ({"method": "subspace:order=x"}, "order='x'; use one of joint"),
        ({"method": "subspace:loss=x"}, "loss='x'; use one of margin"),
        ({"method": "subspace:temperature=0"}, "temperature=0.0 must be positive"),
        ({"method": "subspaces"}, "did you mean 'subspace'"),
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


def test_the_papers_figure_is_a_method_of_its_own():
    method = settings_of("unlearn", {"method": "unlearn_paper"}).subspace
    spelt = (
        "subspace:one_shot=True,random_start=True,order=first_to_last,adam=0.001,"
        "loss=cross_entropy,temperature=1,discriminate=gram_schmidt"
    )
    same = settings_of("unlearn", {"method": spelt}).subspace
    assert dataclasses.asdict(method) == dataclasses.asdict(same)


@pytest.mark.parametrize("field", sorted(RENAMED))
def test_fields_of_older_versions_say_what_to_use_now(field):
    value = {"identify.overwrite": 1.0}.get(field, "x")
    with pytest.raises(ValueError, match="does not exist any more") as error:
        settings_of("unlearn", {field: value})
    assert RENAMED[field] in str(error.value)
