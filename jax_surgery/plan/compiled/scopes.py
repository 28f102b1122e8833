# SPDX-License-Identifier: Apache-2.0
"""Where in the source an operation of a compiled step comes from, in words.

JAX writes "jit(step)/transpose(jvp())/while/body/closed_call/checkpoint/mlp/up/add" for
an `add` within `jax.named_scope("mlp")` and `("up")`: here that is "backward mlp/up".
"""

import re

NO_SCOPE = "(no scope)"
# What JAX's own control flow and transformations add to the names.
_STRUCTURE = {
    *("while", "body", "cond", "closed_call", "core_call", "checkpoint", "remat"),
    *("remat2", "rematted_computation", "shard_map", "custom_vjp_call", "pallas_call"),
    *("custom_jvp_call", "custom_vjp_call_jaxpr", "scan", "pjit", "jit", ""),
    "eval_jaxpr",
}
_NUMBERED = r"branch_\d+_fun|at_most_\d+"


def _split(name: str) -> list[str]:
    """At the slashes that stand in no parentheses."""
    parts, depth = [""], 0
    for letter in name:
        depth += (letter == "(") - (letter == ")")
        if letter == "/" and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _named(parts: list[str]) -> list[str]:
    """Scopes and functions that a person named, outermost first."""
    found = []
    for part in parts:
        if wrapped := re.fullmatch(r"\w+\((.*)\)", part, re.DOTALL):
            found += _named(_split(wrapped[1]))
        elif found[-1:] == [part]:
            continue  # a kernel's name is written twice
        elif part not in _STRUCTURE and not re.fullmatch(_NUMBERED, part):
            found.append(part)
    return found


def phase(op_name: str) -> str:
    """ "forward", "recompute" (of what jax.checkpoint did not save), "backward", or ""
    outside of any derivative."""
    if "rematted_computation" in op_name:
        return "recompute"
    if "transpose(" in op_name:
        return "backward"
    return "forward" if "jvp(" in op_name else ""


def scope(op_name: str, depth: int | None = None) -> str:
    """Phase and named scopes of an operation.

    Args:
      op_name: of an instruction's metadata, or an argument's path, which is returned.
      depth: how many scopes to keep, outermost first; None keeps all.

    Returns:
      Such as "backward mlp/up"; NO_SCOPE where nothing is known.
    """
    if not op_name.startswith("jit("):
        return op_name or NO_SCOPE  # an argument's path, or the compiler's own name
    first = op_name.partition(";")[0]  # of operations that became one
    inner = _split(first)[1:-1]  # without the jitted function's and the primitive's
    names = "/".join(_named(inner)[:depth])
    return " ".join(filter(None, (phase(op_name), names))) or NO_SCOPE
