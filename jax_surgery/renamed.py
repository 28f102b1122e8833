# SPDX-License-Identifier: Apache-2.0
"""Names of fields that do not exist: what they are called now, or which one is meant."""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

_ADAPTER = (
    "adapters of the runs unlearn and learn are moved by Adam at a constant rate, "
    "config.optimizer.learning_rate, with the gradient norm clipped at 1."
)
# Fields that were renamed or removed, "section.field": what to use now, or why it went.
RENAMED: dict[str, str] = {
    "tasks.rows_kept": "it is config.tasks.rows_retained now.",
    "tasks.records": "it is a constant now, 1000 of each task (RECORDS in methods/subspace/work.py).",
    "tasks.overlap": "it is a constant now, 0.38 (OVERLAP in runs/by_tasks.py).",
    "tasks.known": "it is a constant now, 0.1 (KNOWN in methods/subspace/work.py).",
    "identify.loss": "it is an option of the method now: config.method=subspace:loss=cross_entropy.",
    "identify.temperature": "it is an option of the method now: config.method=subspace:temperature=4.",
    "identify.bound": "it is a constant now, -3 (UNLEARNED in methods/subspace/text.py).",
    "identify.learned": "it is a constant now, 6 (LEARNED in methods/subspace/text.py).",
    "identify.overwrite": "it is an option of the method now: config.method=subspace:overwrite=1.",
    "identify.order": "it is an option of the method now: config.method=subspace:order=cyclic.",
    "identify.start": "it is an option of the method now: config.method=subspace:random_start=True,one_shot=True.",
    "identify.adam": "it is an option of the method now: config.method=subspace:adam=1e-3.",
    "discriminate.method": "it is an option of the method now: config.method=subspace:discriminate=gram_schmidt.",
    "discriminate.ridge": "it is an option of the method now: config.method=subspace:ridge=1e-3.",
    "discriminate.similar_weight": "it is a constant now, 5 (SIMILAR_WEIGHT in methods/subspace/text.py).",
    "discriminate.refresh": "it is an option of the method now: config.method=subspace:refresh=6.",
    "discriminate.rank": "it is a constant now, 16 (GRAM_SCHMIDT_RANK in methods/subspace/rounds.py).",
    "discriminate.guard": "it is an option of the method now: config.method=subspace:guard=0.",
    "discriminate.guard_bound": "it is a constant now, 4 (GUARDED in methods/subspace/text.py).",
    "rounds.mode": "it is an option of the method now: config.method=subspace:one_shot=True (the paper as its figure has it: config.method=unlearn_paper).",
    "rounds.schedule": "it is an option of the method now: config.method=subspace:cosine=True.",
    "rounds.mend": "it is an option of the method now: config.method=subspace:mend=0.",
    "rounds.mend_rounds": "it is a constant now, 4 (MEND_ROUNDS in methods/subspace/stage_rounds.py).",
    "rounds.cut_every": "it is a constant now, 3 (CUT_EVERY in methods/subspace/stage_rounds.py).",
    "harden.copies": "it is an option of the method now: config.method=subspace:harden=6.",
    "harden.steps": "it is a constant now, 10 (RELEARN_STEPS in methods/subspace/harden.py).",
    "harden.rate": "it is an option of the method now: config.method=subspace:harden_rate=1e-3.",
    "harden.rounds": "it is a constant now, 6 (ROUNDS in methods/subspace/harden.py).",
    "harden.statistics": "it is an option of the method now: config.method=subspace:harden_statistics=copy.",
    "statistics.save_every": "it is a constant now, 200 (SAVE_EVERY in methods/subspace/knowledge.py).",
    "report.alphas": "config.report is 'full' or 'scores' now; the alphas are constants (ALPHAS in report/task_results.py).",
    "report.angles": "config.report is 'full' or 'scores' now; 8 singular vectors of each task (RANK in methods/subspace/overlap.py).",
    "lora.matrices": "it is config.rounds.matrices now, of adapters too.",
    "report.records": "it is a constant now, 200 (CURVE_RECORDS in report/task_results.py).",
    "loop.log_every": "every step and every round is written to metrics.jsonl; only pretraining says how often.",
    "loop.explode_factor": "it is a constant now, 20 (EXPLODED in train/loop.py).",
    "loop.evaluate_questions": "it is a constant now, 200 a group (FIXED in methods/settings.py).",
    "loop.keep": "it is a constant now, 2 checkpoints (FIXED in methods/settings.py and methods/subspace/settings.py).",
    "compute.unroll": "it is chosen now: up to 8 layers a scan step on a CPU, elsewhere 1 (models/compute.py).",
    "objective.ascent": "it is an option of the method now: config.method=surgery:ascent=level.",
    "objective.cap": "it is an option of the method now: config.method=surgery:ascent=cap,cap=5.5.",
    "objective.margin": "it is an option of the method now: config.method=surgery:margin=-11.",
    "objective.softness": "it is an option of the method now: config.method=surgery:softness=8.",
    "statistics.refresh": "statistics are computed once now, before the first step.",
    "optimizer.final": "it is a constant now, 0 (FIXED in methods/settings.py); only pretraining gives it.",
    "optimizer.first_layer": "it is config.rounds.first_layer now, of adapters too.",
    **{
        f"optimizer.{name}": _ADAPTER
        for name in ("name", "schedule", "warmup", "clip", "weight_decay")
    },
}


# What other programs call a field, and its own name here.
ELSEWHERE = {
    "batch_size": "rows",
    "beta1": "b1",
    "beta2": "b2",
    "bs": "rows",
    "grad_accum": "accumulate",
    "gradient_accumulation_steps": "accumulate",
    "max_grad_norm": "clip",
    "max_length": "context",
    "max_seq_length": "context",
    "max_steps": "steps",
    "model_name_or_path": "model",
    "num_train_epochs": "epochs",
    "r": "rank",
    "seq_len": "context",
    "train_steps": "steps",
}
# As near as names are that differ by a slip of the finger.
NEAR = 0.6


def _initials(name: str) -> str:
    return "".join(part[0] for part in name.split("_") if part)


def nearest(name: str, fields: Iterable[str]) -> str:
    """The field that a mistyped or shortened name means; "" where none is near.

    Args:
      name: such as "learning_rte", or "lr" for "learning_rate".
      fields: that there are.
    """
    fields = list(fields)
    known = ELSEWHERE.get(name, "")
    for field in fields:
        if field == known:
            return field
    if near := difflib.get_close_matches(name, fields, n=1, cutoff=NEAR):
        return near[0]
    if len(name) > 1:
        shortened = [f for f in fields if _initials(f) == name or f.startswith(name)]
        longer = [f for f in fields if f.startswith(f"{known}_") and known]
        if found := shortened or longer:
            return found[0]
    return ""


def _leaves(config: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Paths of all fields, "section.field"."""
    for name, value in config.items():
        yield f"{path}{name}"
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{path}{name}.")


def meant(path: str, config: Mapping[str, Any]) -> str:
    """The path of the field that a path means which does not exist; "" if unknown.

    It is looked for in the section that the path names, then in all of the config.

    Args:
      path: "section.field".
      config: nested fields.
    """
    *above, name = path.split(".")
    section: Any = config
    for depth, part in enumerate(above):
        if not isinstance(section, Mapping) or part not in section:
            # The section is mistyped: the same path in the one that is meant.
            there = section if isinstance(section, Mapping) else {}
            right = nearest(part, there)
            corrected = ".".join([*above[:depth], right, *above[depth + 1 :], name])
            paths = set(_leaves(config))
            if right and corrected in paths:
                return corrected
            section = {}
            break
        section = section[part]
    if isinstance(section, Mapping) and (found := nearest(name, section)):
        return ".".join([*above, found])
    by_name: dict[str, str] = {}
    for full in _leaves(config):
        by_name.setdefault(full.rpartition(".")[2], full)
    return by_name.get(nearest(name, by_name), "")


def of_flags(
    arguments: list[str], error: Exception, config: Mapping[str, Any] | None = None
) -> str:
    """What is wrong with flags that name a field which the config does not have.

    Args:
      arguments: of the command line.
      error: of their parser.
      config: nested fields that there are; None where the config is not known.
    """
    said = str(error.args[0]).replace("\\n", "\n")  # of an error in an error
    name, *lines = (line.strip("'\"\\") for line in said.splitlines() or [""])
    for argument in arguments:
        field = argument.lstrip("-").partition("=")[0].removeprefix("config.")
        parts = field.split(".")
        now = RENAMED.get(".".join(parts[-2:]))  # of sections in sections too
        named = any(f"'{part}'" in said for part in parts)
        # A TypeError says that a section of older versions is a field now.
        was_section = isinstance(error, TypeError) and parts[-2:-1] == ["report"]
        if now and (named or was_section):
            return f"config.{field} does not exist any more: {now}"
    for argument in arguments if config else ():
        if said := _unknown(argument, config or {}):
            return said
    hint = " ".join(lines) or "Look for its fields in the config file."
    return f"a --config.FIELD=VALUE names no field of the config: {name}. {hint}"


def _unknown(argument: str, config: Mapping[str, Any]) -> str:
    """What is wrong with the field that an argument names; "" if nothing is."""
    matched = re.match(r"--?config\.([^=]+)", argument)
    if not matched:
        return ""
    path, section = matched[1], config
    for depth, part in enumerate(parts := path.split(".")):
        if not isinstance(section, Mapping):
            return (
                f"config.{path} does not exist: config.{'.'.join(parts[:depth])} is a "
                "field and has none of its own."
            )
        if part not in section:
            found = meant(path, config)
            inside = ".".join(["config", *parts[:depth]])
            hint = f"did you mean config.{found}? " if found else ""
            return (
                f"config.{path} does not exist; {hint}{inside} has: "
                f"{', '.join(section)}."
            )
        section = section[part]
    return ""
