# SPDX-License-Identifier: Apache-2.0
"""Many hosts: joining them, who writes, and waiting for each other.

On a TPU pod every host runs the same command and JAX finds the others by itself, as it
does under Slurm, Open MPI and Kubernetes. Elsewhere three variables name them: JAX_COORDINATOR_ADDRESS
(host:port of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID.
"""

import atexit
import glob
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax._src.distributed import (
    global_state,
)  # has the client, which nothing public has
from jax.experimental import multihost_utils

from jax_surgery.parallel import backend, peers

VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")

# How long a process that ends waits for the others to end. They all do so together,
# so it is only long where one alone has failed, and then the others are to end too.
SHUTDOWN_SECONDS = 30
MESSAGE_BYTES = 10_000  # of an error, that other processes are told

# What says that a process is one of many where there is no TPU.
CLUSTERS = ("SLURM_JOB_ID", "OMPI_MCA_orte_hnp_uri", "KUBERNETES_SERVICE_HOST")


def initialise() -> None:
    """Joins the processes of a run; one machine alone needs nothing.

    Must run before any other use of JAX.

    Raises:
      ValueError: some of `VARIABLES` are set and others are not, or they are not such
        numbers.
    """
    backend.choose()
    given = [name for name in VARIABLES if os.environ.get(name)]
    if given and len(given) < len(VARIABLES):
        lacking = [name for name in VARIABLES if name not in given]
        raise ValueError(
            f"{', '.join(given)} is set and {', '.join(lacking)} is not; many "
            f"hosts need all of {', '.join(VARIABLES)}, one host none."
        )
    if given:
        address, count, place = (os.environ[name] for name in VARIABLES)
        if not (count.isdigit() and place.isdigit() and int(place) < int(count)):
            raise ValueError(
                f"JAX_NUM_PROCESSES={count!r} and JAX_PROCESS_ID={place!r} must be "
                "whole numbers, and the second below the first: processes are numbered "
                "from 0."
            )
        _join(
            coordinator_address=address,
            num_processes=int(count),
            process_id=int(place),
        )
        return
    chips = glob.glob("/dev/accel*") + glob.glob("/dev/vfio/[0-9]*")
    if not chips and not any(name in os.environ for name in CLUSTERS):
        return  # looking for a TPU pod would print warnings where libtpu is installed
    try:
        _join()
    except ValueError:
        # No cluster was found: this machine alone. A cluster that was found and does
        # not answer raises RuntimeError, and stops the run.
        pass


def _join(**named: Any) -> None:
    """Joins the processes, and watches them where there are several."""
    # Signals are ours (`preemption`): JAX would take SIGTERM over.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        shutdown_timeout_seconds=SHUTDOWN_SECONDS,
        heartbeat_timeout_seconds=peers.HEARTBEAT_SECONDS,
        **named,
    )
    # Nothing public has the client of the service that has joined them.
    if global_state.num_processes > 1:
        client, index = global_state.client, global_state.process_id
        peers.watch(client, index, global_state.num_processes)
        atexit.register(peers.finish)  # before JAX's, which was registered earlier


def after_error(error: Exception) -> None:
    """Ends this process with another one's words where that one's end is the cause of
    an error here; returns where it is not."""
    peers.after_error(error)


def is_lead() -> bool:
    """Whether this process writes what is written once: results, reports, metrics."""
    return jax.process_index() == 0


def wait(name: str) -> None:
    """Returns when every process has reached the point of that name."""
    multihost_utils.sync_global_devices(name)


def all_agree(value: bool) -> bool:
    """Whether something is true on every process."""
    return bool(np.all(multihost_utils.process_allgather(np.array(value))))


def on_lead(task: Callable[[], None]) -> None:
    """Runs a task on the lead process while the others wait for it.

    Raises:
      Exception: what the task raised, on the lead process.
      ValueError: with the same words, on the others.
    """
    error, told = None, np.zeros(MESSAGE_BYTES, np.uint8)
    if is_lead():
        try:
            task()
        except Exception as raised:  # noqa: BLE001 (raised again below)
            error = raised
            words = (str(error) or type(error).__name__).encode()[:MESSAGE_BYTES]
            told[: len(words)] = np.frombuffer(words, np.uint8)
    told = multihost_utils.broadcast_one_to_all(told)
    if error is not None:
        raise error
    if told.any():
        words = bytes(told.astype(np.uint8)).rstrip(b"\0")
        raise ValueError(words.decode(errors="ignore"))
