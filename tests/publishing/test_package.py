# SPDX-License-Identifier: Apache-2.0
"""The wheel and the source archive: version, size, contents, and what installs from them."""

import email
import os
import pathlib
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import venv
import zipfile

import checkout_copies
import pytest

ROOT = checkout_copies.ROOT
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FALLBACK = PROJECT["tool"]["setuptools_scm"]["fallback_version"]
MOST_BYTES = 12e6  # of each; nearly all are the two embedded models

pytestmark = pytest.mark.slow


def run(*command: object, cwd: pathlib.Path) -> str:
    """What a command prints, run without this checkout on the path."""
    environment = {n: v for n, v in os.environ.items() if n != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment | {"JAX_PLATFORMS": "cpu"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def build(source: pathlib.Path, *options: str) -> pathlib.Path:
    run(sys.executable, "-m", "build", "--quiet", *options, cwd=source)
    return source / "dist"


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """What is built from a commit with a tag."""
    source = checkout_copies.copy(tmp_path_factory.mktemp("tagged"))
    checkout_copies.commit(source, tag="v9.8.7")
    return build(source)


@pytest.fixture(scope="module")
def wheel(dist):
    (file,) = dist.glob("*.whl")
    return file


def names(wheel: pathlib.Path) -> set[str]:
    """Files of a wheel that are no metadata."""
    with zipfile.ZipFile(wheel) as archive:
        return {n for n in archive.namelist() if ".dist-info/" not in n}


def test_a_tag_is_the_version_and_both_files_pass_twine(dist):
    built = sorted(file.name for file in dist.iterdir())
    assert built == ["jax_surgery-9.8.7-py3-none-any.whl", "jax_surgery-9.8.7.tar.gz"]
    said = run(
        sys.executable, "-m", "twine", "check", "--strict", *dist.iterdir(), cwd=dist
    )
    assert said.count("PASSED") == 2
    assert all(1e6 < file.stat().st_size < MOST_BYTES for file in dist.iterdir())


def test_the_wheel_holds_all_of_the_package_and_nothing_else(wheel, tmp_path):
    copied = checkout_copies.copy(tmp_path)
    packages = {
        str(path.relative_to(copied))
        for folder in ("jax_surgery", "configs")
        for path in (copied / folder).rglob("*")
        if path.is_file()
    }
    assert names(wheel) == packages
    for part in (
        "jax_surgery/benchmarks/embedded/model/model.safetensors",
        "jax_surgery/benchmarks/suite/model/model.safetensors",
        "jax_surgery/data/general/names.toml",
        "jax_surgery/data/general/passages.jsonl",
        "jax_surgery/report/page.html",
        "configs/surgery.py",
    ):
        assert part in packages


def test_the_source_archive_can_be_tested(dist):
    """It has the tests, and nothing that git ignores."""
    (file,) = dist.glob("*.tar.gz")
    with tarfile.open(file) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "LICENSE", "README.md", "tests/test_layers.py"} <= held
    assert {"tpu_setup.sh", "constraints/tpu.txt", "CITATION.cff"} <= held
    assert not [
        name for name in held if re.search(r"\.pyc$|^(dist|build|\.venv)/", name)
    ]


def test_the_metadata_are_those_of_pyproject(wheel):
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read("jax_surgery-9.8.7.dist-info/METADATA").decode()
        assert "jax_surgery-9.8.7.dist-info/licenses/LICENSE" in archive.namelist()
    found, project = email.message_from_string(text), PROJECT["project"]
    assert found["Name"] == "jax-surgery" and found["Version"] == "9.8.7"
    assert found["Summary"] == project["description"]
    assert found["License-Expression"] == "Apache-2.0"
    assert found["Description-Content-Type"] == "text/markdown"
    assert found.get_all("Classifier") == project["classifiers"]
    assert len(found.get_all("Project-URL")) == len(project["urls"])
    extras = set(project["optional-dependencies"])
    assert set(found.get_all("Provides-Extra")) == extras
    assert "Makes a Llama forget" in found.get_payload()


@pytest.mark.parametrize(
    ("history", "version"),
    [(False, re.escape(FALLBACK)), (True, re.escape(FALLBACK[:-1]) + r"1\+g[0-9a-f]+")],
    ids=["no git", "no tags"],
)
def test_without_a_tag_it_can_be_built_too(wheel, tmp_path, history, version):
    """From an archive of the files, and from a clone that has no tags."""
    source = checkout_copies.copy(tmp_path)
    if history:
        checkout_copies.commit(source, tag="")
    (built,) = build(source, "--wheel").glob("*.whl")
    assert re.fullmatch(f"jax_surgery-{version}-py3-none-any.whl", built.name)
    assert names(built) == names(wheel)


def test_the_wheel_installs_and_runs_outside_the_checkout(wheel):
    """With what it says that it needs, and nothing else."""
    with tempfile.TemporaryDirectory() as made:
        folder = pathlib.Path(made)
        venv.create(folder / "venv", with_pip=True)
        python = folder / "venv" / "bin" / "python"
        run(python, "-m", "pip", "install", "--quiet", wheel, cwd=folder)
        asked = (
            "import configs, jax_surgery as j; print(j.__version__, *configs.__path__)"
        )
        version, configs = run(python, "-c", asked, cwd=folder).split()
        assert version == "9.8.7" and configs.startswith(str(folder))
        main = (python, "-m", "jax_surgery.main")
        help_text = subprocess.run(
            [*map(str, main), "--help"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )  # absl's --help ends with status 1
        assert "--config" in help_text.stdout
        run(
            *main, f"--config={configs}/surgery.py", "--workdir=run", "--config.steps=1",
            "--config.data.questions=", "--config.data.retain=embedded:general",
            "--config.attacks=", "--config.free_form=0", cwd=folder,
        )  # fmt: skip
        results = (folder / "run" / "results.json").read_text()
        assert '"jax_surgery": "9.8.7"' in results
        assert (folder / "run" / "report" / "index.html").exists()
