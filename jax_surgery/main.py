# SPDX-License-Identifier: Apache-2.0
"""Entry point: `python -m jax_surgery.main --config=configs/surgery.py`.

Reads the flags, joins other hosts, and starts the run that `config.run` names.
"""

import os
import pathlib
import sys
from typing import NoReturn

from absl import app, flags, logging
from ml_collections import config_flags

from jax_surgery import renamed

# Before NumPy is loaded. Small matrices are decomposed one after another, and where
# cores are shared OpenBLAS' threads wait for each other by spinning.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "Config file, e.g. configs/surgery.py; override fields as --config.seed=1.",
    lock_config=True,
)
WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Where the run writes, local or gs://; default runs/CONFIG-TIME. A run that was "
    "stopped goes on when it is started with its workdir again.",
)
flags.mark_flag_as_required("config")


def fail(message: object) -> NoReturn:
    """Ends the process with one message."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(1)


def parse_flags(argv: list[str]) -> list[str]:
    """Parses flags; an unknown field of the config is an error in one line."""
    try:
        return app.parse_flags_with_usage(argv)
    except (AttributeError, KeyError, TypeError) as error:
        fail(renamed.of_flags(argv, error))


def main(argv: list[str]) -> None:
    """Runs what the config says."""
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    # Orbax logs every save at INFO; --verbosity=0 shows it.
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)
    # What follows a colon are the config's arguments.
    config_file = config_flags.get_config_filename(flags.FLAGS["config"]).split(":")[0]
    if not pathlib.Path(config_file).is_file():
        fail(f"--config={config_file} does not exist; the configs are in configs/.")
    # JAX and the runs are imported here, so that --help is quick.
    from jax_surgery.parallel import distributed
    from jax_surgery.runs import start

    try:
        distributed.initialise()
        start.start(CONFIG.value, WORKDIR.value, config_file)
    except Exception as error:
        if isinstance(error, start.Interrupted):
            print(error, file=sys.stderr)
            sys.exit(130)  # as shells say of Ctrl-C
        if not start.is_expected(error):
            raise
        fail(error)


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
