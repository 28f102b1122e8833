# SPDX-License-Identifier: Apache-2.0
"""Every config builds, every field is read, and wrong values say what is right."""

import dataclasses
import functools
import pathlib
import sys
import typing

import pytest
from absl import flags
from field_readers import FieldReaders
from hypothesis import given
from hypothesis import strategies as st
from ml_collections import ConfigDict, config_flags
from settings_cases import FILES, leaves, load_config, merged, settings_of

from jax_surgery.config import build, is_needed
from jax_surgery.renamed import of_flags
from jax_surgery.runs import settings

ROOT = pathlib.Path(__file__).parents[2]
SOURCES = [p.read_text() for p in sorted((ROOT / "jax_surgery").rglob("*.py"))]
# Of each run, a config.
CLASSES = {name: settings.settings_class(name) for name in settings.RUNS}
CONFIGS = sorted(p for p in (ROOT / "configs").glob("*.py") if p.stem != "__init__")


def sections(cls: type) -> dict[str, type]:
    """Fields of a settings class that are settings themselves."""
    kinds = typing.get_type_hints(cls)
    return {k: v for k, v in kinds.items() if dataclasses.is_dataclass(v)}


def all_classes(cls: type) -> set[type]:
    return {cls}.union(*(all_classes(inner) for inner in sections(cls).values()))


def fields_of(classes) -> set[tuple[str, str]]:
    return {(c.__name__, f.name) for c in classes for f in dataclasses.fields(c)}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_config_builds_and_says_how_it_is_run(path):
    config = load_config(path)
    built = settings.from_config(config)
    assert isinstance(built, settings.settings_class(config.run))
    assert f"--config=configs/{path.name}" in path.read_text()


def test_every_run_has_a_module():
    assert all(callable(run.load().run) for run in settings.RUNS.values())


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_field_can_be_given_as_a_flag(path, monkeypatch):
    """Also those named like a method of ConfigDict, such as `update`."""
    values = load_config(path).to_dict()
    wanted, arguments = {}, []
    for field in leaves(values):
        value = functools.reduce(dict.__getitem__, field, values)
        if not isinstance(value, dict):
            new = f"{value}x" if isinstance(value, str) else value * 2 + type(value)(1)
            new = not value if isinstance(value, bool) else new
            wanted[field] = new
            arguments.append(f"--config.{'.'.join(field)}={new}")
    flag_values = flags.FlagValues()
    holder = config_flags.DEFINE_config_file(
        "config", flag_values=flag_values, lock_config=True
    )
    monkeypatch.setattr("sys.argv", ["main", f"--config={path}", *arguments])
    flag_values(sys.argv)  # ml_collections reads sys.argv too
    got = holder.value.to_dict()
    for field, new in wanted.items():
        assert functools.reduce(dict.__getitem__, field, got) == new, field


def test_every_field_is_read_somewhere():
    classes = set().union(*map(all_classes, CLASSES.values()))
    unread = fields_of(classes) - FieldReaders(SOURCES).reads
    # `run` is read before there is a class: it chooses that.
    unread = {(owner, field) for owner, field in unread if field != "run"}
    assert not unread, f"config fields that nothing reads: {sorted(unread)}"


MADE_UP = """
@dataclasses.dataclass(frozen=True)
class Inner:
    used: int = 0
    never_read: int = 0
    checked_only: int = 0

    def __post_init__(self):
        assert self.checked_only >= 0

@dataclasses.dataclass(frozen=True)
class Outer:
    inner: Inner = Inner()
    kind: str = "a"
    steps: int = 0
    passed_on: int = 0

class Other:
    never_read: int = 0

Either = Outer | Other

def make() -> Either: ...

def run(settings: Outer, other: Other):
    part = settings.inner
    print(part.used, other.never_read)
    match settings.kind:
        case "a":
            for _ in range(settings.steps):
                pass
    dict(passed_on=1)
"""


def test_an_unread_field_is_found():
    reads = FieldReaders([MADE_UP]).reads
    assert reads >= {("Outer", "inner"), ("Inner", "used"), ("Outer", "steps")}
    assert ("Outer", "kind") in reads
    assert ("Other", "never_read") in reads
    unread = {
        ("Inner", "never_read"),
        ("Inner", "checked_only"),
        ("Outer", "passed_on"),
    }
    assert not reads & unread
    called = "\ndef go():\n    return make().passed_on"
    assert ("Outer", "passed_on") in FieldReaders([MADE_UP + called]).reads


@given(st.data())
def test_a_mistyped_key_names_the_nearest_one(data):
    run = data.draw(st.sampled_from(sorted(settings.RUNS)))
    values = load_config(FILES[run]).to_dict()
    path = data.draw(st.sampled_from(leaves(values)))
    if path[-1] == "run" and len(path) == 1 or len(path[-1]) < 3:
        return
    place = data.draw(st.integers(1, len(path[-1]) - 1))
    typo = path[-1][:place] + "_" + path[-1][place:]
    section = values
    for key in path[:-1]:
        section = section[key]
    section[typo] = section.pop(path[-1])
    with pytest.raises(ValueError, match=r"does not exist; did you mean config\.") as e:
        settings.from_config(ConfigDict(values))
    assert ".".join(["config", *path[:-1], typo]) in str(e.value)
    assert ".".join(["config", *path]) + "?" in str(e.value)


@pytest.mark.parametrize("run", sorted(settings.RUNS))
def test_defaults_survive_the_round_trip(run):
    """The plan gives its settings to another process so."""
    default = settings.from_config(load_config(FILES[run]))
    assert settings.from_config(ConfigDict(dataclasses.asdict(default))) == default


def test_a_field_that_is_not_given_is_an_error():
    """The configs alone say what a field is: nothing is filled in behind them."""
    values = load_config(FILES["surgery"]).to_dict()
    del values["data"]["context"]
    with pytest.raises(ValueError, match=r"config\.data\.context is not given; begin"):
        settings.from_config(values)


def given_sections(cls: type, values: dict) -> list[tuple[type, dict]]:
    """Of a run's settings and all sections in them, the class and what a config gives."""
    found = [(cls, values)]
    for name, inner in sections(cls).items():
        found += given_sections(inner, values[name])
    return found


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_no_default_of_a_field_differs_from_what_a_config_gives(path):
    """Code makes some sections too (a mesh, a budget), with defaults for a few fields."""
    values = load_config(path).to_dict()
    for cls, given_values in given_sections(CLASSES[values["run"]], values):
        for field in dataclasses.fields(cls):
            if not is_needed(field):
                assert given_values[field.name] == field.default, (cls, field.name)


def test_runs_have_no_defaults_and_only_three_sections_do():
    with_defaults = {
        cls.__name__
        for run in CLASSES.values()
        for cls in all_classes(run)
        if not all(is_needed(field) for field in dataclasses.fields(cls))
    }
    assert with_defaults == {"Budget", "LowRank", "MeshShape"}


@pytest.mark.parametrize("run", sorted(settings.RUNS))
def test_a_fixed_field_is_given_by_no_config_and_cannot_be_changed(run):
    for cls, given_values in given_sections(
        CLASSES[run], load_config(FILES[run]).to_dict()
    ):
        fixed = getattr(cls, "FIXED", {})
        for section, field in ((s, f) for s in fixed for f in fixed[s]):
            assert field not in given_values[section], field
            other = {section: {field: f"{fixed[section][field]}x"}}
            wanted = rf"config\.{section}\.{field} does not exist"
            with pytest.raises(ValueError, match=wanted):
                build(cls, merged(given_values, other))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"run": "surgeri"}, "config.run='surgeri'; choose one of surgery, "),
        ({"seed": "a"}, "config.seed='a' must be of type int, got str"),
        ({"seed": True}, "config.seed=True must be of type int, got bool"),
        ({"data": 3}, "config.data=3 must be a section of fields"),
        ({"steps": 0}, "config.steps=0; use 1 or more"),
        ({"reference": "lazy"}, "config.reference='lazy'; choose one of live, cached"),
        ({"loop": {"checkpoint_every": -1}}, "checkpoint_every=-1; use 0 or more"),
        ({"data": {"rows_update": -1}}, "config.data.rows_update=-1; use 0 or more"),
        ({"statistics": {"ridge": 0}}, "config.statistics.ridge=0.0 must be positive"),
        ({"method": "surgery:ascent=up"}, "ascent='up'; use one of none, cap"),
        ({"optimizer": {"name": "lion"}}, "name='lion'; choose one of adamw"),
        (
            {"compute": {"dtype": "int8"}},
            "dtype='int8'; choose one of float32, bfloat16",
        ),
    ],
)
def test_wrong_values_name_the_rule(changes, message):
    with pytest.raises(ValueError) as error:
        settings_of("surgery", changes)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("argument", "error", "answer"),
    [
        ("loop.keep=3", "'keep'", "config.loop.keep does not exist any more: it is a"),
        (
            "surgery.loop.keep=3",
            "'keep'",
            "config.surgery.loop.keep does not exist any",
        ),
        ("identify.order=cyclic", "'identify'", "subspace:order=cyclic"),
        ("objective.margin=-3", "'margin'", "surgery:margin="),
        ("loop.steps=3", "'steps'", "names no field of the config: steps. Look for"),
    ],
)
def test_a_flag_of_a_field_that_went_says_why(argument, error, answer):
    # A field of this name exists in other runs, and is not what is wrong here.
    arguments = ["--config.optimizer.warmup=3", f"--config.{argument}"]
    assert answer in of_flags(arguments, KeyError(error))


def test_a_flag_of_a_section_that_is_a_field_now_says_so():
    error = TypeError("string indices must be integers, not 'str'")
    answer = "config.report.angles does not exist any more: config.report is 'full' or"
    # A field of this name exists in other runs, and is not what is wrong here.
    valid = "--config.optimizer.warmup=3"
    assert answer in of_flags([valid, "--config.report.angles=0"], error)
    assert "config.optimizer" not in of_flags([valid, "--config.model.x=1"], error)


def test_a_field_that_went_is_answered_in_a_run_that_is_a_section_too():
    for field, answer in (("loop.keep", "a constant"), ("objective.margin", "option")):
        with pytest.raises(ValueError, match=rf"config.surgery.{field} .*{answer}"):
            settings_of("tofu", {f"surgery.{field}": 3})


def test_whole_numbers_pass_for_fractions_and_settings_are_frozen():
    built = settings_of("surgery", {"objective.alpha": 2})
    assert built.objective.alpha == 2.0
    assert isinstance(built.objective.alpha, float)
    with pytest.raises(dataclasses.FrozenInstanceError):
        built.seed = 1
