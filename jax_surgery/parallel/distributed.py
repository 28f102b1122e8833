# SPDX-License-Identifier: Apache-2.0
"""Many hosts: joining them, who writes, and waiting for each other.

On a TPU pod every host runs the same command and JAX finds the others by itself, as it
does under Slurm, Open MPI and Kubernetes. Elsewhere three variables name them: JAX_COORDINATOR_ADDRESS
(host:port of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID.
"""

import glob
import os
from collections.abc import Callable

import jax
import numpy as np

VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")

# How long a process that ends waits for the others to end. They all do so together,
# so it is only long where one alone has failed, and then the others are to end too.
SHUTDOWN_SECONDS = 30

# What says that a process is one of many where there is no TPU.
CLUSTERS = ("SLURM_JOB_ID", "OMPI_MCA_orte_hnp_uri", "KUBERNETES_SERVICE_HOST")


def _number(name: str, low: int) -> int:
    text = os.environ[name]
    if not text.isdigit() or int(text) < low:
        raise ValueError(f"{name}={text!r} must be a whole number, {low} or more.")
    return int(text)


def initialise() -> None:
    """Joins the processes of a run; one machine alone needs nothing.

    Must run before any other use of JAX.

    Raises:
      ValueError: some of `VARIABLES` are set and others are not, or are no numbers.
    """
    given = [name for name in VARIABLES if os.environ.get(name)]
    if given and len(given) < len(VARIABLES):
        lacking = [name for name in VARIABLES if name not in given]
        raise ValueError(
            f"{', '.join(given)} is set and {', '.join(lacking)} is not; many "
            f"hosts need all of {', '.join(VARIABLES)}, one host none."
        )
    if given:
        processes = _number("JAX_NUM_PROCESSES", 1)
        place = _number("JAX_PROCESS_ID", 0)
        if place >= processes:
            raise ValueError(
                f"JAX_PROCESS_ID={place} with JAX_NUM_PROCESSES={processes}: "
                f"processes are numbered 0 to {processes - 1}."
            )
        address = os.environ["JAX_COORDINATOR_ADDRESS"]
        jax.distributed.initialize(
            address, processes, place, shutdown_timeout_seconds=SHUTDOWN_SECONDS
        )
        return
    chips = glob.glob("/dev/accel*") + glob.glob("/dev/vfio/[0-9]*")
    if not chips and not any(name in os.environ for name in CLUSTERS):
        return  # looking for a TPU pod would print warnings where libtpu is installed
    try:
        jax.distributed.initialize(shutdown_timeout_seconds=SHUTDOWN_SECONDS)
    except ValueError:
        # No cluster was found: this machine alone. A cluster that was found and does
        # not answer raises RuntimeError, and stops the run.
        pass


def is_lead() -> bool:
    """Whether this process writes what is written once: results, reports, metrics."""
    return jax.process_index() == 0


def wait(name: str) -> None:
    """Returns when every process has reached the point of that name."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def all_agree(value: bool) -> bool:
    """Whether something is true on every process."""
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    return bool(np.all(multihost_utils.process_allgather(np.array(value))))


def on_lead(task: Callable[[], None]) -> None:
    """Runs a task on the lead process while the others wait for it.

    Raises:
      Exception: what the task raised, on the lead process.
      ValueError: with the same words, on the others.
    """
    if jax.process_count() == 1:
        task()
        return
    from jax.experimental import multihost_utils

    error = None
    if is_lead():
        try:
            task()
        except Exception as raised:  # noqa: BLE001 (raised again below)
            error = raised
    words = np.frombuffer(str(error or "").encode(), np.uint8)
    failed, size = multihost_utils.broadcast_one_to_all(
        np.array([error is not None, len(words)])
    )
    if error is not None:
        # The others are told the words of the error, whose number they know now.
        multihost_utils.broadcast_one_to_all(words)
        raise error
    if failed:
        words = multihost_utils.broadcast_one_to_all(np.zeros(int(size), np.uint8))
        raise ValueError(bytes(words).decode())
