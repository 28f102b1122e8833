# SPDX-License-Identifier: Apache-2.0
"""When a run stops: points, the Pareto front, the rules, and what they choose."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jax_surgery.train import stop
from jax_surgery.train.stop import Stop

ROLES = {"old": "unlearn", "bad": "unlearn", "new": "update", "rest": "retain"}
BEFORE = {"old": 1.0, "bad": 0.9, "new": 0.25, "rest": 0.98, "general": 0.8}


def rules(reference="chance", retention=0.0, keep=0):
    return Stop(reference, retention, keep)


def at(step, forget, drop, update=0.5, above=None):
    above = forget if above is None else above
    return {
        "step": step,
        "forget": forget,
        "above": above,
        "drop": drop,
        "update": update,
    }


def test_a_point_is_the_worst_group_to_forget_and_the_mean_of_the_rest():
    now = {"old": 0.30, "bad": 0.20, "new": 0.9, "rest": 0.95, "general": 0.81}
    references = {"old": 0.25, "bad": 0.25}
    found = stop.point(20, now, ROLES, references, BEFORE)
    assert found["forget"] == pytest.approx(0.05) and found["above"] == pytest.approx(
        0.05
    )
    # A group that no role is known of is to be retained.
    assert found["drop"] == pytest.approx((0.03 - 0.01) / 2)
    assert found["update"] == 0.9 and found["score_bad"] == 0.20
    below = stop.point(30, now | {"old": 0.05}, ROLES, references, BEFORE)
    assert below["forget"] == pytest.approx(
        0.20
    )  # far below chance is avoided, not gone
    assert below["above"] == pytest.approx(-0.05)
    first = stop.point(0, BEFORE, ROLES, references)
    assert first["drop"] == 0 and "update" not in stop.point(0, {"old": 1.0}, ROLES, {})


POINTS = st.lists(
    st.builds(
        lambda f, d, u: at(0, f / 4, d / 4, u / 4),
        *(st.integers(0, 4) for _ in range(3)),
    ),
    min_size=1,
    max_size=9,
)


@given(POINTS)
def test_the_front_is_what_no_point_dominates(points):
    points = [point | {"step": step} for step, point in enumerate(points)]
    found = stop.front(points)
    better = lambda a, b: (
        a["forget"] <= b["forget"]
        and a["drop"] <= b["drop"]
        and a["update"] >= b["update"]
    )
    same = lambda a, b: better(a, b) and better(b, a)
    assert found
    for one in points:
        if one in found:
            assert not any(better(o, one) and not same(o, one) for o in points)
        else:
            assert any(better(o, one) for o in found)
    assert not any(a is not b and same(a, b) for a in found for b in found)


@pytest.mark.parametrize(
    "given_rules, points, chosen, ends, words",
    [
        (
            rules(),
            [at(0, 0.7, 0), at(10, 0.2, 0.01), at(20, 0.03, 0.02, above=-0.01)],
            20,
            True,
            "ended at step 20: no group .* Step 20 is exported: the first point at the",
        ),
        (
            rules(retention=0.05),
            [at(0, 0.7, 0), at(10, 0.2, 0.04), at(20, 0.1, 0.06)],
            10,
            True,
            "dropped by 6.0 points, more than 5. Step 10 is exported: no point came down",
        ),
        (
            rules("", 0.05),
            [at(0, 0.7, 0), at(10, 0.2, 0.04), at(20, 0.1, 0.03)],
            20,
            False,
            "^Step 20 is exported: of the points within the allowed drop",
        ),
        (
            rules(retention=0.01),
            [at(0, 0.7, 0), at(10, 0.0, 0.3), at(20, 0.1, 0.2)],
            20,
            True,
            "dropped by more than 1 points everywhere, and least at this one",
        ),
        (
            rules("", 0.5),
            [at(0, 0.7, 0), at(10, 0.1, 0.1, 0.6), at(20, 0.1, 0.1, 0.9)],
            20,
            False,
            "Step 20",
        ),
    ],
)
def test_the_rules_end_a_run_and_choose_a_point(
    given_rules, points, chosen, ends, words
):
    assert stop.ranked(given_rules, points)[0]["step"] == chosen
    assert bool(stop.why(given_rules, points[-1])) == ends
    assert not any(stop.why(given_rules, point) for point in points[:1])
    with pytest.raises(ValueError, match=words):
        raise ValueError(stop.verdict(given_rules, points))
    found = stop.described(given_rules, points, [chosen])
    assert found["chosen"]["model"] == f"front/step-{chosen}"
    assert found["points"] == points and 0 not in [
        p.get("model") for p in found["front"]
    ]


def test_references_are_chance_a_score_or_those_of_a_model_that_never_knew(tmp_path):
    chances = {"old": 0.25, "bad": 1 / 3}
    assert rules().references(chances) == rules("").references(chances) == chances
    assert rules("0.3").references(chances) == {"old": 0.3, "bad": 0.3}
    results = {"after": {g: {"accuracy": a} for g, a in (("old", 0.2), ("bad", 0.4))}}
    (tmp_path / "results.json").write_text(json.dumps(results))
    for given_path in (tmp_path, tmp_path / "results.json"):
        found = rules(str(given_path)).references(chances)
        assert found == {"old": 0.2, "bad": 0.4}
    (tmp_path / "results.json").write_text(json.dumps({"evaluation": results["after"]}))
    assert rules(str(tmp_path)).references({"old": 0.25}) == {"old": 0.2}
    with pytest.raises(
        ValueError, match="has no accuracy of worse; evaluate that model"
    ):
        rules(str(tmp_path)).references({"worse": 0.25})
    with pytest.raises(FileNotFoundError, match="there is no .*give 'chance', a score"):
        rules(str(tmp_path / "none")).references(chances)
    with pytest.raises(ValueError, match="reference=7 is a score; use 0 to 1"):
        rules("7").references(chances)
    with pytest.raises(ValueError, match=r"retention=2 is a share .* such as 0\.02"):
        rules(retention=2)
