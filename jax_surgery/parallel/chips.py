# SPDX-License-Identifier: Apache-2.0
"""Checks that JAX sees every TPU chip of this host: `python -m jax_surgery.parallel.chips`.

`tpu_setup.sh` ends with it. How many chips there must be is said by the machine: the
environment (GKE), the metadata of the TPU VM (Cloud), and its device files.
"""

import glob
import math
import os
import re
import sys
import urllib.request
from collections.abc import Sequence

import jax

from jax_surgery.parallel import backend

BOUNDS = "CHIPS_PER_HOST_BOUNDS"  # e.g. "2,2,1"; in the environment with TPU_ before it
METADATA = (
    "http://metadata.google.internal/computeMetadata/v1/instance/attributes/tpu-env"
)
# What hides some of the chips from a process.
HIDING = ("TPU_VISIBLE_CHIPS", "TPU_VISIBLE_DEVICES")


def tpu_metadata() -> dict[str, str]:
    """What Google Cloud says of this TPU VM; empty elsewhere.

    Its lines have the form NAME: 'VALUE'.
    """
    request = urllib.request.Request(METADATA, headers={"Metadata-Flavor": "Google"})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            text = answer.read().decode()
    except OSError:  # no such host, refused, or a VM without a TPU (404)
        return {}
    return dict(re.findall(r"^(\w+): *'?([^'\n]*)'?$", text, re.MULTILINE))


def expected() -> dict[str, int]:
    """How many chips this host has, by what says so; empty where nothing does."""
    found = {}
    for source, bounds in (
        (f"TPU_{BOUNDS}", os.environ.get(f"TPU_{BOUNDS}", "")),
        ("the VM's metadata", tpu_metadata().get(BOUNDS, "")),
    ):
        if re.fullmatch(r"\d+(,\d+)*", bounds):
            found[source] = math.prod(map(int, bounds.split(",")))
    for pattern in backend.DEVICES:
        if files := glob.glob(pattern):
            found[pattern] = len(files)
    return found


def chips(devices: Sequence[jax.Device]) -> int:
    """Number of chips; of some generations (v2, v3, v7x) a chip is two devices."""
    return len({tuple(device.coords) for device in devices})


def check() -> str:
    """What was found, in a line.

    Raises:
      RuntimeError: there is no TPU, JAX cannot open it, or it sees fewer chips than
        there are.
    """
    wanted = expected()
    said = ", ".join(f"{number} by {source}" for source, number in wanted.items())
    if not wanted:
        raise RuntimeError(
            "this machine has no TPU: there is no device file "
            f"{' or '.join(backend.DEVICES)}, and no metadata of a TPU VM. Expected at "
            "least 1 chip, found 0. Run ./tpu_setup.sh on a TPU VM; the packages are "
            "installed, and JAX uses the CPU here."
        )
    # Without this JAX would go on with the CPU, and not say what the TPU's error was.
    jax.config.update("jax_platforms", "tpu")
    try:
        devices = jax.local_devices()
    except RuntimeError as error:
        raise RuntimeError(
            f"JAX cannot open the TPU (chips expected: {said}): {error}. A process has its "
            "chips alone: where another one holds them ('sudo lsof /dev/accel* "
            "/dev/vfio/*' lists it), end it and run this again; else reboot the VM."
        ) from error
    found, number = chips(devices), max(wanted.values())
    if found < number:
        hidden = [f"{n}={os.environ[n]}" for n in HIDING if n in os.environ]
        raise RuntimeError(
            f"JAX sees {found} of {number} chips (expected: {said}). "
            + (
                f"Unset {' and '.join(hidden)}, which hides chips, and run this again."
                if hidden
                else "Reboot the VM or create it again; a chip that is missing again "
                "is broken."
            )
        )
    return (
        f"{found} of {number} chips here: {devices[0].device_kind} ({said}); "
        f"{chips(jax.devices())} in the slice, on {jax.process_count()} hosts"
    )


def main() -> None:
    """Prints what was found; ends with status 1 where something lacks."""
    try:
        print(f"devices: {check()}")
    except RuntimeError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
