# SPDX-License-Identifier: Apache-2.0
"""A world for tests of `launch`: the fake gcloud on the PATH, and a small checkout."""

import contextlib
import json
import os
import pathlib
import signal
import stat
import subprocess
import sys
import time

from launch import archive, cli

ROOT = pathlib.Path(__file__).parents[1]
RUN = ["--config=configs/surgery.py", "--config.data.unlearn=a b.jsonl"]
RUN += ["--workdir=gs://bucket/run"]
FLAGS = ["--slice=v5e:2x2", "--zone=us-west4-a", "--skip-plan", "--yes"]
WIDE = ["--slice=v5e:4x4", *FLAGS[1:]]  # of four workers

# Stands for tpu_setup.sh: its "python" ends with this start's code of "codes", one line
# for each start, one word for each worker or one for all; or it runs until it is ended.
SETUP = """#!/usr/bin/env bash
set -e
mkdir -p .venv/bin
cat >.venv/bin/python <<'END'
#!/usr/bin/env bash
echo "run: $*"
echo x >>"$HOME/starts"
read -ra codes <<<"$(sed -n "$(wc -l <"$HOME/starts")p" "$FAKE_GCLOUD/codes")"
code="${codes[$WORKER]:-${codes[0]}}"
if [[ "$code" == runs ]]; then
  trap 'exit 130' TERM
  for _ in $(seq 600); do sleep 0.05; done
fi
exit "$code"
END
chmod +x .venv/bin/python
"""


class Cloud:
    """The fake's world.

    Attributes:
      where: its folder.
      slept: seconds that launch waited, which are not spent.
    """

    def __init__(self, folder: pathlib.Path, monkeypatch):
        self.where = folder / "cloud"
        self.state = folder / "state"
        self.slept: list[float] = []
        tools = folder / "bin"
        for path in (self.where, tools):
            path.mkdir()
        fake = pathlib.Path(__file__).with_name("fake_gcloud.py")
        tool = tools / "gcloud"
        tool.write_text(f'#!/bin/sh\nexec {sys.executable} -S -E {fake} "$@"\n')
        tool.chmod(tool.stat().st_mode | stat.S_IEXEC)
        monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.setenv("FAKE_GCLOUD", str(self.where))
        self.set(resources={}, faults=[], states=[])
        self.codes("0")
        self._checkout(folder / "checkout", monkeypatch)

    def _checkout(self, folder: pathlib.Path, monkeypatch) -> None:
        (folder / "launch").mkdir(parents=True)
        worker = (ROOT / "launch" / "worker.sh").read_text()
        (folder / "launch" / "worker.sh").write_text(worker)
        (folder / "tpu_setup.sh").write_text(SETUP)
        (folder / "tpu_setup.sh").chmod(0o755)
        (folder / ".gitignore").write_text("*.secret\n")
        (folder / "own.jsonl").write_text("{}\n")
        (folder / "my.secret").write_text("")
        subprocess.run(["git", "init", "-q", folder], check=True)
        monkeypatch.setattr(archive, "ROOT", folder)

    def read(self) -> dict:
        return json.loads((self.where / "world.json").read_text())

    def set(self, **values) -> None:
        path = self.where / "world.json"
        world = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(world | values))

    def codes(self, *lines: str) -> None:
        """What the run ends with, a line for each start; see SETUP."""
        (self.where / "codes").write_text("\n".join(lines) + "\n")

    def calls(self, verb: str = "") -> list[str]:
        """The calls of gcloud so far that contain `verb`."""
        path = self.where / "calls.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        joined = [" ".join(json.loads(line)) for line in lines]
        return [line for line in joined if verb in line]

    def verbs(self) -> list[str]:
        """Create and delete, in order: what costs and what is lost."""
        words = [call.split()[3] for call in self.calls("queued-resources")]
        return [word for word in words if word in ("create", "delete")]

    def close(self) -> None:
        """Ends the runs that are still going on."""
        for pid in self.where.glob("*/*/jax_surgery_run/pid"):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(int(pid.read_text()), signal.SIGKILL)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        time.sleep(0.02)

    def launch(self, *words: str) -> int:
        return cli.main([f"--state={self.state}", *words], self.sleep)
