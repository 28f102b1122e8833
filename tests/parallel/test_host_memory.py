# SPDX-License-Identifier: Apache-2.0
"""What a process frees is kept: touching it again makes no page faults."""

import subprocess
import sys

import on_devices
import pytest

CODE = """
import resource, sys
import numpy as np
from jax_surgery.parallel.host_memory import keep_freed_memory
kept = keep_freed_memory() if sys.argv[1] == "keep" else None
def touch():
    np.ones(2**24)  # 128 MiB, freed at once
touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    touch()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="tells glibc's allocator")
def test_freed_memory_is_kept():
    def faults(how):
        done = subprocess.run(
            [sys.executable, "-c", CODE, how],
            env=on_devices.environment(1),
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.split()

    kept, few = faults("keep")
    assert kept == "True"
    assert int(few) < int(faults("leave")[1]) / 4
