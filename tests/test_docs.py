# SPDX-License-Identifier: Apache-2.0
"""The written pages: their links resolve, and their commands name what exists."""

import dataclasses
import importlib
import pathlib
import re

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from test_layers import FOLDERS

from jax_surgery import attacks, benchmarks, methods
from jax_surgery.attacks.base import Budget, Target
from jax_surgery.metrics import METRICS, Metric
from jax_surgery.models.logprobs import TokenLogprobs
from jax_surgery.models.model import Model
from jax_surgery.renamed import RENAMED

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [
    *ROOT.glob("*.md"),
    *(ROOT / "docs").glob("*.md"),
    *(ROOT / "launch").glob("*.md"),
]
LINK = re.compile(r"\]\(([^)\s]+)\)")
# A file of configs/, or its name alone.
COMMAND = re.compile(
    r"--config=(?:configs/([\w/]+)\.py|([a-z][\w/]*))(?::([\w/]+))?((?:.|\\\n)*)"
)
FIELD = re.compile(r"--config\.([\w.]+)")
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
SCRIPT = re.compile(r"python\s+((?:results|benchmarks|tests)/[\w/]+\.py)")


def anchors(page: str) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page, re.MULTILINE)
    kept = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in kept}


def broken_links(page: str, folder: pathlib.Path) -> list[str]:
    """Relative links of a page that lead nowhere."""
    found = []
    for link in LINK.findall(page):
        if "://" in link:
            continue
        target, _, anchor = link.partition("#")
        file = folder / target if target else None
        if (
            file
            and not file.exists()
            or anchor
            and anchor not in anchors(file.read_text() if file else page)
        ):
            found.append(link)
    return found


def shell_commands(page: str) -> list[str]:
    """Lines of a page with a config, continued lines joined."""
    joined = page.replace("\\\n", " ")
    # NAME and FILE stand for what a reader has.
    given = re.compile(r"--config=(?![A-Z])")
    return [line for line in joined.splitlines() if given.search(line)]


def has_field(config: ConfigDict, path: str) -> bool:
    for name in path.split("."):
        if not isinstance(config, ConfigDict) or name not in config:
            return False
        config = config[name]
    return True


def unknown_names(page: str) -> list[str]:
    """Configs and fields of a page's commands that do not exist."""
    found = []
    for line in shell_commands(page):
        match = COMMAND.search(line)
        name = match and (match[1] or match[2])
        if not match or not (ROOT / "configs" / f"{name}.py").exists():
            found.append(line)
            continue
        module = importlib.import_module(f"configs.{name.replace('/', '.')}")
        config = module.get_config(*filter(None, [match[3]]))
        fields = FIELD.findall(match[4])
        found += [f"{name}: {f}" for f in fields if not has_field(config, f)]
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_and_commands_name_what_exists(page):
    text = page.read_text()
    assert not broken_links(text, page.parent)
    assert not unknown_names(text)
    scripts = SCRIPT.findall(text)
    assert not [script for script in scripts if not (ROOT / script).exists()]


def test_every_test_that_a_page_names_exists():
    for page in PAGES:
        for file, name in TEST.findall(page.read_text()):
            path = ROOT / file
            assert path.exists(), f"{page.name}: {file}"
            assert f"def {name}(" in path.read_text(), f"{page.name}: {file}::{name}"


def test_every_row_of_reliability_names_a_test():
    page = (ROOT / "docs" / "reliability.md").read_text()
    for title in ("## Promises", "## What the user did, and what they see"):
        table = page.partition(title)[2].partition("\n## ")[0]
        rows = re.findall(r"^\| (?!what |---)[^\n]+", table, re.MULTILINE)
        assert rows
        assert not [row for row in rows if not TEST.search(row)]


def test_fields_in_prose_exist_in_some_config():
    """`section.field=value` outside commands; the changelog names fields that went."""
    configs = [
        importlib.import_module(f"configs.{path.stem}").get_config()
        for path in (ROOT / "configs").glob("*.py")
        if path.stem != "__init__"
    ]
    sections = {name for c in configs for name in c if isinstance(c[name], ConfigDict)}
    for page in PAGES:
        for path in re.findall(r"`(\w+\.\w+)(?:=[^`]*)?`", page.read_text()):
            gone = page.name == "CHANGELOG.md" and path in RENAMED
            if path.split(".")[0] in sections and not gone:
                assert any(has_field(c, path) for c in configs), f"{page}: {path}"


def test_the_map_has_the_folders_in_the_order_of_imports():
    table = (ROOT / "docs" / "design.md").read_text().partition("## Folders")[2]
    rows = "\n".join(re.findall(r"^\| `[^|]+", table, re.MULTILINE))
    listed = re.findall(r"`(?:jax_surgery/)?(\w+)(?:/|\.py)`", rows)
    assert tuple(name for name in listed if name in FOLDERS) == FOLDERS


def test_every_page_of_docs_is_found_from_the_readme():
    readme = (ROOT / "README.md").read_text()
    pages = [*(ROOT / "docs").glob("*.md"), ROOT / "launch" / "README.md"]
    missing = [p for p in pages if f"({p.relative_to(ROOT)})" not in readme]
    assert not missing


@pytest.mark.parametrize(
    ("page", "table"),
    [
        ("methods", methods.METHODS),
        ("metrics", METRICS),
        ("attacks", attacks.ATTACKS),
        ("benchmarks", benchmarks.BENCHMARKS),
    ],
    ids=["methods", "metrics", "attacks", "benchmarks"],
)
def test_every_plug_in_is_documented(page, table):
    text = (ROOT / "docs" / f"{page}.md").read_text()
    assert not [name for name in table if f"`{name}" not in text]


def test_every_option_of_an_attack_is_documented():
    text = (ROOT / "docs" / "attacks.md").read_text()
    for name, attack in attacks.ATTACKS.items():
        row = next(line for line in text.splitlines() if line.startswith(f"| `{name}`"))
        options = [field.name for field in dataclasses.fields(attack)]
        assert not [option for option in options if f"{option}=" not in row], name


def test_every_method_has_an_equation():
    table = (ROOT / "docs" / "methods.md").read_text().partition("## Equations")[2]
    rows = re.findall(r"^\| `([^`:]+)", table, re.MULTILINE)
    assert set(rows) == set(methods.METHODS)


def test_the_plug_ins_that_contributing_shows_run(tmp_path, monkeypatch):
    """Each block is a whole file, here outside the package."""
    monkeypatch.syspath_prepend(tmp_path)
    text = (ROOT / "CONTRIBUTING.md").read_text()
    made = {}
    for path, code in re.findall(r"```python\n# (\S+)\n(.*?)```", text, re.DOTALL):
        assert (ROOT / path).parent.is_dir()
        name = pathlib.Path(path).stem
        (tmp_path / f"shown_{name}.py").write_text(code)
        made[name] = importlib.import_module(f"shown_{name}")
    normed = made["normed"].NORMED
    path = "layers", "attention", "q_norm", "scale"
    assert normed.layout[-1].path == path
    assert isinstance(made["any_token"].METRIC, Metric)
    fade = methods.parse("shown_fade.Fade:power=2")
    logp = TokenLogprobs(jnp.log(jnp.asarray([0.5, 0.1])), *[jnp.zeros(2)] * 3)
    np.testing.assert_allclose(fade.unlearn(logp), [0.25, 0.01], rtol=1e-5)
    files = benchmarks.parse("shown_files.Files:dir=D")
    assert [group.role for group in files.groups()] == ["unlearn", "retain"]
    params = {"w": jnp.asarray([0.9, -1.0, 0.2])}
    model = Model(params, None, None, None, "")
    target = Target((), (), 8)
    attack = attacks.parse("shown_coarse.Coarse:bits=2")
    seen = []
    found = attack(model, target, Budget(), 0, lambda *watched: seen.append(watched))
    assert seen[0] == (Budget(), model) and len(seen) == 1 + found.spent.steps
    np.testing.assert_allclose(found.model.params["w"], [1.0, -1.0, 0.0])


def test_this_test_sees_what_is_broken():
    page = "[a](no.md) [b](README.md#nowhere) [c](https://x.y) [d](README.md#documentation)"
    assert broken_links(page, ROOT) == ["no.md", "README.md#nowhere"]
    command = "x --config=configs/surgery.py --config.seed=1 \\\n --config.data.no=2"
    assert unknown_names(command) == ["surgery: data.no"]
    assert len(unknown_names("x --config=configs/no.py")) == 1
    assert unknown_names("x --config=surgery --config.no=1") == ["surgery: no"]
    assert len(unknown_names("x --config=no_such")) == 1
    assert not unknown_names("x --config=NAME")
