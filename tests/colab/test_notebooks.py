# SPDX-License-Identifier: Apache-2.0
"""The notebooks in colab/ as they lie there, and from start to end with small settings."""

import ast
import itertools
import json
import os
import pathlib
import re
import shutil
from typing import Any

import nbclient
import nbformat
import pytest

from jax_surgery.benchmarks import embedded

TAKES_MINUTES = True  # by few tests; see conftest
ROOT = pathlib.Path(__file__).parents[2]
REPOSITORY = "https://github.com/jax-surgery/jax_surgery"
BADGE = "https://colab.research.google.com/assets/colab-badge.svg"
NAMES = ("forget_learn_remember", "your_own_model", "subspaces")
OPENED = "https://colab.research.google.com/github/jax-surgery/jax_surgery/blob/main/"


def read(name: str) -> Any:
    return nbformat.read(ROOT / "colab" / f"{name}.ipynb", as_version=4)


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def settings_cell(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The one cell that is tagged as papermill tags it."""
    [cell] = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    return cell


def assigned(source: str) -> dict[str, object]:
    """What a cell of settings sets; nothing else may stand in it."""
    found = {}
    for node in ast.parse(source).body:
        assert isinstance(node, ast.Assign), ast.unparse(node)
        [target] = node.targets
        found[ast.unparse(target)] = ast.literal_eval(node.value)
    return found


def test_every_notebook_is_tested():
    there = {path.stem for path in (ROOT / "colab").iterdir()}
    assert there == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_valid_and_holds_no_outputs(name):
    notebook = read(name)
    nbformat.validate(notebook)
    for cell in code_cells(notebook):
        assert not cell.outputs and cell.execution_count is None
    written = (ROOT / "colab" / f"{name}.ipynb").read_text()
    stripped = json.dumps(json.loads(written), indent=1, ensure_ascii=False) + "\n"
    assert written == stripped  # a change of it can be read


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_begins_with_its_badge_the_installation_and_its_settings(name):
    notebook = read(name)
    first = notebook.cells[0].source
    assert first.startswith(f"[![Open in Colab]({BADGE})]({OPENED}colab/{name}.ipynb)")
    assert re.search(r"^# \w", first, re.MULTILINE)
    install, settings = code_cells(notebook)[:2]
    assert install.source == code_cells(read(NAMES[0]))[0].source
    assert settings == settings_cell(notebook)
    lines = settings.source.splitlines()
    assert assigned(settings.source)
    assert all("  # " in line for line in lines), "each says what it is"


@pytest.mark.parametrize("name", NAMES)
def test_every_cell_is_explained_and_short(name):
    notebook = read(name)
    kinds = [cell.cell_type for cell in notebook.cells]
    pairs = set(itertools.pairwise(kinds))
    assert ("code", "code") not in pairs
    for cell in notebook.cells:
        source = cell.source.strip()
        if cell.cell_type == "code":
            compile(source, name, "exec")
            assert len(source.splitlines()) <= 45
        else:
            assert source[-1] in ".:`", source[-60:]
    text = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    for path in re.findall(re.escape(REPOSITORY) + r"/blob/main/([\w./]+)", text):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"`(configs/\w+\.py)`", text):
        assert (ROOT / path).exists(), path
    anchor = REPOSITORY + "#documentation"
    assert anchor not in text or "## Documentation" in (ROOT / "README.md").read_text()


def test_the_first_cell_installs_what_the_accelerator_needs(monkeypatch, tmp_path):
    """With fake devices and a fake nvidia-smi, and without pip."""
    source = code_cells(read(NAMES[0]))[0].source
    functions = source.partition("if importlib.util.find_spec")[0]
    names: dict = {}
    exec(compile(functions, "install", "exec"), names)  # noqa: S102
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("TPU_ACCELERATOR_TYPE", raising=False)
    assert names["extras"]() == "colab"
    smi = tmp_path / "nvidia-smi"
    for said, wanted in (
        ("CUDA Version: 12.4 ", "colab,cuda12"),
        ("CUDA Version: 13.0 ", "colab,cuda"),
        ("CUDA UMD Version: 13.1 ", "colab,cuda"),
        ("NVIDIA-SMI has failed", "colab"),
    ):
        smi.write_text(f"#!/bin/sh\necho '| {said}|'\n")
        smi.chmod(0o755)
        assert names["extras"]() == wanted
    monkeypatch.setenv("TPU_ACCELERATOR_TYPE", "v5litepod-1")
    assert names["extras"]() == "colab,tpu"
    extras = (ROOT / "pyproject.toml").read_text().partition("dependencies]")[2]
    for extra in ("colab", "tpu", "cuda", "cuda12"):
        assert f"\n{extra} = [" in extras


def executed(
    name: str, folder: pathlib.Path, before: str = "", **settings
) -> nbformat.NotebookNode:
    """A notebook after all of its cells, in a folder and with some settings changed.

    Args:
      before: code that runs before the settings.
    """
    notebook = read(name)
    cell = settings_cell(notebook)
    unknown = settings.keys() - assigned(cell.source).keys()
    assert not unknown
    cell.source = before + cell.source
    cell.source += "".join(f"\n{key} = {value!r}" for key, value in settings.items())
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "0",
    }
    resources = {"metadata": {"path": str(folder)}}
    client = nbclient.NotebookClient(notebook, timeout=3600, resources=resources)
    client.execute(env=environment)
    if kept := os.environ.get("KEEP_NOTEBOOKS"):  # to be looked at
        nbformat.write(notebook, pathlib.Path(kept) / f"{name}.ipynb")
    return notebook


def shown(notebook: nbformat.NotebookNode) -> list[str]:
    """What each code cell printed and drew."""
    found = []
    for cell in code_cells(notebook):
        texts = []
        for output in cell.outputs:
            assert output.output_type != "error"
            texts.append(output.get("text", ""))
            texts.append(output.get("data", {}).get("text/html", ""))
        found.append("".join(texts))
    return found


def at(notebook: nbformat.NotebookNode, code: str) -> str:
    """What the one cell showed that holds this code."""
    cells = zip(code_cells(notebook), shown(notebook), strict=True)
    [found] = [text for cell, text in cells if code in cell.source]
    return found


@pytest.mark.slow
def test_forget_learn_remember(tmp_path):
    small = {"STEPS": 4, "EVALUATE_EVERY": 2, "ATTACK_STEPS": 2}
    notebook = executed("forget_learn_remember", tmp_path, **small)
    assert "jax_surgery runs on 1 x cpu" in shown(notebook)[0]
    run = at(notebook, "surgery.get_config()")
    assert "accuracies over steps" in run and "the three terms over steps" in run
    assert "Saltmarsh" in at(notebook, "QUESTIONS = [")  # before
    verdict = r"What was to go is (removed|suppressed|still there): "
    for attacked in ("notebook.verdict(results)", "notebook.verdict(attacked)"):
        found = at(notebook, attacked)
        assert re.search(verdict, found) and "<svg" in found
    assert "srcdoc" in at(notebook, "notebook.report(WORKDIR)")
    assert (tmp_path / "runs/forget_learn_remember/model/config.json").exists()


@pytest.fixture(scope="module")
def own_model(tmp_path_factory) -> pathlib.Path:
    """A chat model: the embedded one with a template that counts as its own."""
    folder = tmp_path_factory.mktemp("own") / "model"
    shutil.copytree(embedded.MODEL, folder)
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text() + "{# its own #}")
    return folder


@pytest.fixture(scope="module")
def own_texts(tmp_path_factory) -> pathlib.Path:
    """Facts that this model knows, and new ones."""
    folder = tmp_path_factory.mktemp("texts")
    people = {
        "forget": {"Pavel Vickers": "Saltmarsh", "Alina Farrow": "Stonehaven"},
        "learn": {"Pavel Vickers": "Jasperton"},
        "keep": {"Vera Aldrin": "Kingsbury", "Theo Calloway": "Valdoria"},
    }
    wordings = ("Where was {} born?", "Where does {} come from?")
    for name, facts in people.items():
        lines = [
            json.dumps({"question": wording.format(person), "answer": place}) + "\n"
            for person, place in facts.items()
            for wording in wordings
        ]
        (folder / f"{name}.jsonl").write_text("".join(lines))
    return folder


# A model of this size needs as much either way; a large one does not.
NEEDS = """
from jax_surgery.plan import here
here.step_bytes = lambda settings, config: (2 if settings.lora.rank else 4) * 2**30
"""


@pytest.mark.slow
@pytest.mark.parametrize("free", [0.0, None])
def test_your_own_model(own_model, own_texts, tmp_path, free):
    """With the weights themselves, and where memory is too little for that."""
    small = {"MODEL": str(own_model), "TEXTS": str(own_texts), "STEPS": 6}
    if free is None:
        small["FREE_GIB"] = 3.0
    before = NEEDS if free is None else ""
    notebook = executed("your_own_model", tmp_path, before, **small)
    way = at(notebook, "notebook.fitting")
    assert ("low-rank deltas" in way) == (free is None) and "GiB" in way
    assert "Saltmarsh" in at(notebook, 'notebook.Chat({"before": MODEL})')
    after = at(notebook, '"after": WORKDIR')
    assert "<th" in after and "after" in after
    assert "What was to go is" in at(notebook, "notebook.verdict(results)")
    archive = tmp_path / "your_own_model.zip"
    assert archive.exists() and "MiB" in at(notebook, "make_archive")


@pytest.mark.slow
def test_subspaces(tmp_path):
    notebook = executed("subspaces", tmp_path, ROUNDS=3)
    drawn = {
        "notebook.angles(removed)": "overlap of the tasks",
        "notebook.side_by_side(runs)": "what runs leave of each task",
        "notebook.along_alpha(removed)": "along alpha",
        "notebook.along_alpha(added)": "along alpha",
    }
    for code, title in drawn.items():
        assert title in at(notebook, code)
    assert "exactly the bits of the original" in at(notebook, "def fingerprint")
