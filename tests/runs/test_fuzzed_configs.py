# SPDX-License-Identifier: Apache-2.0
"""Whatever a config holds, it is a run's settings or one line says what is wrong."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from settings_cases import FILES, leaves, load_config

from jax_surgery import attacks, benchmarks, methods
from jax_surgery.config import build
from jax_surgery.methods.stages import parse_stages
from jax_surgery.renamed import meant, of_flags
from jax_surgery.runs import settings as runs
from jax_surgery.runs import start

# Not letters alone: a name with a dot is a module, which would be imported.
MARKS = st.text("ax0:=,@;+-._ \t\n\0\\\"'/~é\ud800", max_size=12)
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, -1, 2**31, 2**32, 2**63, -(2**63) - 1, 10**400]),
    st.floats(),
    st.sampled_from([1e-300, -0.0, 1e300]),
    st.text(max_size=6),
    MARKS,
    st.sampled_from(["", " ", "s3://a/b", "gs://", "hf:", "tfds:", "file:///x", ","]),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    st.binary(max_size=3),
    st.builds(complex),
)


def refused(error: Exception) -> None:
    """Asserts that an error is one that users read."""
    assert start.is_expected(error), error
    assert str(error).strip()
    assert len(str(error)) < 3000


def numbers(values):
    for value in values.values():
        if isinstance(value, dict):
            yield from numbers(value)
        elif isinstance(value, int | float):
            yield value


@settings(max_examples=150)
@given(st.data())
def test_any_value_in_any_field_is_taken_or_refused(data):
    run = data.draw(st.sampled_from(sorted(runs.RUNS)))
    values = load_config(FILES[run]).to_dict()
    for _ in range(data.draw(st.integers(1, 3))):
        section = values
        *path, last = data.draw(
            st.sampled_from(leaves(load_config(FILES[run]).to_dict()))
        )
        for key in path:
            section = section.get(key) if isinstance(section, dict) else None
        if isinstance(section, dict):
            section[data.draw(st.just(last) | st.text(max_size=5))] = data.draw(ODD)
    try:
        found = runs.from_config(values)
    except ValueError as error:
        refused(error)
    else:
        assert build(type(found), values) == found
        assert all(math.isfinite(number) for number in numbers(values))


NAMES = [*methods.METHODS, *attacks.ATTACKS, *benchmarks.BENCHMARKS]
SPEC = st.builds(
    "{}{}{}".format,
    st.sampled_from(NAMES) | MARKS,
    st.sampled_from([":", "@", ""]),
    MARKS,
) | st.builds(
    "{}:{}={}".format,
    st.sampled_from(NAMES),
    st.sampled_from(
        ["beta", "cap", "seed", "steps", "dir", "targets", "layer", "mend"]
    ),
    MARKS | st.integers().map(str) | st.floats().map(str),
)


@settings(max_examples=150)
@given(SPEC)
def test_any_name_of_a_plug_in_is_taken_or_refused(spec):
    for parse in (methods.parse, attacks.parse, benchmarks.parse, parse_stages):
        try:
            parse(spec)
        except ValueError as error:
            refused(error)


@settings(max_examples=100)
@given(MARKS | st.text(max_size=12))
def test_any_field_of_a_flag_is_answered(path):
    config = load_config(FILES["surgery"]).to_dict()
    assert isinstance(meant(path, config), str)
    said = of_flags([f"--config.{path}=1"], KeyError(path), config)
    assert said.startswith(("config.", "a --config."))


@pytest.mark.parametrize("run", [None, 3, [], {}, "Surgery", ""])
def test_a_run_that_there_is_not_is_said(run):
    with pytest.raises(ValueError, match=r"config\.run=.* choose one of surgery"):
        runs.from_config({"run": run})
