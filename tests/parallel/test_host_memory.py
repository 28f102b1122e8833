# SPDX-License-Identifier: Apache-2.0
"""What a process frees is kept: touching it again makes no page faults."""

import importlib.metadata
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import on_devices
import pytest

from jax_surgery.parallel import host_memory

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


RELEASED = """
import numpy as np
from jax_surgery.parallel import host_memory
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20
host_memory.release_freed_memory()  # nothing is kept yet
host_memory.keep_freed_memory()
arrays = [np.ones(2**20) for _ in range(64)]  # 8 MiB each
full = resident()
del arrays[::2]  # between others that live on
kept = resident()
host_memory.release_freed_memory()
print(full - kept, kept - resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="tells glibc's allocator")
def test_kept_memory_can_be_given_back_between_arrays_that_live_on():
    done = subprocess.run(
        [sys.executable, "-c", RELEASED],
        env=on_devices.environment(1),
        capture_output=True,
        text=True,
        check=True,
    )
    at_once, released = map(float, done.stdout.split())
    assert at_once < 16 and released > 200  # MiB, of 256 that were freed


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


def test_a_program_for_the_cpu_is_ordered_for_the_least_memory():
    """Of twelve products that are squared and summed, two are held at once."""

    def sums(x):
        return sum(jnp.sum(y @ y) for y in [jnp.sin(x @ x + i) for i in range(12)])

    def temporaries(options):
        shape = jax.ShapeDtypeStruct((256, 256), jnp.float32)
        compiled = jax.jit(sums, compiler_options=options).lower(shape).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    options = host_memory.memory_first("cpu")
    if options is None:
        pytest.skip("this version of XLA orders programs in one way")
    assert host_memory.memory_first("tpu") is None
    asked, unasked = temporaries(options), temporaries(None)
    assert asked < 4 * 256 * 256 * 4
    if importlib.metadata.version("jaxlib").startswith("0.10."):
        assert unasked > 4 * 256 * 256 * 4
    else:  # so small a program is ordered alike without being asked
        assert unasked >= asked


def test_memory_that_is_available_is_less_than_there_is(monkeypatch, tmp_path):
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < host_memory.available() <= there
    # Systems that do not say it have no such file.
    monkeypatch.setattr(host_memory.pathlib, "Path", lambda _: tmp_path / "none")
    assert host_memory.available() == there
