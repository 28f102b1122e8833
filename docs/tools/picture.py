# SPDX-License-Identifier: Apache-2.0
"""A picture of the folders: which there are, and which import which, read from the code."""

import ast
import html
import pathlib

ROOT = pathlib.Path(__file__).parents[2]
PACKAGE = ROOT / "jax_surgery"
WIDTH, BOX, HIGH, GAP, LEFT = 880, 128, 34, 16, 20
STYLE = (
    "text{font:14px system-ui,sans-serif;fill:#1d232b}.small{font-size:12px;fill:#5d6773}"
    "rect{fill:#e3f1ef;stroke:#00796b}.page{fill:#fcfcfa;stroke:none}"
    ".beside{fill:#f2f3f1;stroke:#8a939c}path{stroke:#5d6773;fill:none}"
)


def parts() -> list[str]:
    """Folders of the package that have modules, and its files."""
    folders = [path.parent.name for path in PACKAGE.glob("*/__init__.py")]
    files = [path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__"]
    return sorted(folders + files)


def beside() -> list[str]:
    """Folders beside the package that hold something of the project's own."""
    made = {"runs", "site", "build", "dist", "venv"}  # as .gitignore has them
    found = []
    for path in sorted(ROOT.iterdir()):
        own = path.is_dir() and not path.is_symlink() and any(path.iterdir())
        hidden = path.name.startswith((".", "_")) or path.name.endswith(".egg-info")
        if own and not hidden and path.name not in made | {PACKAGE.name}:
            found.append(path.name)
    return found


def imports() -> dict[str, set[str]]:
    """What each part of the package imports of the others."""
    known = set(parts())
    graph: dict[str, set[str]] = {name: set() for name in known}
    for path in PACKAGE.rglob("*.py"):
        own = path.relative_to(PACKAGE).with_suffix("").parts[0]
        for node in ast.walk(ast.parse(path.read_text())):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            for name in names:
                first, _, rest = name.partition(".")
                part = rest.partition(".")[0]
                if first == PACKAGE.name and part in known - {own} and own in known:
                    graph[own].add(part)
    return graph


def levels() -> list[list[str]]:
    """The parts of the package, lowest level first: each imports only from those below."""
    graph, placed = imports(), {}

    def level(name: str) -> int:
        if name not in placed:
            placed[name] = 1 + max((level(other) for other in graph[name]), default=-1)
        return placed[name]

    rows: dict[int, list[str]] = {}
    for name in parts():
        rows.setdefault(level(name), []).append(name)
    return [rows[index] for index in sorted(rows)]


def _box(x: float, y: float, name: str, kind: str = "") -> str:
    shape = f'<rect x="{x:g}" y="{y:g}" width="{BOX}" height="{HIGH}" rx="6"{kind}/>'
    at = f'x="{x + BOX / 2:g}" y="{y + HIGH / 2 + 5:g}" text-anchor="middle"'
    return f"{shape}<text {at}>{html.escape(name)}</text>"


def folders() -> str:
    """The picture, as SVG."""
    rows, y, drawn = levels()[::-1], 56.0, []
    is_file = lambda name: (PACKAGE / f"{name}.py").exists()
    for row in rows:
        x = LEFT + 30.0
        for name in row:
            drawn.append(_box(x, y, name + (".py" if is_file(name) else "/")))
            x += BOX + GAP
        y += HIGH + GAP
    arrow = (
        f'<path d="M {LEFT + 8} 60 V {y - 24:g} l -5 -9 m 5 9 l 5 -9"/>'
        f'<text class="small" transform="translate({LEFT - 2} {y / 2 + 40:g}) '
        'rotate(-90)">may import</text>'
    )
    drawn.append(
        f'<text x="{LEFT}" y="{y + 22:g}">beside the package, which imports none of '
        "them</text>"
    )
    y += 36
    for index, name in enumerate(beside()):
        column, line = index % 5, index // 5
        x = LEFT + 30 + column * (BOX + GAP)
        drawn.append(_box(x, y + line * (HIGH + GAP), f"{name}/", ' class="beside"'))
    y += (1 + (len(beside()) - 1) // 5) * (HIGH + GAP)
    return (
        "<!-- SPDX-License-Identifier: Apache-2.0; written by docs/tools/blocks.py -->\n"
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 8:g}" '
        f'role="img" aria-label="Folders by what they import">\n<style>{STYLE}</style>\n'
        f'<rect class="page" width="{WIDTH}" height="{y + 8:g}"/>\n'
        f'<text x="{LEFT}" y="32">jax_surgery/: a folder imports only from rows below '
        "its own</text>\n" + "\n".join([*drawn, arrow]) + "\n</svg>\n"
    )
