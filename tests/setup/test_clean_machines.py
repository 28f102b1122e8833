# SPDX-License-Identifier: Apache-2.0
"""tpu_setup.sh as it is, from nothing to the check of the chips, which says there are none.

In an environment without variables and programs of the user's, and in clean roots of Debian
(whose Python is supported) and Ubuntu 22.04, as of TPU VMs (whose Python is too old).
"""

import os
import pathlib
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile

import checkout_copies
import pytest
from tested_versions import PYPROJECT, pins

# How this machine reaches package registries.
CERTIFICATES = ("SSL_CERT_FILE", "PIP_CERT")
PROXIES = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")
FALLBACK = PYPROJECT["tool"]["setuptools_scm"]["fallback_version"]
FOUND = re.compile(r"packages: (.+)\nerror: this machine has no TPU: .*found 0")

pytestmark = pytest.mark.slow


@pytest.fixture
def folder():
    """Removed at once after the test: it takes 3 GB."""
    with tempfile.TemporaryDirectory() as made:
        yield pathlib.Path(made)


def variables(*names: str) -> dict[str, str]:
    return {name: os.environ[name] for name in names if name in os.environ}


def assert_tested_versions(printed: str) -> None:
    """Packages are those of constraints/tpu.txt for one of the supported Pythons."""
    found = dict(pair.split("==") for pair in printed.split())
    assert found.pop("jax-surgery") == FALLBACK  # of a checkout without git
    python = next(p for p in ("3.11", "3.12") if pins(p)["jax"] == found["jax"])
    assert set(found) == {"jax", "jaxlib", "libtpu", "flax"}
    assert found.items() <= pins(python).items()


def test_in_an_empty_environment_and_what_it_installs_runs(folder):
    """The program runs with the tested versions, on the CPU."""
    checkout = checkout_copies.copy(folder / "checkout")
    programs = folder / "bin"
    programs.mkdir()
    (programs / "python3").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (programs / "python3").chmod(0o755)
    environment = variables(*CERTIFICATES, *PROXIES) | {
        "HOME": str(folder / "home"),
        "PATH": f"{programs}:/usr/bin:/bin",
    }

    def run(*command: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True,
            check=False,
        )  # fmt: skip

    for _ in range(2):  # the second time everything is there
        done = run(str(checkout / "tpu_setup.sh"))
        if "client error (Connect)" in done.stderr:
            pytest.skip("uv cannot reach the package index from here")
        assert done.returncode == 1
        (printed,) = FOUND.findall(done.stdout + done.stderr)
        assert_tested_versions(printed)
    (folder / "text.jsonl").write_text('{"text": "Ada was born in Oslo."}\n' * 3)
    environment["JAX_PLATFORMS"] = "cpu"
    done = run(
        str(checkout / ".venv" / "bin" / "python"),
        *("-m", "jax_surgery.main", f"--config={checkout}/configs/evaluate.py"),
        *("--config.data.questions=", "--config.data.text=text.jsonl", "--workdir=run"),
    )
    assert done.returncode == 0, done.stderr
    assert (folder / "run" / "results.json").exists()


def reaches_github() -> bool:
    try:
        return bool(socket.getaddrinfo("github.com", 443))
    except OSError:
        return False


@pytest.mark.parametrize(
    ("system", "components", "checked"),
    # Debian has no keys of Ubuntu's, so its root is not checked by signature.
    [
        ("bookworm", "main", "--force-check-gpg"),
        ("jammy", "main,universe", "--no-check-gpg"),
    ],
)
def test_in_a_clean_root(system, components, checked, folder):
    if os.geteuid() or not shutil.which("debootstrap"):
        pytest.skip("needs root rights and debootstrap (apt-get install debootstrap)")
    subprocess.run(
        ["debootstrap", "--variant=minbase", "--include=python3", checked,
         f"--components={components}", system, folder],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    checkout_copies.copy(folder / "home" / "checkout")
    for file in ("resolv.conf", "hosts"):
        shutil.copy(f"/etc/{file}", folder / "etc" / file)
    environment = variables(*PROXIES) | {
        "HOME": "/home",
        "PATH": "/usr/sbin:/usr/bin:/bin",
    }
    for name, file in variables(*CERTIFICATES).items():
        shutil.copy(file, folder / "etc" / "host.crt")
        environment[name] = "/etc/host.crt"

    def run(command: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            ["chroot", folder, "bash", "-c", command], env=environment,
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    def setup() -> str:
        done = run("/home/checkout/tpu_setup.sh")
        assert done.returncode == 1
        return done.stdout + done.stderr

    # The message names the command that mends it, which is then run as it stands there.
    said = setup()
    assert "There is neither pip nor curl here." in said
    (mend,) = re.findall(r"'sudo (apt-get .+?)'", said)
    done = run("export DEBIAN_FRONTEND=noninteractive; " + mend.replace("sudo ", ""))
    assert done.returncode == 0, shlex.quote(mend) + done.stderr
    said = setup()
    if system == "jammy" and not reaches_github():
        assert (
            "error: no Python >=3.11,<3.13 could be had; look at the lines above"
            in said
        )
        assert "Failed to download" in said and "UV_PYTHON_INSTALL_MIRROR" in said
        return
    for again in (said, setup()):
        (printed,) = FOUND.findall(again)
        assert_tested_versions(printed)
