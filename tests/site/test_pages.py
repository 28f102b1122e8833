# SPDX-License-Identifier: Apache-2.0
"""The documentation as a site: it builds without a warning, asks no other server, and
shows what the code and the tables of results/ have today."""

import importlib
import os
import pathlib
import re
import subprocess
import sys
from xml.etree import ElementTree

import pytest

ROOT = pathlib.Path(__file__).parents[2]
DOCS = ROOT / "docs"
BADGES = "https://colab.research.google.com/assets/"


@pytest.fixture
def tools(monkeypatch):
    """Imports a module of docs/tools."""
    monkeypatch.syspath_prepend(DOCS / "tools")
    return importlib.import_module


def test_pages_have_what_would_be_written_today(tools):
    for path, text in tools("blocks").files().items():
        assert path.read_text() == text, (
            f"{path.name} is not up to date; run: python docs/tools/blocks.py"
        )


def test_a_block_is_written_between_its_comments(tools):
    blocks = tools("blocks")
    page = "a\n<!-- begin: metrics -->\nold\n<!-- end: metrics -->\nb\n"
    written = blocks.written(page)
    assert "\nold\n" not in written and "| `rouge_l` |" in written
    assert blocks.written(written) == written
    assert written.startswith("a\n") and written.endswith("\nb\n")
    with pytest.raises(KeyError, match="nothing"):
        blocks.written(page.replace("metrics", "nothing"))


def test_the_picture_has_the_folders_that_are_there(tools):
    picture = tools("picture")
    drawn = ElementTree.fromstring(picture.folders())
    texts = {e.text for e in drawn.iter("{http://www.w3.org/2000/svg}text")}
    package = [p.parent for p in (ROOT / "jax_surgery").glob("*/__init__.py")]
    own = [ROOT / name for name in ("configs", "docs", "launch", "results", "tests")]
    assert {f"{path.name}/" for path in (*package, *own)} <= texts
    rows = {name: i for i, row in enumerate(picture.levels()) for name in row}
    for name, imported in picture.imports().items():
        assert all(rows[other] < rows[name] for other in imported), name


def test_the_map_names_what_lies_beside_the_package(tools):
    table = (DOCS / "design.md").read_text()
    for name in tools("picture").beside():
        assert f"| `{name}/` |" in table, name


def test_every_table_of_results_says_where_it_was_run(tools):
    digests = tools("digests")
    written = digests.where()
    for page in (ROOT / "results").glob("*.md"):
        assert f"(../results/{page.name})" in written
    gpu = (ROOT / "results" / "gpu_speed.md").read_text()
    plan = (ROOT / "results" / "plan_table.md").read_text()
    assert digests.place(gpu) == "run on a GPU: NVIDIA H200"
    assert digests.place(plan).startswith("only compiled")
    assert digests.place("1 cpu device, Linux").startswith("run on a CPU: 1 cpu")
    assert digests.place("a table") == digests.UNSAID


def test_links_lead_to_pages_or_into_the_repository(tools):
    pytest.importorskip("mkdocs")
    pytest.importorskip("latex2mathml")
    hooks, config = tools("hooks"), importlib.import_module("mkdocs.config")
    loaded = config.load_config(str(ROOT / "mkdocs.yml"), hooks=[], plugins=[])
    readme = lambda link: hooks.site_link(link, ROOT / "README.md", "index.md", loaded)
    page = lambda link: hooks.site_link(link, DOCS / "edits.md", "edits.md", loaded)
    code = loaded.extra["repository"]
    assert readme("docs/edits.md#a") == "edits.md#a"
    assert readme("results/paper_table.png") == "results/paper_table.png"
    assert readme("LICENSE") == f"{code}/blob/main/LICENSE"
    assert page("../README.md") == "index.md"
    assert page("../launch/README.md") == "launch.md"
    assert page("../jax_surgery/edits") == f"{code}/tree/main/jax_surgery/edits"
    assert page("nowhere.md") == "nowhere.md"
    assert page("https://x.y/z") == "https://x.y/z"
    table = ROOT / "results" / "plan_table.md"
    found = hooks.site_link("../docs/edits.md", table, "results/plan_table.md", loaded)
    assert found == "../edits.md"


def test_formulas_and_who_ran_a_block(tools):
    pytest.importorskip("mkdocs")
    pytest.importorskip("latex2mathml")
    hooks = tools("hooks")
    shown = hooks.on_page_content(
        r'<p><span class="arithmatex">\(a &lt; b\)</span></p>'
        r'<div class="arithmatex">\[\alpha\]</div>',
        None,
        None,
        None,
    )
    assert shown.count("<math") == 2 and "\\" not in shown
    assert "<mi>a</mi><mo>&#x0003C;</mo>" in shown and 'display="block"' in shown
    caption = lambda said: hooks.RAN.sub(
        hooks._caption, f"<!-- {said} -->\n```sh\nls\n```\n"
    )
    assert "as it stands" in caption("runnable")
    assert "with `--x=1`" in caption("runnable with: --x=1")
    assert "Was run on a GPU." in caption("was run: on a GPU")
    assert "Was not run here." in caption("not run: here")
    assert caption("other").startswith("<!-- other")


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    for module in ("material", "mkdocstrings", "mkdocs_include_markdown_plugin"):
        pytest.importorskip(module, reason="the extra `docs` is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir"]
    done = subprocess.run(
        [*command, str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.returncode, done.stderr
    assert "WARNING" not in done.stderr
    pages = {p.relative_to(tmp_path).as_posix(): p for p in tmp_path.rglob("*.html")}
    texts = {name: path.read_text() for name, path in pages.items()}
    for name, text in texts.items():
        asked = re.findall(r'<(?:script|img|iframe|source)\b[^>]*\bsrc="([^"]+)"', text)
        asked += re.findall(
            r'<link\b[^>]*rel="(?:stylesheet|icon)"[^>]*href="([^"]+)"', text
        )
        # The badges of the notebooks are images of the site that they open.
        asked = [link for link in asked if not link.startswith(BADGES)]
        assert not [link for link in asked if "//" in link], name
        assert 'class="arithmatex"' not in text, name
        assert "include-markdown" not in text, name
    assert "<math" in texts["index.html"]
    # What is included is there: a row of a table, and a section of CONTRIBUTING.md.
    assert "llama2_13b" in texts["scaling/index.html"]
    assert "NormedAttention" in texts["plugins/index.html"]
    for path in (ROOT / "results").glob("*.md"):
        assert f"results/{path.stem}/index.html" in pages
    for path in (ROOT / "jax_surgery").glob("*/__init__.py"):
        assert f"api/{path.parent.name}/index.html" in pages
    assert (
        "jax_surgery.metrics.intervals.wilson_interval"
        in texts["api/metrics/index.html"]
    )
