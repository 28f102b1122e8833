# SPDX-License-Identifier: Apache-2.0
"""Which kind of device JAX is to use, chosen before it looks for any.

Where libtpu is installed, as for `configs/plan.py`, JAX tries it first, and on a machine
without a TPU libtpu prints errors about hosts that it does not find.
"""

import glob
import importlib.metadata
import importlib.util
import os
import pathlib
import pkgutil

import jax

GOOGLE = "0x1ae0"  # vendor of TPUs on the PCI bus
# What names a TPU's hosts where its devices are hidden.
VARIABLES = ("TPU_NAME", "TPU_WORKER_ID", "TPU_WORKER_HOSTNAMES", "COLAB_TPU_ADDR")
DEVICES = ("/dev/accel*", "/dev/vfio/[0-9]*")


def has_tpu() -> bool:
    """Whether this machine has a TPU, or says that it is one's host."""
    if any(name in os.environ for name in VARIABLES):
        return True
    if any(glob.glob(pattern) for pattern in DEVICES):
        return True
    vendors = glob.glob("/sys/bus/pci/devices/*/vendor")
    return any(pathlib.Path(v).read_text().strip() == GOOGLE for v in vendors)


def has_plugins() -> bool:
    """Whether JAX plug-ins for other devices (GPUs) are installed."""
    if list(importlib.metadata.entry_points(group="jax_plugins")):
        return True
    found = importlib.util.find_spec("jax_plugins")
    folders = found.submodule_search_locations if found else None
    return bool(folders and list(pkgutil.iter_modules(folders)))


def choose() -> None:
    """Takes the CPU where there is nothing else; must run before JAX finds devices.

    What JAX_PLATFORMS says counts, and elsewhere JAX looks for devices itself.
    """
    if jax.config.values["jax_platforms"] or has_tpu() or has_plugins():
        return
    jax.config.update("jax_platforms", "cpu")
