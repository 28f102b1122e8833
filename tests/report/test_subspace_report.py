# SPDX-License-Identifier: Apache-2.0
"""Pictures of subspace surgery, and their page: what they show, of odd inputs too."""

import collections
import math
import re
import xml.etree.ElementTree

import numpy as np
import pytest
from report_cases import COST, EVIL, METRICS, TASKS, parsed

from jax_surgery.report import page, pictures, table, task_results
from jax_surgery.report import subspace_pictures as drawn

FAMILIES = {"add": "sum", "sub": "sum", "copy": "text", "sort": "text", "capital": ""}
NAMES = list(FAMILIES)
SVG = "{http://www.w3.org/2000/svg}"


def texts(svg: str) -> list[str]:
    """What is written, from top to bottom of the file."""
    return ["".join(t.itertext()) for t in tree(svg).iter(f"{SVG}text")]


def tree(svg: str) -> xml.etree.ElementTree.Element:
    root = xml.etree.ElementTree.fromstring(svg)
    assert root.get("viewBox") and root.get("width") is None and root.get("aria-label")
    return root


def paths(svg: str, kind: str) -> list[str]:
    """Of the paths of groups of a kind, not in a legend: how they are drawn."""
    found = []

    def visit(element):
        name = element.get("id") or ""
        if name.startswith("legend") or element.tag == f"{SVG}defs":
            return
        if name.startswith(kind):
            found.extend(e.get("style") or "" for e in element.findall(f"{SVG}path"))
        for child in element:
            visit(child)

    visit(tree(svg))
    return found


def lines(svg: str) -> collections.Counter:
    """How many lines there are of each colour but grey, ticks and legends aside."""
    colours = [re.search("stroke: (#[0-9a-f]{6})", s) for s in paths(svg, "line2d")]
    return collections.Counter(m[1] for m in colours if m and m[1] != pictures.GREY)


def dots(svg: str) -> list[float]:
    """How far from the top the dots of lines are that are not grey."""
    in_axes = svg.split('id="legend')[0]
    found = re.findall(r'<use [^>]*y="([\d.]+)" style="[^"]*stroke: (#\w+)"', in_axes)
    return [float(y) for y, colour in found if colour != pictures.GREY]


def panels(svg: str) -> int:
    return sum((g.get("id") or "").startswith("axes_") for g in tree(svg).iter())


def overlaps_of(count: int) -> np.ndarray:
    found = np.random.default_rng(0).uniform(0.1, 0.4, (count, count))
    found = (found + found.T) / 2
    np.fill_diagonal(found, 1)
    return found


# The map of angles


def test_the_map_names_tasks_twice_and_families_once():
    written = texts(drawn.angle_matrix(NAMES, overlaps_of(5), FAMILIES))
    assert all(written.count(name) == 2 for name in NAMES)
    assert written.count("sum") == written.count("text") == 1
    assert written.count("1.00") == 5


def test_the_names_of_rows_are_within_the_picture():
    names = [f"a name of many letters {i}" for i in range(12)]
    svg = drawn.angle_matrix(names, overlaps_of(12), dict.fromkeys(names, "kin"))
    ends = [
        float(t.get("x") or "nan")
        for t in tree(svg).iter(f"{SVG}text")
        if "rotate(-0" in (t.get("transform") or "") and "".join(t.itertext()) in names
    ]
    # Right-aligned, of at least 4 points per letter.
    assert len(ends) == 12 and min(ends) > 4 * len(names[0])


def test_families_are_brought_together_with_their_values():
    values = overlaps_of(4)
    names = ["add", "copy", "sub", "sort"]
    written = texts(drawn.angle_matrix(names, values, FAMILIES))
    start = written.index("add")
    assert written[start : start + 4] == ["add", "sub", "copy", "sort"]
    cells = [t for t in written if re.fullmatch(r"\d\.\d\d", t)]
    order = [0, 2, 1, 3]
    assert cells == [f"{values[i, j]:.2f}" for i in order for j in order]


def test_a_family_of_one_is_not_framed():
    framed = drawn.angle_matrix(["add", "sub"], np.eye(2), {"add": "x", "sub": "x"})
    alone = drawn.angle_matrix(["add", "sub"], np.eye(2), {"add": "x", "sub": "y"})
    assert "x" in texts(framed) and "x" not in texts(alone)
    assert len(paths(framed, "patch")) == len(paths(alone, "patch")) + 1


@pytest.mark.parametrize("count", [1, 2, drawn.WRITTEN_TASKS, 40])
def test_values_are_written_where_there_is_room(count):
    names = [f"task{i}" for i in range(count)]
    written = texts(drawn.angle_matrix(names, overlaps_of(count), {}))
    cells = [t for t in written if re.fullmatch(r"\d\.\d\d", t)]
    assert len(cells) == (count**2 if count <= drawn.WRITTEN_TASKS else 0)
    assert set(names) <= set(written)


def test_the_map_needs_a_row_for_each_name():
    for names in (["a"], []):
        with pytest.raises(ValueError, match=r"\(2, 2\)|\(0, 0\)"):
            drawn.angle_matrix(names, np.eye(2 * len(names)), {})


@pytest.mark.parametrize("value", np.linspace(0, 1, 11))
def test_a_cell_and_its_figure_contrast(value):
    def luminance(colour: str) -> float:
        parts = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(
            parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4
        )
        return float(linear @ (0.2126, 0.7152, 0.0722))

    svg = drawn.angle_matrix(["a"], np.array([[value]]), {})
    (cell,) = re.findall(r'id="QuadMesh_1".*?fill: (#[0-9a-f]{6})', svg, re.DOTALL)[:1]
    ink = re.search(rf'<text style="([^"]*)"[^>]*>{value:.2f}<', svg)[1]
    ink = re.search("fill: (#[0-9a-f]{6})", ink)[1]
    dark, light = sorted((luminance(cell), luminance(ink)))
    assert (light + 0.05) / (dark + 0.05) > 4.2  # the least that both inks allow


def test_names_are_text_not_mathematics():
    svg = drawn.angle_matrix(["$x^2$", EVIL], np.eye(2), {})
    assert texts(svg).count("$x^2$") == 2 and texts(svg).count(EVIL) == 2
    point = {"alpha": 1.0, "scores": {}, "removed": {"$x^2$": 1.0}, "drop": {}}
    assert "removed: $x^2$" in texts(
        drawn.alpha_curves([point], ["$x^2$"], [], False, 1)
    )


# Several runs


def test_what_several_runs_leave_stands_beside_what_was_before():
    runs = {
        "with": {"a": (1.0, 0.0), "$x^2$": (0.9, 0.9)},
        "without": {"a": (1.0, 0.0), "$x^2$": (0.9, 0.2)},
    }
    svg = drawn.score_bars(runs)
    assert {"with", "without", "before"} <= set(texts(svg))
    assert texts(svg).count("$x^2$") == 1
    assert svg != drawn.score_bars(runs | {"without": runs["with"]})


# The spectra


def spectra_of(layers: int, count: int, matrices="q k v o gate up down") -> dict:
    rng = np.random.default_rng(1)
    return {
        name: -np.sort(-rng.uniform(0.1, 1, (layers, count)), axis=1)
        for name in matrices.split()
    }


def test_a_panel_a_matrix_and_a_line_a_layer():
    svg = drawn.spectra(spectra_of(8, 6), first_layer=4)
    assert panels(svg) == 7
    assert sum(lines(svg).values()) == 7 * 8 and len(lines(svg)) == 8
    written = texts(svg)
    assert {"q", "k", "v", "o", "gate", "up", "down"} <= set(written)
    assert [t for t in written if t.startswith("layer")] == [
        "layer 4", "layer 8", "layer 11",
    ]  # fmt: skip


def test_the_page_numbers_layers_as_the_model_does():
    """Layers before `rounds.first_layer` do not move, and have no line."""
    results = {"tasks": {}, "curve": []}
    [figure] = task_results.figures(results, None, {}, {"q": np.ones((1, 1))}, 2)
    assert "layer 2" in texts(figure["svg"])


def test_many_layers_are_a_band_and_their_median():
    svg = drawn.spectra(spectra_of(80, 6), 0)
    assert panels(svg) == 7
    assert lines(svg) == {drawn.LAYERS[0]: 7}
    assert sum("80 layers" in text for text in texts(svg)) == 1


def test_values_are_shares_of_the_whole_change():
    """3 and 4 make 5, so that the dots stand at 0.6 and 0.8 of the axis."""
    svg = drawn.spectra({"q": np.array([[3.0]]), "k": np.array([[4.0]])}, 0)
    grid = re.findall(r'<path d="M [\d.]+ ([\d.]+) \nL [^>]*stroke-opacity: 0.25', svg)
    tenth, one = sorted({float(y) for y in grid}, reverse=True)  # 0.1 and 1
    found = [10 ** ((tenth - y) / (tenth - one) - 1) for y in dots(svg)]
    np.testing.assert_allclose(found, [0.6, 0.8], rtol=1e-4)


def test_of_no_change_it_says_so():
    values = spectra_of(2, 4) | {"k": np.zeros((2, 4))}
    assert texts(drawn.spectra(values, 0)).count("no change") == 1
    nothing = drawn.spectra({name: np.zeros((2, 4)) for name in "qk"}, 0)
    assert texts(nothing).count("no change") == 2 and not lines(nothing)


@pytest.mark.parametrize("layers", [3, 80])
def test_layers_that_did_not_move_and_exact_zeros(layers):
    values = spectra_of(layers, 8, "q")
    values["q"][:, 4:] = 0
    values["q"][0] = 0
    svg = drawn.spectra(values, 0)
    assert lines(svg) and "nan" not in svg and "inf" not in svg


def test_one_layer_one_value_and_no_matrix():
    svg = drawn.spectra({"q": np.ones((1, 1))}, 0)
    assert panels(svg) == 1 and texts(svg).count("layer 0") == 1
    assert len(dots(svg)) == 1  # a line of one value is not seen
    with pytest.raises(ValueError, match="no matrix"):
        drawn.spectra({}, 0)


def test_matrices_may_have_different_ranks():
    assert panels(drawn.spectra({"q": np.ones((2, 3)), "k": np.ones((2, 9))}, 0)) == 2


# The curves along alpha


def points_of(targets, kept, alphas=(0, 0.5, 1, 2)) -> list[dict]:
    return [
        {
            "alpha": a,
            "scores": {name: min(1, a) for name in targets},
            "removed": {name: min(1, a) for name in targets},
            "drop": {name: 0.01 * i * a for i, name in enumerate(kept)},
        }
        for a in alphas
    ]


def labels(svg: str) -> list[str]:
    return [t for t in texts(svg) if re.match("retained|removed|score", t)]


def test_removal_of_each_target_and_what_is_left_of_the_kept():
    points = points_of(["a", "b"], ["c", "d", "e", "f"])
    svg = drawn.alpha_curves(points, ["a", "b"], ["c", "d"], False, 1.0)
    assert labels(svg) == [
        "removed: a", "removed: b", "retained: similar, mean", "retained: similar, worst",
        "retained: others, mean", "retained: others, worst",
    ]  # fmt: skip
    assert lines(svg) == {
        drawn.REDS[0]: 1, drawn.REDS[1]: 1, drawn.BLUE: 2, drawn.GREEN: 2,
    }  # fmt: skip
    assert "used: 1" in texts(svg)


def test_curves_stand_at_what_is_removed_and_what_is_left():
    point = {
        "alpha": 1.0,
        "scores": {},
        "removed": {"a": 0.0, "b": 1.0, "c": 0.4},
        "drop": {"d": 0.1, "e": 0.3, "f": -0.2},
    }
    svg = drawn.alpha_curves([point], ["a", "b", "c"], ["d", "e"], False, 1.0)
    none, whole, *rest = dots(svg)
    found = [100 * (none - y) / (none - whole) for y in rest]
    # c, then mean and worst of d and e, then f, which has grown.
    np.testing.assert_allclose(found, [40, 80, 70, 120], rtol=1e-4)


def test_of_what_is_learned_the_scores_are_drawn():
    points = points_of(["a"], ["c", "d"])
    svg = drawn.alpha_curves(points, ["a"], [], True, 1.0)
    assert labels(svg) == [
        "score: a",
        "retained: others, mean",
        "retained: others, worst",
    ]
    for point in points:
        point["removed"] = {}
    assert drawn.alpha_curves(points, ["a"], [], True, 1.0) == svg


def test_a_single_kept_task_is_named():
    svg = drawn.alpha_curves(points_of(["a"], ["c", "d"]), ["a"], ["c"], False, 1.0)
    assert labels(svg) == ["removed: a", "retained: c", "retained: d"]


def test_nothing_kept_and_many_targets():
    names = [f"t{i}" for i in range(9)]
    svg = drawn.alpha_curves(points_of(names, []), names, [], False, 0.5)
    assert labels(svg) == ["removed: each of 9"]
    assert lines(svg) == {drawn.REDS[0]: 9}
    assert "used: 0.5" in texts(svg)


def test_what_was_not_known_leaves_a_gap():
    points = points_of(["a", "b"], ["c", "d"])
    for point, value in zip(points, (None, math.nan, None, math.nan), strict=True):
        point["removed"]["a"] = value
    points[1]["drop"]["c"] = math.nan
    points[2]["drop"] = {"c": None, "d": None}
    svg = drawn.alpha_curves(points, ["a", "b"], [], False, 1.0)
    assert "removed: a" in labels(svg) and "nan" not in svg
    with pytest.raises(ValueError, match="no points"):
        drawn.alpha_curves([], ["a"], [], False, 1.0)


def test_mean_and_worst_leave_out_what_is_not_known():
    point = {
        "alpha": 1.0,
        "scores": {},
        "removed": {"a": 0.0, "b": 1.0},
        "drop": {"c": 0.1, "d": 0.3, "e": math.nan, "f": None, "g": None},
    }
    svg = drawn.alpha_curves([point], ["a", "b"], ["c", "d", "e"], False, 1.0)
    none, whole, *rest = dots(svg)
    found = [100 * (none - y) / (none - whole) for y in rest]
    # The mean and the worst of c and d; of f and g nothing is known.
    np.testing.assert_allclose(found, [80, 70], rtol=1e-4)


def test_points_need_no_order_and_one_is_enough():
    points = points_of(["a"], ["c"])
    one_way = drawn.alpha_curves(points, ["a"], ["c"], False, 1.0)
    assert drawn.alpha_curves(points[::-1], ["a"], ["c"], False, 1.0) == one_way
    tree(drawn.alpha_curves(points[:1], ["a"], ["c"], False, 1.0))


# The page


def test_the_page_shows_pictures_below_the_table():
    figures = [
        page.Figure(
            title=f"Overlap {EVIL}",
            svg=drawn.angle_matrix(NAMES, overlaps_of(5), FAMILIES),
            caption=EVIL,
        ),
        page.Figure(
            title="Change", svg=drawn.spectra(spectra_of(2, 3), 0), caption="c"
        ),
        page.Figure(
            title="Alpha",
            svg=drawn.alpha_curves(points_of(["a"], ["c"]), ["a"], [], False, 1),
            caption="",
        ),
    ]
    shown = page.Page(
        title="t", subtitle="s", rows=table.task_rows(TASKS), figures=figures,
        intervals="Wilson, bootstrap", metrics=METRICS, cost=COST, settings={},
    )  # fmt: skip
    text = page.render(shown)
    assert parsed(text).seen.count("svg") == 5
    assert "<script" not in text and "Overlap &lt;script&gt;" in text
    places = [text.index(f"<h2>{t}") for t in ("Before", "Overlap", "Change", "Alpha")]
    assert places == sorted(places) and places[-1] < text.index("<h2>The three terms")
    assert "<td>100.8 % removed</td>" in text and "<th>removed / lost</th>" in text
    explained = " ".join(text.split())
    assert "1 - (after - chance) / (before - chance)" in explained
    assert "1 - after / before" in explained and "Alpha is how much" in explained
    assert "four options" not in text
    assert page.render(shown) == text
