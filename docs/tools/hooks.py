# SPDX-License-Identifier: Apache-2.0
"""MkDocs hooks: pages from outside docs/, links, formulas, and who ran a command.

The Markdown files are written for the folders that they lie in, so that GitHub shows
them as well. Here their links are turned into those of the site: to a page where the
site has one, and else to the file in the repository.
"""

import html
import pathlib
import posixpath
import re

from latex2mathml import converter
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = pathlib.Path(__file__).parents[2]
PACKAGE = ROOT / "jax_surgery"
BRANCH = "main"
# Pages of the site that lie outside docs/, by their place on the site.
MOVED = {
    "index.md": ROOT / "README.md",
    "contributing.md": ROOT / "CONTRIBUTING.md",
    "changelog.md": ROOT / "CHANGELOG.md",
    "launch.md": ROOT / "launch" / "README.md",
}
RESULTS = sorted((ROOT / "results").glob("*.md"))
PICTURES = sorted((ROOT / "results").glob("*.png"))
FENCE = re.compile(r"^(```.*?^```$)", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
FORMULA = re.compile(
    r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL
)
# What stands before a block of commands: see tests/site/test_commands.py.
RAN = re.compile(
    r"^<!-- (?:runnable(?: with: (?P<extra>.+?))?|was run: (?P<where>.+?)"
    r"|not run: (?P<why>.+?)) -->\n"
    r"(?P<block>```.*?^```$)",
    re.DOTALL | re.MULTILINE,
)


def moved() -> dict[str, pathlib.Path]:
    """Files outside docs/ that the site has, by their place on the site."""
    results = {f"results/{path.name}": path for path in (*RESULTS, *PICTURES)}
    return MOVED | results


def places(docs: pathlib.Path) -> dict[pathlib.Path, str]:
    """The place on the site of every file that it has."""
    own = {path: path.relative_to(docs).as_posix() for path in docs.rglob("*.*")}
    return own | {path: place for place, path in moved().items()}


def folders() -> list[str]:
    """Folders of the package that have modules."""
    return sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))


def title(page: pathlib.Path) -> str:
    """The first heading of a page."""
    return page.read_text().partition("\n")[0].lstrip("# ")


def api_page(folder: str) -> str:
    """The reference of a folder of the package, from its docstrings."""
    return f"---\ntitle: {folder}\n---\n\n# {folder}\n\n::: jax_surgery.{folder}\n"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Appends the tables of results/ and the API reference to the navigation."""
    assert config.nav is not None
    results = [{title(path): f"results/{path.name}"} for path in RESULTS]
    config.nav.append({"Results": results})
    config.nav.append({"API": [{name: f"api/{name}.md"} for name in folders()]})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds what lies outside docs/."""
    for place, path in moved().items():
        files.append(File.generated(config, place, abs_src_path=str(path)))
    for name in folders():
        page = File.generated(config, f"api/{name}.md", content=api_page(name))
        files.append(page)
    return files


def site_link(link: str, source: pathlib.Path, place: str, config: MkDocsConfig) -> str:
    """A link of a file, as a page of the site has it.

    Args:
      link: as the file has it.
      source: the file.
      place: of the file on the site.

    Returns:
      One to a page of the site, or into the repository; the very link where it leads to
      nothing that is here, of which MkDocs warns.
    """
    if "://" in link or link.startswith(("#", "mailto:")):
        return link
    name, mark, anchor = link.partition("#")
    target = (source.parent / name).resolve()
    known = places(pathlib.Path(config.docs_dir)).get(target)
    if known:
        return posixpath.relpath(known, posixpath.dirname(place) or ".") + mark + anchor
    if target.exists() and target.is_relative_to(ROOT):
        kind = "tree" if target.is_dir() else "blob"
        path = target.relative_to(ROOT).as_posix()
        return f"{config.extra['repository']}/{kind}/{BRANCH}/{path}{mark}{anchor}"
    return link


def _caption(found: re.Match) -> str:
    """A block of commands, and below it who ran it."""
    if where := found["where"]:
        said = f"Was run {where}."
    elif why := found["why"]:
        said = f"Was not run {why}."
    elif extra := found["extra"]:
        said = f"The test suite runs this on a small model, with `{extra}`."
    else:
        said = "The test suite runs this as it stands, on a small model."
    return f"{found['block']}\n\n{said}\n{{ .ran }}\n"


def on_page_markdown(
    markdown: str, page: Page, config: MkDocsConfig, files: Files
) -> str:
    """Turns links into the site's, and comments on commands into captions."""
    del files
    place = page.file.src_uri
    source = moved().get(place, pathlib.Path(config.docs_dir) / place)

    def linked(found: re.Match) -> str:
        return f"]({site_link(found[1], source, place, config)})"

    parts = FENCE.split(RAN.sub(_caption, markdown))
    parts[::2] = [LINK.sub(linked, text) for text in parts[::2]]
    return "".join(parts)


def on_page_content(
    content: str, page: Page, config: MkDocsConfig, files: Files
) -> str:
    """Formulas as MathML, which browsers show without a script or a font of ours."""
    del page, config, files

    def shown(found: re.Match) -> str:
        formula = html.unescape(found[2])
        if found[1] == "span":
            return converter.convert(formula)
        return (
            f'<div class="formula">{converter.convert(formula, display="block")}</div>'
        )

    return FORMULA.sub(shown, content)
