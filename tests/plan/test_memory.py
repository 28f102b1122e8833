# SPDX-License-Identifier: Apache-2.0
"""The memory of compiled programs: texts checked by hand, and programs compiled here
where libtpu is installed."""

import sys
import time

import pytest
import tpu_programs

from jax_surgery.plan.compiled import dump, memory

GIB = 2**30

ASSIGNMENT = """BufferAssignment:
allocation 0: size 4096, page 0, parameter 0, shape |f32[1024]| at ShapeIndex {}, \
maybe-live-out:
 value: <1 a @0> (size=4096,offset=0): f32[1024]{0:T(1024)}
 value: <9 result @0> (size=4096,offset=0): f32[1024]{0:T(1024)}
allocation 1: size 2048, page 0, parameter 1, shape |f32[512]| at ShapeIndex {}:
 value: <2 b @0> (size=2048,offset=0): f32[512]{0:T(512)}
allocation 2: size 512, page 0, maybe-live-out:
 value: <8 other @0> (size=512,offset=0): f32[]{:T(128)}
allocation 3: size 128, page 0, constant:
 value: <7 zero @0> (size=128,offset=0): s32[]{:T(128)}
allocation 4: size 3000, page 0, preallocated-temp:
 value: <3 cast @0> (size=2048,offset=0): bf16[1024]{0:T(1024)(128)(2,1)}
 value: <4 early @0> (size=300,offset=2048): f32[64]{0:T(128)}
 value: <5 late @0> (size=400,offset=2048): f32[96]{0:T(128)}
 value: <6 empty @0> (size=64,offset=2600): f32[2,4]{1,0:T(2,128)}
 value: <10 w{1} @0> (size=64,offset=2600): f32[2,4]{1,0:T(2,128)}
 value: <11 p{1} (phi) @0> (size=64,offset=2600): f32[2,4]{1,0:T(2,128)}
 value: <13 p{2} (phi) @0> (size=16,offset=2700): f32[3]{0:T(4)}
allocation 5: size 9999, color 1, page 0, preallocated-temp:
 value: <12 fast @1> (size=9999,offset=0): f32[9]{0:T(128)S(1)}
"""

REPORT = """Memory Space: default (color=0)
Total bytes: 9784 (9.6KiB)
"""


def test_parts_by_hand():
    found = memory.read(ASSIGNMENT, REPORT)
    assert found == memory.Memory(4096 + 2048, 512 + 128 + 3000)
    assert found.total == 9784


@pytest.mark.parametrize(
    ("assignment", "report", "message"),
    [
        (ASSIGNMENT[:500], REPORT, "adds up to 6656 bytes and the report to 9784"),
        (ASSIGNMENT, "", "and the report to nothing"),
    ],
)
def test_texts_that_are_cut_off_are_refused(assignment, report, message):
    with pytest.raises(ValueError, match=message):
        memory.read(assignment, report)


def test_the_compilers_error_says_how_much():
    message = (
        "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the "
        "total memory required for HLO temporaries (19.49G) exceeds available HBM "
        "(15.75G). HLO module: jit_step."
    )
    assert memory.out_of_memory(message) == (19.49 * GIB, 15.75 * GIB)
    in_mib = message.replace("15.75G", "512.5M")
    assert memory.out_of_memory(in_mib) == (19.49 * GIB, 512.5 * 2**20)
    assert memory.out_of_memory("RESOURCE_EXHAUSTED: out of disk (3G)") is None


def test_nothing_is_read_of_nothing(tmp_path):
    assert dump.read_memory(str(tmp_path)) is None
    assert dump.read_schedule(str(tmp_path), "jit_step") is None


def test_a_command_that_compiles_nothing_says_its_last_lines():
    fails = [sys.executable, "-c", "import sys; print('so long'); sys.exit(3)"]
    with pytest.raises(RuntimeError, match=r"ended with status 3(?s:.)*so long"):
        dump.compiled(fails)
    with pytest.raises(
        RuntimeError, match=r"ended with status 0, and compiled no jit_step"
    ):
        dump.compiled([sys.executable, "-c", "print('done')"], "jit_step")
    begun = time.monotonic()
    sleeps = [sys.executable, "-c", "import time; time.sleep(60)"]
    with pytest.raises(TimeoutError, match=r"was not known after 0\.3 s"):
        dump.compiled(sleeps, timeout=0.3)
    assert time.monotonic() - begun < 10


SCAN = ["fsdp_scan", "v5e:2x2", 3, 512, 131072]


@pytest.fixture(scope="module")
def scan() -> dict:
    return tpu_programs.run(SCAN)[0]


@tpu_programs.needs_libtpu
def test_it_ends_a_compilation_when_memory_is_known(scan):
    # Were the first not ended, the second would be refused.
    endless = tpu_programs.command(SCAN, ["no such program", ""], only_compile=True)
    found, program = dump.compiled(endless, "jit_step")
    assert [found.arguments, found.added] == [scan["arguments"], scan["added"]]
    # What the program does is known before code generation; its cycles are not.
    assert [program.flops, program.bytes_by_kind()] == [scan["flops"], scan["bytes"]]
    assert not program.work


@tpu_programs.needs_libtpu
def test_a_program_that_does_not_fit_says_what_it_needs():
    large = tpu_programs.command(["too_large", "v5e:1x1"], only_compile=True)
    with pytest.raises(
        dump.DoesNotFit, match=r"400\.00 GiB of a chip's 15\.75"
    ) as error:
        dump.compiled(large)
    assert error.value.needed == 400 * GIB
