#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Sets up a TPU VM (run it on every worker): an isolated environment, JAX for TPU,
# this package, and a look at the devices. Usage: ./tpu_setup.sh [VENV]
set -euo pipefail
cd "$(dirname "$0")"
venv="${1:-.venv}"

python="$(command -v python3.12 || command -v python3.11 || true)"
if [[ -z "$python" ]]; then
  echo "error: no python3.12 or python3.11 on this machine; install one first, e.g." \
    "'sudo apt-get install -y python3.11 python3.11-venv'." >&2
  exit 1
fi

"$python" -m venv "$venv"
"$venv/bin/pip" install -q --upgrade pip
"$venv/bin/pip" install -q 'jax[tpu]>=0.10.2,<0.13'
"$venv/bin/pip" install -q -e '.[tpu]'

"$venv/bin/python" - <<'PYTHON'
import sys

import jax

devices = jax.local_devices()
if devices[0].platform != "tpu":
    sys.exit(
        f"error: JAX sees {devices[0].platform} and no TPU; run this on a TPU VM, and "
        "end other processes that hold the chips (they belong to one at a time)."
    )
print(f"jax {jax.__version__}: {len(devices)} x {devices[0].device_kind} here")
PYTHON
echo "ready: $venv/bin/python -m jax_surgery.main --config=configs/surgery.py"
