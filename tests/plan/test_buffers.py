# SPDX-License-Identifier: Apache-2.0
"""The memory of compiled steps: texts checked by hand, and programs compiled here
where libtpu is."""

import sys
import time

import pytest
import tpu_programs

from jax_surgery.plan.compiled import buffers, dump

GIB = 2**30

PROGRAM = """
%body (p: (s32[], f32[2,4], f32[3])) -> (s32[], f32[2,4], f32[3]) {
  %p = (s32[], f32[2,4], f32[3]) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %stack = f32[2,4] get-tuple-element(%p), index=1
  %saved = f32[2,4] fusion(%stack), calls=%f, metadata={op_name="jit(f)/body/save"}
  %given = f32[3] get-tuple-element(%p), index=2
  %away = (f32[3], f32[3], u32[]) copy-start(%given)
  %back = f32[3] copy-done(%away)
  ROOT %out = (s32[], f32[2,4], f32[3]) tuple(%i, %saved, %back)
}

%cond (q: (s32[], f32[2,4], f32[3])) -> pred[] {
  %q = (s32[], f32[2,4], f32[3]) parameter(0)
  ROOT %no = pred[] constant(false)
}

%f (r: f32[2,4]) -> f32[2,4] {
  ROOT %r = f32[2,4] parameter(0)
}

ENTRY %main (a: f32[1024], b: f32[512]) -> f32[1024] {
  %a = f32[1024] parameter(0), metadata={op_name="state[\\'w\\']"}
  %b = f32[512] parameter(1), metadata={op_name="batch"}
  %cast = bf16[1024] convert(%a)
  %early = f32[64] negate(%cast), metadata={op_name="jit(f)/early/neg"}
  %late = f32[96] negate(%early), metadata={op_name="jit(f)/late/neg"}
  %zero = s32[] constant(0)
  %empty = f32[2,4] custom-call(), metadata={op_name="jit(f)/empty"}
  %three = f32[3] custom-call(), metadata={op_name="jit(f)/three"}
  %t = (s32[], f32[2,4], f32[3]) tuple(%zero, %empty, %three)
  %w = (s32[], f32[2,4], f32[3]) while(%t), condition=%cond, body=%body
  ROOT %result = f32[1024] add(%a, %late)
}
"""

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

LIVE = """HloLiveRange (max 20):
  InstructionSequence:
    0:a
  BufferLiveRange:
    cast{}:2-9
    early{}:3-4
    late{}:5-8
    empty{}:6-9
    w{1}:6-9
    p{1}:7-9
    p{2}:5-9
    fast{}:0-9
"""

REPORT = """Memory Space: default (color=0)
Total bytes: 9784 (9.6KiB)
"""


def test_parts_and_the_fullest_moment_by_hand():
    memory = buffers.read(ASSIGNMENT, LIVE, PROGRAM, REPORT)
    assert memory.arguments == (
        buffers.Buffer("state['w']", "f32[1024]", 4096, donated=True),
        buffers.Buffer("batch", "f32[512]", 2048, donated=False),
    )
    assert (memory.outputs, memory.constants, memory.temporaries) == (512, 128, 3000)
    assert memory.total == 4096 + 2048 + 512 + 128 + 3000
    # When `late` lives: `early` has gone, and the loop's stack is one buffer, changed
    # in place. A cast is of what it casts.
    assert [(b.op_name, b.shape, b.bytes) for b in memory.peak] == [
        ("state['w']", "bf16[1024]", 2048),
        ("jit(f)/late/neg", "f32[96]", 400),
        ("jit(f)/body/save", "f32[2,4]", 64),
        ("jit(f)/three", "f32[3]", 16),  # copied and passed on as it was given
    ]
    groups = memory.arguments_by(lambda path: path.partition("[")[0])
    assert groups == {"state": 4096, "batch": 2048}


@pytest.mark.parametrize(
    ("assignment", "live", "program", "report", "message"),
    [
        (ASSIGNMENT[:500], LIVE, PROGRAM, REPORT, "and the report to 9784"),
        (ASSIGNMENT, LIVE, PROGRAM, "", "and the report to nothing"),
        (ASSIGNMENT, LIVE[:130], PROGRAM, REPORT, "4 buffers have no live range"),
        (ASSIGNMENT, LIVE, PROGRAM[:-200], REPORT, "not the whole text"),
    ],
)
def test_texts_that_are_cut_off_are_refused(assignment, live, program, report, message):
    with pytest.raises(ValueError, match=message):
        buffers.read(assignment, live, program, report)


def test_the_compilers_error_says_how_much():
    message = (
        "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the "
        "total memory required for HLO temporaries (19.49G) exceeds available HBM "
        "(15.75G). HLO module: jit_step."
    )
    assert buffers.out_of_memory(message) == (19.49 * GIB, 15.75 * GIB)
    in_mib = message.replace("15.75G", "512.5M")
    assert buffers.out_of_memory(in_mib) == (19.49 * GIB, 512.5 * 2**20)
    assert buffers.out_of_memory("RESOURCE_EXHAUSTED: out of disk (3G)") is None


def test_nothing_is_read_of_nothing(tmp_path):
    assert dump.read_memory(str(tmp_path)) is None
    with pytest.raises(FileNotFoundError, match=r"no after_codegen\.txt of jit_step"):
        dump.read_schedule(str(tmp_path), "jit_step")


def test_a_command_that_compiles_nothing_says_its_last_words():
    fails = [sys.executable, "-c", "import sys; print('so long'); sys.exit(3)"]
    with pytest.raises(RuntimeError, match=r"ended with 3(?s:.)*so long"):
        dump.watch(fails)
    with pytest.raises(RuntimeError, match=r"ended with 0, and compiled no jit_step"):
        dump.watch([sys.executable, "-c", "print('done')"], "jit_step")
    begun = time.monotonic()
    sleeps = [sys.executable, "-c", "import time; time.sleep(60)"]
    with pytest.raises(TimeoutError, match=r"0\.3 s were not enough"):
        dump.watch(sleeps, timeout=0.3)
    assert time.monotonic() - begun < 10


SCAN = ["fsdp_scan", "v5e:2x2", 3, 512, 131072]


@pytest.fixture(scope="module")
def scan() -> dict:
    return tpu_programs.run(SCAN)[0]


@tpu_programs.needs_libtpu
def test_memory_of_a_compiled_program_is_what_jax_says(scan):
    # A quarter of the float32 weights, and of 4 x 131072 rows of bfloat16.
    weights, x = 3 * 512**2 * 4 // 4, 131072 * 512 * 2
    assert scan["arguments"] == {"weights": [weights, True], "x": [x, False]}
    assert scan["xla_arguments"] == weights + x
    # JAX adds what is constant, some KiB; with libtpu 0.0.50 it counts a stack twice
    # (402 MB) that the compiler, in its files and in its errors, counts once.
    slack = 256 * 1024
    assert scan["outputs"] == pytest.approx(scan["xla_outputs"], abs=slack)
    assert (scan["xla_temporaries"] - scan["temporaries"]) % (3 * x) < slack
    assert scan["temporaries"] < 8 * x
    # The activations saved for the backward pass are the largest buffer, and what is
    # found at the fullest moment fills the heap.
    assert scan["peak"][0] == ["bf16[3,131072,512]", 3 * x]
    filled = sum(size for _, size in scan["peak"])
    assert 0.8 * scan["temporaries"] <= filled <= scan["temporaries"]


@tpu_programs.needs_libtpu
def test_watching_ends_a_compilation_when_memory_is_known(scan):
    # Were the first not ended, the second would be refused.
    endless = tpu_programs.command(SCAN, ["no such program", ""], only_compile=True)
    memory, _ = dump.watch(endless, "jit_step")
    assert memory.total == scan["total"]
    assert [[b.shape, b.bytes] for b in memory.peak] == scan["peak"]


@tpu_programs.needs_libtpu
def test_a_program_that_does_not_fit_says_what_it_needs():
    large = tpu_programs.command(["too_large", "v5e:1x1"], only_compile=True)
    with pytest.raises(
        dump.DoesNotFit, match=r"400\.00 GiB of a chip's 15\.75"
    ) as error:
        dump.watch(large)
    assert error.value.memory.total == pytest.approx(400 * GIB, rel=0.001)
    assert error.value.needed == 400 * GIB
