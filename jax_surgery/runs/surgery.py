# SPDX-License-Identifier: Apache-2.0
"""Changes what a model knows, and shows it: the runs surgery, unlearn and learn.

    groups of text, model -> probes before -> method -> export, edit file
                          -> probes after -> report

The report page is there from the first probes on, and is written again at each evaluation
on the way (`report.live`).

Groups are written down by role (`runs.by_roles`: the run "surgery") or as a tasks file
(`runs.by_tasks`: "unlearn" and "learn"). These two cases have the steps of `run` as
their methods.
"""

import gc
from typing import Any

from jax_surgery.methods.settings import SurgerySettings
from jax_surgery.methods.subspace.settings import TasksSettings
from jax_surgery.parallel import host_memory, progress
from jax_surgery.report import attack as attack_report
from jax_surgery.report import writer
from jax_surgery.report.live import Live
from jax_surgery.runs.by_roles import ByRoles
from jax_surgery.runs.by_tasks import ByTasks
from jax_surgery.train import devices, identity


def run(settings: SurgerySettings | TasksSettings, directory: str) -> dict[str, Any]:
    """Does the whole run in `directory`; returns what results.json holds.

    Raises:
      FileNotFoundError, ValueError: bad data or settings, before any model is loaded.
      TrainingDiverged, Interrupted: see `loop.train`.
      ValueError: a resumed run that would read something else than when it began.
    """
    by_tasks = isinstance(settings, TasksSettings)
    case = ByTasks(settings) if by_tasks else ByRoles(settings)
    with devices.on_mesh(settings.mesh):
        with progress.phase("loading the model and the texts"):
            model = case.load()
        with progress.phase("hashing what the run reads"):
            identity.check(directory, case.identity(model))
        with progress.phase("preparing the run"):
            case.prepare(model, directory)
        host_memory.release_freed_memory()
        with progress.phase("asking the model before the run"):
            before: Any = case.probe(model)
        watched = Live(directory, case.begun(before), case.budget)
        case.watched = watched
        with watched.until_finished():
            watched.write()
            with progress.phase("quoting the model before the run"):
                examples = case.examples(model)
            host_memory.release_freed_memory()
            with progress.phase("changing the model"):
                changed: Any = case.change(model, before, directory)
        del model  # its parameters may be given up
        gc.collect()
        host_memory.release_freed_memory()
        with progress.phase("writing the model"):
            edited = case.export(changed, directory)

        with progress.phase("asking the model after the run"):
            after: Any = case.probe(edited)
        results, shown = case.report(before, after, changed, directory)
        attacked = case.attack(edited)
        if attacked:
            results |= attacked
            shown = attack_report.with_attacks(shown, attacked)
        with progress.phase("writing the report"):
            if examples:
                shown["examples"] = examples.after(edited)
            writer.write(directory, results, shown)
    return results
