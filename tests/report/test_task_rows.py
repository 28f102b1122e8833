# SPDX-License-Identifier: Apache-2.0
"""Rows of the table of tasks: their order, and what was removed or lost."""

import math

import pytest
from report_cases import TASKS, result

from jax_surgery.report import page, table


def test_targets_come_first_then_similar_then_others_then_unknown():
    rows = table.task_rows(TASKS)
    assert [row.name for row in rows] == [
        "add (target)", "sub (similar)", "capital", "copy", "new (not known before)",
    ]  # fmt: skip
    assert [row.goal for row in rows] == ["chance", "keep", "keep", "keep", ""]
    assert [row.change for row in rows] == [
        "100.8 % removed", "3.0 % lost", "1.0 % gained", "0.0 % lost", "",
    ]  # fmt: skip
    first = rows[0]
    assert (first.before, first.after, first.count) == ("99.8 %", "9.3 %", 1200)
    assert first.after_interval == "7.3 to 11.3"


@pytest.mark.parametrize("removed", [None, math.nan])
def test_a_target_of_which_nothing_was_known_has_no_share(removed):
    (row,) = table.task_rows({"a": result("target", "up", 0.1, 0.9, removed)})
    assert row.change == "" and row.goal == "up"


def test_a_share_that_rounds_to_nothing_has_no_sign():
    (row,) = table.task_rows({"a": result("target", "chance", 0.9, 0.9, -0.0004)})
    assert row.change == "0.0 % removed"


def test_an_unknown_role_is_an_error():
    with pytest.raises(ValueError, match="'a' has the role 'kept'; use one of target"):
        table.task_rows({"a": result("kept", "keep", 1, 1)})


def test_the_printed_table_has_the_column_only_where_it_says_something():
    text = table.as_text(table.task_rows(TASKS))
    body = [line for line in text.splitlines() if not set(line) <= {"-"}]
    assert len({len(line) for line in body}) == 1
    assert "removed / lost" in body[0] and "100.8 % removed" in body[1]
    bare = table.as_text(table.task_rows({"new": TASKS["new"]}))
    assert "removed / lost" not in bare and "  1,200" in bare


def test_other_pages_have_no_column_of_changes():
    row = table.Row("a", "keep", "1 %", "", "2 %", "", 3)
    text = page.render(page.Page(title="t", subtitle="", rows=[row], settings={}))
    assert "removed / lost" not in text and "Alpha is" not in text
    assert text.count("<td") == 5
