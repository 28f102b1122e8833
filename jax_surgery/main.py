# SPDX-License-Identifier: Apache-2.0
"""Entry point: `jax-surgery --config=surgery`, or `python -m jax_surgery.main`.

Reads the flags, joins other hosts, and starts the run that `config.run` names.
"""

import os
import warnings

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from jax_surgery import command_line
from jax_surgery.parallel import progress, signals

# Before NumPy is loaded. Small matrices are decomposed one after another, and where
# cores are shared OpenBLAS' threads wait for each other by spinning.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
if not progress.on_terminal():
    # Downloads would write carriage returns; ours say how long they take.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")

CONFIG = config_flags.DEFINE_config_file("config", None, "Which run.", lock_config=True)
WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Where the run writes, local or gs://; default runs/CONFIG-TIME. A run that was "
    "stopped goes on when it is started with its workdir again.",
)


def main(argv: list[str]) -> None:
    """Runs what the config says; signals are answered from the beginning on."""
    with signals.handling():
        try:
            run(argv)
        except KeyboardInterrupt:
            signals.end(signals.last_words(), signals.STOPPED)


def run(argv: list[str]) -> None:
    """Runs what the config says."""
    if len(argv) > 1:
        command_line.fail(
            f"unknown arguments: {' '.join(argv[1:])}; fields are given as "
            "--config.FIELD=VALUE."
        )
    # Orbax logs every save at INFO; --verbosity=0 shows it.
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)
    warnings.formatwarning = command_line.one_line_warning
    warnings.showwarning = progress.show_warning
    # What follows a colon are the config's arguments.
    config_file = config_flags.get_config_filename(flags.FLAGS["config"]).split(":")[0]
    if not isinstance(CONFIG.value, dict | ConfigDict):
        command_line.fail(
            f"--config={config_file}: its get_config() gives no ConfigDict."
        )
    # JAX and the runs are imported here, so that --help is quick.
    with progress.phase("loading JAX"):
        from jax_surgery.parallel import distributed
        from jax_surgery.runs import start
    try:
        with progress.phase("looking for other processes of this run"):
            distributed.initialise()
        start.start(CONFIG.value, WORKDIR.value, config_file)
    except Exception as error:  # noqa: BLE001 (each is one line, and ends the process)
        start.end(error)


def cli() -> None:
    """The console script."""
    app.run(main, flags_parser=command_line.parse_flags)


if __name__ == "__main__":
    cli()
