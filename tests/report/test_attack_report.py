# SPDX-License-Identifier: Apache-2.0
"""What a page shows of attacks: the excess over a model that never knew, and pictures."""

from jax_surgery import attacks
from jax_surgery.metrics.intervals import wilson
from jax_surgery.report import attack, attack_pictures, page
from jax_surgery.runs.own_attacks import summed_up


def point(value, steps=0, label="", group="gone", n=400):
    score = {"value": value, "interval": wilson(value, n), "n": n, "reference": 0.25}
    groups = {group: {"multiple_choice": score}}
    spent = {"steps": steps, "tokens": 0, "flops": 0.0}
    return {**spent, "label": label, "groups": groups}


GRID = "relearning:learning_rate=1e-4+1e-3"


def found(never: bool = True) -> dict:
    """Two cells of relearning, and an attack without training."""
    chosen = attacks.parse_all(f"{GRID}; blocks")
    slow, fast, blocks = (one.spec for one in chosen)
    curves = {
        slow: [point(0.26), point(0.3, 5), point(0.35, 20)],
        fast: [point(0.26), point(0.5, 5), point(0.46, 20)],
        blocks: [
            point(0.26),
            point(0.2, 1, "no layer 1"),
            point(0.31, 2, "no layer 2"),
        ],
    }
    learned = [point(0.24), point(0.3, 5), point(0.34, 20)]
    tried = [point(0.24), point(0.25, 1, "no layer 1"), point(0.24, 2, "no layer 2")]
    references = {slow: learned, fast: learned, blocks: tried} if never else {}
    return summed_up(chosen, curves, references)


def test_of_each_family_the_try_that_brings_back_most_is_told():
    results = found()
    grid, blocks = results["excess"]
    assert grid["family"] == GRID and grid["attack"].endswith("1e-3")
    assert (grid["steps"], grid["tries"], grid["before"]) == (5, 4, 0.26)
    assert abs(grid["above"] - 0.2) < 1e-9 and not grid["by_chance"]
    # A model that never knew learns 0.06 of it, and this one 0.24.
    assert abs(grid["robustness"] - 0.06 / 0.24) < 1e-9
    assert blocks["label"] == "no layer 2"
    assert abs(blocks["robustness"] - 0.26 / 0.31) < 1e-9
    by_chance = found(never=False)["excess"][0]
    assert by_chance["by_chance"] and by_chance["robustness"] is None
    assert abs(by_chance["above"] - 0.25) < 1e-9


def test_the_page_says_the_verdict_first_and_then_each_attack():
    results = found() | {"model": "m", "shown": 3, "left_out": ["Not tried: x"]}
    for entry in results["attacks"]:
        entry["spent"] = {"steps": 20, "tokens": 5, "flops": 1.0}
    shown = attack.shown(results, {})
    verdict, left_out = shown["headlines"]
    assert (
        verdict.startswith("What was to go is suppressed") and "Not tried" in left_out
    )
    row = shown["attacks"][0]
    assert row["where"] == "learning_rate=1e-3, after 5 steps"
    assert (row["after"], row["never"], row["above"]) == ("50.0 %", "30.0 %", "+20.0")
    text = page.render(shown)
    assert text.index("What was to go is suppressed") < text.index("Under attack")
    assert text.index("+20.0") < text.index("how multiple choice comes back")
    assert "learning_rate=1e-3, after 5 steps, of 4" in text
    assert any("+20.0 points" in sentence for sentence in shown["sentences"])


def test_a_family_that_trains_is_one_picture_of_curves():
    figures = attack_pictures.figures(found()["attacks"])
    assert [figure["title"].partition(": how")[0] for figure in figures] == [
        GRID,
        "blocks",
    ]
    svg = figures[0]["svg"]
    assert "gone, highest of 2" in svg and "gone, never knew, highest of 2" in svg
    assert "steps of the attack" in svg and "no layer 2" in figures[1]["svg"]
    assert "is not the text that the adversary has" in figures[0]["caption"]


def test_what_is_measured_under_an_attack_alone_is_shown_too():
    told = point(0.4, 1, "any of 10 samples")
    told["groups"]["gone"] = {
        "any_of_samples": told["groups"]["gone"]["multiple_choice"]
    }
    chosen = attacks.parse_all("samples")
    results = summed_up(chosen, {"samples": [point(0.26), told]}, {})
    [row] = attack.excess_rows(results)
    assert (row["before"], row["robustness"]) == ("", "")
    titles = [figure["title"] for figure in attack_pictures.figures(results["attacks"])]
    assert titles == [
        "samples: how multiple choice comes back",
        "samples: how any of samples comes back",
    ]
