# SPDX-License-Identifier: Apache-2.0
"""Wrong input is found before any work, in one line, with exit code 2."""

import json

import command_lines
import pytest
from settings_cases import FILES, config_of, leaves, load_config

from jax_surgery.config import at_least, positive
from jax_surgery.renamed import meant, nearest
from jax_surgery.runs import settings

SURGERY = "--config=configs/surgery.py"
EVALUATE = "--config=configs/evaluate.py"
HUGE = "9" * 6000

# What is given, and what is said of it; each is an own process of the program. The first few
# are one of each kind.
FEW = [
    ([], "--config is not given"),
    (["--config=configs/nope.py"], "--config=configs/nope.py is neither a file nor"),
    (
        [SURGERY, "--config.optimizer.lr=1"],
        "did you mean config.optimizer.learning_rate?",
    ),
    ([SURGERY, "--config.seed=one"], "--config.seed=one: no whole number: 'one'"),
    ([SURGERY, "--config.seed=-1"], "config.seed=-1; use 0 to 4294967295."),
    ([EVALUATE, "--config.data.questions=latin.jsonl"], "latin.jsonl:1: not UTF-8"),
    (["--config=raises.py"], "--config: ValueError: no such recipe"),
]
MORE = [
    (["--config=configs"], "--config=configs is neither a file nor"),
    ([SURGERY, "--workdri=x"], "Did you mean: workdir"),
    ([SURGERY, "stray"], "unknown arguments: stray; fields are given as"),
    ([SURGERY, "--config.optimzer.clip=1"], "did you mean config.optimizer.clip?"),
    ([SURGERY, "--config.optimizer.clipp=1"], "did you mean config.optimizer.clip?"),
    (
        [SURGERY, "--config.learning_rate=1"],
        "did you mean config.optimizer.learning_rate?",
    ),
    (
        [SURGERY, "--config.model.x=1"],
        "config.model is a field and has none of its own",
    ),
    ([SURGERY, "--config.data=5"], "--config.data=5: "),
    (
        [SURGERY, "--config.loop.keep=3"],
        "config.loop.keep does not exist any more: it is",
    ),
    ([SURGERY, f"--config.seed={HUGE}"], "Exceeds the limit (4300 digits)"),
    ([SURGERY, "--config.objective.alpha=nan"], "config.objective.alpha=nan must be a"),
    ([SURGERY, "--config.objective.gamma=inf"], "config.objective.gamma=inf must be a"),
    ([SURGERY, "--workdir=s3://bucket/run"], "--workdir='s3://bucket/run': s3:// is"),
    (
        [EVALUATE, "--config.data.questions=x.jsonl"],
        "x.jsonl is a folder and not a file",
    ),
    ([EVALUATE, "--config.model=nothing_here"], "'nothing_here' does not exist; give"),
    (["--config=syntax.py"], "SyntaxError: invalid syntax (syntax.py, line 1)"),
    (["--config=imports.py"], "ModuleNotFoundError: No module named 'not_there'"),
    (["--config=without.py"], "has no attribute 'get_config'"),
    (["--config=none.py"], "none.py: its get_config() gives no ConfigDict"),
    (["--config=number.py"], "number.py: its get_config() gives no ConfigDict"),
    (["--config=empty.py"], "config.run=None; choose one of surgery"),
]
CONFIGS = {
    "syntax": "def get_config(:\n",
    "imports": "import not_there\n",
    "without": "x = 1\n",
    "none": "def get_config():\n    return None\n",
    "number": "def get_config():\n    return 5\n",
    "raises": "def get_config():\n    raise ValueError('no such recipe')\n",
    "empty": "def get_config():\n    return {}\n",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with configs that cannot be read, and the real ones."""
    folder = tmp_path_factory.mktemp("configs")
    for name, text in CONFIGS.items():
        (folder / f"{name}.py").write_text(text)
    (folder / "latin.jsonl").write_bytes(b'{"id": "caf\xe9"}\n')
    (folder / "x.jsonl").mkdir()
    (folder / "configs").symlink_to(command_lines.ROOT / "configs")
    return folder


@pytest.mark.parametrize(
    "lines", [FEW, pytest.param(MORE, marks=pytest.mark.slow)], ids=["few", "more"]
)
def test_wrong_command_lines_are_one_line_and_code_2(folder, lines):
    given = [
        [*line, *([] if "--workdir" in " ".join(line) else [f"--workdir={folder}/run"])]
        for line, _ in lines
    ]
    ended = command_lines.run(given, folder)
    assert len(ended) == len(lines)
    for (_, message), end in zip(lines, ended, strict=True):
        command_lines.check_one_line(end, message)
        assert len(end.err) < 2000
    assert not (folder / "run").exists()


def test_debug_shows_the_traceback_and_a_defect_is_one_line(folder):
    """What nobody foresaw keeps its traceback in a file, and says where."""
    evaluate = [
        "--config=configs/evaluate.py",
        "--config.model=no_such_model_here",
        f"--workdir={folder}/run",
    ]
    broken = "from jax_surgery.runs import evaluate\n\n\n"
    broken += "def boom(*_):\n    raise KeyError('lost')\n\n\nevaluate.asked.load_questions = boom\n"
    broken += "from configs.evaluate import get_config\n"
    (folder / "broken.py").write_text(broken)
    defect = ["--config=broken.py", "--config.data.questions=x"]
    defect += ["--config.model=suite", f"--workdir={folder}/other"]
    plain, debug, unforeseen = command_lines.run(
        [
            [*evaluate, "--config.seed=1"],
            [*evaluate, "--config.data.context=1", "--debug"],
            defect,
        ],
        folder,
    )
    command_lines.check_one_line(plain, "config.seed does not exist")
    assert debug.code == 2
    assert "Traceback" in debug.err
    assert "config.data.context=1; use 2 or more" in debug.err
    command_lines.check_one_line(unforeseen, "KeyError: 'lost' (at evaluate.py:", 1)
    kept = unforeseen.err.partition("the traceback is in ")[2].partition(",")[0]
    assert "KeyError: 'lost'" in (folder / kept).read_text()
    (folder / kept).unlink()


def floats_of(run: str) -> list[str]:
    """Fields of a run that are fractions, "section.field"."""
    values = load_config(FILES[run]).to_dict()
    found = []
    for path in leaves(values):
        value = values
        for key in path:
            value = value[key]
        if isinstance(value, float):
            found.append(".".join(path))
    return found


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")], ids=str)
@pytest.mark.parametrize("run", sorted(settings.RUNS))
def test_no_field_is_nan_or_infinite(run, bad):
    for path in floats_of(run):
        config = config_of(FILES[run].stem, {path: bad})
        with pytest.raises(ValueError, match="must be a finite number") as error:
            settings.from_config(config)
        assert str(error.value).startswith(f"config.{path}={bad} ")


def test_rules_refuse_nan_whoever_asks_them():
    section = json.loads('{"x": NaN}')
    with pytest.raises(ValueError, match=r"config\.x=nan; use 0 or more"):
        at_least(0, type("Section", (), section), "config", "x")
    with pytest.raises(ValueError, match=r"config\.x=nan must be positive"):
        positive(section["x"], "config.x")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"seed": 10**40}, "config.seed=1000"),
        ({"steps": 10**30}, "does not fit 64 bits"),
        ({"model": "a\0b"}, "config.model='a\\x00b' holds a zero byte"),
        ({"model": "a\udcff"}, "config.model='a\\udcff' must be valid UTF-8"),
        ({"model": "  "}, "config.model is empty"),
        ({"model": ""}, "config.model is empty; give a directory"),
        ({"model": "s3://b/m"}, "config.model='s3://b/m': s3:// is neither"),
        ({"data.unlearn": "a.jsonl,https://x.y/b.jsonl"}, "https:// is neither"),
        ({"method": "surgery:cap=nan"}, "cap=nan must be a finite number"),
        (
            {f"data.rows_{role}": 0 for role in ("unlearn", "update", "retain")},
            "and config.data.rows_retain are all 0",
        ),
        ({"data.retain": "hf:ftp://host/x"}, "ftp:// is neither read nor written"),
        (
            {"method": "surgery@update;subspace@unlearn", "data.rows_update": 0},
            "the stage surgery changes update, whose rows are 0",
        ),
        ({"method": "rmu:seed=-3"}, "config.method=rmu:seed=-3; use 0 to"),
    ],
)
def test_wrong_fields_are_named(fields, message):
    with pytest.raises(ValueError) as error:
        settings.from_config(config_of("surgery", fields))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["surgery", "learn", "unlearn", "pretrain", "attack"])
def test_every_seed_is_checked(name):
    for seed in (-1, 2**32):
        with pytest.raises(ValueError, match=rf"config\.seed={seed}; use 0 to"):
            settings.from_config(config_of(name, {"seed": seed}))


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("lr", "learning_rate"),
        ("wd", "weight_decay"),
        ("learning_rte", "learning_rate"),
        ("beta1", "b1"),
        ("zzz", ""),
        ("w", ""),
    ],
)
def test_short_names_and_those_of_other_programs_are_understood(name, field):
    fields = ["name", "learning_rate", "weight_decay", "b1", "clip"]
    assert nearest(name, fields) == field


def test_a_field_is_found_wherever_it_is():
    config = {"steps": 1, "optimizer": {"clip": 1.0}, "data": {"context": 8}}
    assert meant("clip", config) == "optimizer.clip"
    assert meant("loop.steps", config) == "steps"
    assert meant("optimiser.clip", config) == "optimizer.clip"
    assert meant("data.seq_len", config) == "data.context"
    assert meant("data.nothing", config) == ""
