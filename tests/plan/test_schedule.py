# SPDX-License-Identifier: Apache-2.0
"""Cycles, products and collectives of compiled programs: texts checked by hand."""

import pathlib

import pytest

from jax_surgery.plan.compiled import hlo, loops, schedule
from jax_surgery.plan.compiled.scopes import NO_SCOPE, phase, scope

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "fsdp_scan_v5e_2x2.txt"
MIB = 2**20


def cycles(count: int) -> str:
    return f'backend_config={{"window_config":{{"estimated_cycles":"{count}"}}}}'


def loop(condition: str, start: int = 0, step: str = "add", bound: int = 6) -> str:
    """A program that runs one operation of 10 cycles in a loop."""
    return f"""
%body (p: (s32[], f32[8], s32[])) -> (s32[], f32[8], s32[]) {{
  %p = (s32[], f32[8]{{0:T(128)}}, s32[]) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %two = s32[] constant(2)
  %next = s32[] {step}(%i, %two)
  %x = f32[8] get-tuple-element(%p), index=1
  %y = f32[8] negate(%x), metadata={{op_name="jit(f)/while/body/a/neg"}}, {cycles(10)}
  %n = s32[] get-tuple-element(%p), index=2
  ROOT %out = (s32[], f32[8], s32[]) tuple(%next, %y, %n)
}}

%condition (p: (s32[], f32[8], s32[])) -> pred[] {{
  %p.1 = (s32[], f32[8], s32[]) parameter(0)
  %i.1 = s32[] get-tuple-element(%p.1), index=0
  %n.1 = s32[] get-tuple-element(%p.1), index=2
  ROOT %go = pred[] compare({condition}
}}

ENTRY %main (x: f32[8]) -> f32[8] {{
  %x.2 = f32[8] parameter(0)
  %start = s32[] constant({start})
  %copied = s32[] copy(%start)
  %bound = s32[] constant({bound})
  %t = (s32[], f32[8], s32[]) tuple(%copied, %x.2, /*index=2*/%bound)
  %w = (s32[], f32[8], s32[]) while(%t), condition=%condition, body=%body, \
metadata={{op_name="jit(f)/while"}}
  ROOT %r = f32[8] get-tuple-element(%w), index=1
}}
"""


@pytest.mark.parametrize(
    ("condition", "start", "step", "bound", "turns"),
    [
        ("%i.1, %n.1), direction=LT", 0, "add", 6, 3),
        ("%i.1, %n.1), direction=LT", 0, "add", 7, 4),
        ("%i.1, %n.1), direction=LE", 0, "add", 6, 4),
        ("%n.1, %i.1), direction=GT", 2, "add", 6, 2),  # mirrored
        ("%i.1, %n.1), direction=GT", 9, "subtract", 0, 5),
        ("%i.1, %n.1), direction=GE", 8, "subtract", 0, 5),
        ("%i.1, %n.1), direction=NE", 0, "add", 6, 3),
        ("%i.1, %n.1), direction=LT", 9, "add", 6, 0),
    ],
)
def test_a_loop_counts_as_often_as_python_would(condition, start, step, bound, turns):
    text = loop(condition, start, step, bound)
    assert loops.trips(hlo.parse(text).entry["w"], {}) == turns
    assert schedule.read(text).cycles == 10 * turns


def test_a_loop_whose_end_depends_on_data_is_named_and_counted_once():
    text = loop("%i.1, %n.1), direction=LT").replace(
        "%bound = s32[] constant(6)", "%bound = s32[] parameter(1)"
    )
    read = schedule.read(text)
    assert read.unknown_loops == ["jit(f)/while"]
    assert read.cycles == 10
    # Unless the source says what the most is.
    read = schedule.read(text.replace("jit(f)/while", "jit(f)/at_most_7/while"))
    assert (read.cycles, read.unknown_loops) == (70, [])
    # A counter that is doubled is no count either.
    read = schedule.read(loop("%i.1, %n.1), direction=LT", step="multiply"))
    assert read.unknown_loops == ["jit(f)/while"]


def test_computations_of_another_core_are_read():
    """v5p's SparseCore gathers beside the rest; its computations end with its name."""
    text = """
%gathers (p: f32[8]) -> f32[8] {
  ROOT %p = f32[8] parameter(0)
}, execution_thread="sparsecore"

%inner (q: f32[8]) -> f32[8] {
  %q = f32[8] parameter(0)
  ROOT %n = f32[8] negate(%q), backend_config={"estimated_cycles":"7"}
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %x = f32[8] parameter(0)
  %s = ((f32[8]), f32[8], u32[]) async-start(%x), \
async_execution_thread="sparsecore", calls=%gathers
  %d = f32[8] async-done(%s), async_execution_thread="sparsecore", calls=%gathers
  ROOT %r = f32[8] fusion(%d), kind=kLoop, calls=%inner
}
""".replace("\\\n", "")
    assert set(hlo.parse(text)) == {"gathers", "inner", "main"}
    assert schedule.read(text).cycles == 7


def test_a_scan_over_layers_by_hand():
    """The sums over the golden text's lines with estimated_cycles."""
    read = schedule.read(GOLDEN.read_text())
    forward = 5206 + 10856 + 15377 + 21340
    backward = 15377 + 5206 + 21340 + 21340 + 3010 + 21340
    outside = 15185 + 15889 + 208 + 23302
    assert read.cycles == 3 * forward + 3 * backward + outside
    # A gather of 2 MiB each way, and a reduce-scatter that is written as an all-reduce.
    assert read.bytes_by_kind() == {
        "all-gather": 2 * 3 * 2 * MIB,
        "reduce-scatter": 3 * 2 * MIB,
    }
    # Forward, recomputed, and two products backward, of 1024^3 in 3 layers.
    assert read.flops == 3 * 4 * 2 * 1024**3
    assert read.cycles_by_category() == {
        "product": 3 * 4 * 21340,
        "move": 3 * (5206 + 10856 + 15377) + 3 * (15377 + 5206) + 208,
        "element-wise": 3 * 3010 + 15185 + 15889 + 23302,
    }
    scopes = read.cycles_by_scope()
    assert scopes["backward mlp"] == 3 * 2 * 21340
    assert scopes["recompute mlp"] == 3 * 21340
    assert scopes["optimizer"] == 23302
    assert scopes["ws"] == 15185  # a cast of the weights before the loop
    assert sum(scopes.values()) == read.cycles
    assert read.collectives[0] == ("all-gather", 2 * MIB, 3)


CHAIN = f"""
%start_computation (a: bf16[4,8]) -> bf16[16,8] {{
  %a = bf16[4,8] parameter(0)
  ROOT %ag = bf16[16,8] all-gather(%a), channel_id=3, dimensions={{0}}, \
frontend_attributes={{chain_id="1"}}, metadata={{op_name="jit(f)/gather/ag"}}
}}

%overlapping (b: bf16[4,8], z: f32[64]) -> f32[64] {{
  %b = bf16[4,8] parameter(0)
  %z = f32[64] parameter(1)
  %ag.1 = bf16[16,8] all-gather(%b), channel_id=3, dimensions={{0}}, \
frontend_attributes={{chain_id="1"}}, metadata={{op_name="jit(f)/gather/ag"}}
  ROOT %q = f32[64] negate(%z), {cycles(7)}
}}

%inner_body (p: (s32[], bf16[4,8], f32[64])) -> (s32[], bf16[4,8], f32[64]) {{
  %p = (s32[], bf16[4,8], f32[64]) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %one = s32[] constant(1)
  %next = s32[] add(%i, %one)
  %c = bf16[4,8] get-tuple-element(%p), index=1
  %d = f32[64] get-tuple-element(%p), index=2
  %f = f32[64] fusion(%c, %d), kind=kCustom, calls=%overlapping
  ROOT %out = (s32[], bf16[4,8], f32[64]) tuple(%next, %c, %f)
}}

%inner_condition (p: (s32[], bf16[4,8], f32[64])) -> pred[] {{
  %p.1 = (s32[], bf16[4,8], f32[64]) parameter(0)
  %i.1 = s32[] get-tuple-element(%p.1), index=0
  %five = s32[] constant(5)
  ROOT %go = pred[] compare(%i.1, %five), direction=LT
}}

%cheap (x: f32[64]) -> f32[64] {{
  %x = f32[64] parameter(0)
  ROOT %n = f32[64] negate(%x), {cycles(2)}
}}

%dear (x: f32[64]) -> f32[64] {{
  %x.1 = f32[64] parameter(0)
  %r = f32[64] all-reduce(%x.1), to_apply=%cheap
  ROOT %n.1 = f32[64] negate(%r), {cycles(900)}
}}

ENTRY %main (a: bf16[4,8], b: f32[64]) -> f32[64] {{
  %a.9 = bf16[4,8] parameter(0)
  %b.9 = f32[64] parameter(1)
  %begin = bf16[16,8] fusion(%a.9), kind=kCustom, calls=%start_computation
  %zero = s32[] constant(0)
  %t = (s32[], bf16[4,8], f32[64]) tuple(%zero, %a.9, %b.9)
  %w = (s32[], bf16[4,8], f32[64]) while(%t), condition=%inner_condition, \
body=%inner_body
  %g = f32[64] get-tuple-element(%w), index=2
  %s = (f32[64], f32[64], u32[]{{:S(2)}}, u32[]{{:S(2)}}) \
collective-permute-start(%g), channel_id=4, source_target_pairs={{{{0,1}},{{1,0}}}}
  %e = f32[64] collective-permute-done(%s)
  %gs = (bf16[4,8], bf16[16,8]) all-gather-start(%a.9), dimensions={{0}}
  %ge = bf16[16,8] all-gather-done(%gs)
  %splash.3 = f32[64] custom-call(%e), custom_call_target="tpu_custom_call", \
frontend_attributes={{kernel_metadata={{
 }}}}, metadata={{op_name="jit(f)/attention/splash/pallas_call"}}
  %other.12 = f32[64] custom-call(%splash.3), custom_call_target="tpu_custom_call"
  %which = s32[] constant(1)
  %both = (f32[64], bf16[8]) all-reduce(%other.12, %b8), to_apply=%cheap
  %b8 = bf16[8] constant({{1, 2, 3, 4, 5, 6, 7, 8}})
  %send = (f32[64], u32[], token[]) send(%b.9, %tok), is_host_transfer=true, \
frontend_attributes={{_xla_host_transfer_rendezvous="all-reduce_0"}}
  %tok = token[] after-all()
  ROOT %k = f32[64] conditional(%which, %b.9, %b.9), \
branch_computations={{%dear, %cheap}}
}}
"""


def test_every_operation_counts_once_however_it_is_written():
    read = schedule.read(CHAIN)
    kinds = {}
    for kind, size, times in read.collectives:
        kinds.setdefault(kind, []).append((times, size))
    # The gather that overlaps with an inner loop of five turns starts once.
    assert kinds["all-gather"] == [(1, 16 * 8 * 2), (1, 16 * 8 * 2)]
    assert kinds["collective-permute"] == [(1, 64 * 4)]
    # The dear branch's all-reduce is not counted: the sum is a lower bound.
    assert kinds["all-reduce"] == [(1, 64 * 4 + 8 * 2)]
    assert kinds["all-reduce between slices"] == [(1, 64 * 4)]
    assert read.cycles == 5 * 7 + 2
    assert read.kernel_calls() == {"splash": 1, "other": 1}


def test_a_text_of_another_kind_is_refused():
    whole = GOLDEN.read_text()
    with pytest.raises(ValueError, match="main.5_spmd does not end"):
        schedule.read(whole[: whole.rindex("ROOT")])
    with pytest.raises(ValueError, match="it has no ENTRY"):
        schedule.read(whole[: whole.rindex("ENTRY")])
    with pytest.raises(ValueError, match="none has estimated_cycles"):
        schedule.read(whole.replace("estimated_cycles", "cycles"))


@pytest.mark.parametrize(
    ("op_name", "expected", "of_phase"),
    [
        (
            "jit(step)/jvp()/while/body/closed_call/mlp/up/dot",
            "forward mlp/up",
            "forward",
        ),
        (
            "jit(step)/transpose(jvp())/while/body/closed_call/checkpoint/mlp/dot",
            "backward mlp",
            "backward",
        ),
        (
            "jit(f)/transpose(jvp(block/mlp))/checkpoint/rematted_computation/mul",
            "recompute block/mlp",
            "recompute",
        ),
        ("jit(step)/optimizer/sub", "optimizer", ""),
        ("jit(step)/jvp(head)/a;jit(step)/jvp(tail)/b", "forward head", "forward"),
        (
            "jit(f)/vmap(jvp(attention))/jit(silu)/exp",
            "forward attention/silu",
            "forward",
        ),
        ("params['layers']['mlp/up']", "params['layers']['mlp/up']", ""),
        ("jit(f)/add", NO_SCOPE, ""),
        ("", NO_SCOPE, ""),
    ],
)
def test_scopes_are_what_a_person_named(op_name, expected, of_phase):
    assert scope(op_name) == expected
    assert phase(op_name) == of_phase


def test_scopes_may_be_cut_short():
    assert scope("jit(f)/jvp()/a/b/c/add", depth=2) == "forward a/b"
    assert scope("jit(f)/jvp()/a/b/c/add", depth=0) == "forward"


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        ("bf16[8,128]{1,0:T(8,128)(2,1)S(1)}", [2048]),
        ("(f32[3]{0:T(128)}, (pred[5], /*index=2*/s4[3]), token[])", [12, 5, 2, 0]),
        ("f8e4m3fn[7]", [7]),
        ("u32[]{:S(2)}", [4]),
    ],
)
def test_bytes_of_shapes(shape, sizes):
    assert [array.bytes for array in hlo.arrays(shape)] == sizes
