# SPDX-License-Identifier: Apache-2.0
"""Entry point: `python -m jax_surgery.main --config=configs/surgery.py`.

This file is intentionally short: it reads the flags, turns the config into settings
and starts the run that `config.run` names.
"""

import datetime
import pathlib
import sys

from absl import app, flags, logging
from ml_collections import config_flags

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


def _config_name() -> str:
    value = next((a for a in sys.argv if a.startswith("--config=")), "--config=run")
    return pathlib.Path(value.removeprefix("--config=").split(":")[0]).stem


def default_workdir() -> str:
    """runs/NAME-TIME for the config's name and the time now."""
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return f"runs/{_config_name()}-{now}"


def main(argv: list[str]) -> None:
    """Runs what the config says."""
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    # Orbax tells of every save at INFO; --verbosity=0 shows it.
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)
    # JAX and the runs are imported here, so that --help is quick.
    from jax_surgery.runs import start

    try:
        start.start(CONFIG.value, WORKDIR.value or default_workdir())
    except start.EXPECTED_ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    app.run(main)
