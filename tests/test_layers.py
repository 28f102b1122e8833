# SPDX-License-Identifier: Apache-2.0
"""Which folder may import which, and what the maths may not import."""

import ast
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "jax_surgery"
# A folder may import itself and those after it.
FOLDERS = (
    "main",
    "runs",
    "plan",
    "report",
    "attacks",
    "methods",
    "train",
    "metrics",
    "benchmarks",
    "edits",
    "checkpoints",
    "optim",
    "models",
    "data",
    "parallel",
    "storage",
    "plugins",
    "command_line",
    "config",
    "renamed",
)
# Maths reads and writes nothing.
MATHS = ("optim", "models")
IO = {"json", "io", "os", "pathlib", "etils", "orbax", "tensorboardX", "datasets"}


def module_name(path: pathlib.Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(source: str, modules=MODULES) -> set[str]:
    """Modules that a source imports anywhere, functions included."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute here"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in modules else node.module)
    return found


def folder(module: str) -> str:
    return module.split(".")[1] if "." in module else module


def upward(module: str, imported: set[str]) -> set[str]:
    """What a module imports from folders above its own."""
    own = FOLDERS.index(folder(module))
    inside = {name for name in imported if name.startswith("jax_surgery.")}
    return {name for name in inside if FOLDERS.index(folder(name)) < own}


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """A path of modules that import each other in a circle; [] without one."""
    done, path = set(), []

    def visit(name):
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        path.append(name)
        for successor in sorted(graph.get(name, ())):
            if circle := visit(successor):
                return circle
        done.add(path.pop())
        return []

    return next((circle for name in sorted(graph) if (circle := visit(name))), [])


GRAPH = {name: imports(path.read_text()) for name, path in MODULES.items()}


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"jax_surgery"}))
def test_imports_go_down(module):
    assert not upward(module, GRAPH[module])
    outside = {name.split(".")[0] for name in GRAPH[module]}
    assert not outside & {"configs", "launch", "tests", "results"}
    if folder(module) in MATHS:
        assert not outside & IO


@pytest.mark.parametrize("name", FOLDERS)
def test_no_circles_inside_a_folder(name):
    members = {m for m in MODULES if m != "jax_surgery" and folder(m) == name}
    assert not cycle({m: GRAPH[m] & members for m in members})


def test_configs_import_only_ml_collections_and_each_other():
    allowed = {"ml_collections", "configs", *sys.stdlib_module_names}
    for path in (ROOT / "configs").rglob("*.py"):
        outside = {name.split(".")[0] for name in imports(path.read_text())}
        assert outside <= allowed, path.name


def test_this_test_sees_arrows_that_point_up_and_circles():
    hidden = "def f():\n    from jax_surgery.train import loop\n"
    assert upward("jax_surgery.data.tokens", imports(hidden)) == {
        "jax_surgery.train.loop"
    }
    assert upward("jax_surgery.runs.start", imports(hidden)) == set()
    assert cycle({"a": {"b"}, "b": {"c", "d"}, "c": {"a"}}) == ["a", "b", "c", "a"]
    assert cycle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_test_files_have_names_of_their_own():
    """They lie in folders without __init__.py, so pytest imports them by these names."""
    names = [path.name for path in pathlib.Path(__file__).parent.rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))


def test_every_source_names_its_licence_and_can_be_read_at_one_sitting():
    for path in [
        *MODULES.values(),
        *(ROOT / "configs").rglob("*.py"),
        *(ROOT / "tests").rglob("*.py"),
        *(ROOT / "results").glob("*.py"),
        *(ROOT / "docs").rglob("*.py"),
    ]:
        lines = path.read_text().splitlines()
        if not lines:
            continue
        assert lines[0] == "# SPDX-License-Identifier: Apache-2.0", path
        assert len(lines) <= 400, path
    assert len(MODULES["jax_surgery.main"].read_text().splitlines()) < 80
