# SPDX-License-Identifier: Apache-2.0
"""Starts the run that a config names, in a workdir that belongs to it."""

import pathlib
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

import jax

from jax_surgery import command_line
from jax_surgery.parallel import distributed, host_memory, progress, signals
from jax_surgery.runs import endings
from jax_surgery.runs.settings import RUNS, check_url, from_config
from jax_surgery.storage import space
from jax_surgery.storage.errors import StorageDenied, StorageError
from jax_surgery.train import workdir as workdirs
from jax_surgery.train.loop import Interrupted, TrainingDiverged

# Runs that compute nothing on the mesh, and would only write the same files twice.
ON_LEAD = ("plan", "compare", "edit", "export", "benchmark")
PACKAGE = str(pathlib.Path(__file__).parents[1])


def is_expected(error: BaseException) -> bool:
    """Whether the message says it all; of anything else one line and a file do.

    Those are the loop's stops, and wrong values and missing files that this package
    found; the same from inside a library are a defect here.
    """
    if isinstance(error, TrainingDiverged | Interrupted | StorageError):
        return True
    if not isinstance(error, ValueError | FileNotFoundError):
        return False
    raised_in = traceback.extract_tb(error.__traceback__)[-1].filename
    return raised_in.startswith(PACKAGE)


def ended_by(error: Exception) -> tuple[str, int]:
    """What is said of an error that ends the run, and the exit code."""
    if not is_expected(error):
        return command_line.unforeseen(error), command_line.FAILED
    wrong = isinstance(error, ValueError | FileNotFoundError | StorageDenied)
    return str(error), command_line.WRONG_INPUT if wrong else command_line.FAILED


def end(error: Exception) -> NoReturn:
    """Ends the process after an error of a run; others of the run are told why."""
    if isinstance(error, Interrupted):
        if signals.ending():
            signals.end(str(error), signals.STOPPED)
        print(error, file=sys.stderr)  # all processes have stopped together
        sys.exit(signals.STOPPED)
    distributed.after_error(error)
    command_line.fail(*ended_by(error), end=signals.end)


def start(
    config: Any,
    workdir: str | None,
    config_file: str = "run.py",
    again: Callable[[str], str] = workdirs.resume_command,
) -> None:
    """Runs a config in a workdir.

    Args:
      config: see `settings.from_config`.
      workdir: local or gs://; None takes `workdir.default`.
      config_file: the config's, which names that.
      again: what goes on with a run that was stopped, of its workdir: of a command line
        the same line.

    Raises:
      Interrupted: after Ctrl-C or SIGTERM, saying how to go on.
      TrainingDiverged, ValueError, FileNotFoundError: see the runs.
      StorageError: a full disk, a bucket that cannot be used, or a workdir in use.
    """
    settings = from_config(config)
    check_url(workdir or "", "--workdir")
    if settings.run == "plan":
        # Compiler readers are loaded for this run alone.
        from jax_surgery.plan import topologies

        topologies.prepare()  # before JAX looks for devices
    with progress.phase("looking for devices"):
        backend = jax.default_backend()
    if backend == "cpu" and settings.run != "plan":
        host_memory.keep_freed_memory()
    with progress.screen():
        _start(settings, workdir, config_file, again)


def _start(
    settings: Any, workdir: str | None, config_file: str, again: Callable[[str], str]
) -> None:
    workdir = workdir or workdirs.default(config_file)
    if "://" not in workdir:
        workdir = str(pathlib.Path(workdir).expanduser().absolute())
    folder = workdirs.claim(settings, workdir)
    run = RUNS[settings.run].load().run
    go_on = f"Go on with:\n  {again(workdir)}"
    at_once = f"stopped at once; what was saved before stays in {workdir}. {go_on}"
    signals.set_last_words(at_once)
    try:
        with progress.phase("the whole run"):
            if settings.run in ON_LEAD:
                distributed.on_lead(lambda: run(settings, workdir))
            else:
                run(settings, workdir)
    except Interrupted as error:
        raise Interrupted(f"{error} {go_on}") from None
    except KeyboardInterrupt:
        raise Interrupted(at_once) from None
    except Exception as error:
        if isinstance(error, ValueError | FileNotFoundError | StorageError):
            workdirs.abandon(folder)
        if space.is_full(error) and not isinstance(error, StorageError):
            raise space.full("what this run writes", workdir) from error
        raise
    else:
        workdirs.finish(folder, settings.run)
        for line in endings.lines(settings, folder):
            print(line)
    finally:
        workdirs.release()
