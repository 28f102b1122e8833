#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Sets up a TPU VM: uv, a supported Python, this package with the extra `tpu` at the tested
# versions of constraints/tpu.txt, and a check that JAX sees every chip. Run it on every
# worker of a slice at once. It needs no root rights, and is safe to run again.
# Usage: ./tpu_setup.sh [VENV]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

readonly UV_VERSION=0.13.9        # installed where there is no uv
readonly PYTHONS='>=3.11,<3.13'   # requires-python of pyproject.toml
readonly CHECK_SECONDS=600        # on a slice JAX waits until every worker asks for its chips
readonly UV_FOLDER="$PWD/.uv"
readonly VENV="${1:-.venv}"

fail() {
  echo "error: $*" >&2
  exit 1
}

# Prints the path of a uv that starts.
find_uv() {
  local candidate
  for candidate in uv "${HOME:-}/.local/bin/uv" "$UV_FOLDER/bin/uv"; do
    if "$candidate" --version >/dev/null 2>&1; then
      command -v "$candidate"
      return
    fi
  done
  return 1
}

# Into .uv with the system's pip, whatever its Python; where there is none with curl.
install_uv() {
  if python3 -m pip --version >/dev/null 2>&1; then
    PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1 python3 -m pip install \
      --quiet --upgrade --target "$UV_FOLDER" "uv==$UV_VERSION" && return
  fi
  if command -v curl >/dev/null; then
    local script
    script="$(curl --location --silent --show-error --fail --retry 3 \
      "https://astral.sh/uv/$UV_VERSION/install.sh")" || return
    UV_UNMANAGED_INSTALL="$UV_FOLDER/bin" sh -c "$script"
    return
  fi
  echo "There is neither pip nor curl here." >&2
  return 1
}

if [[ -e "$VENV" && ! -e "$VENV/pyvenv.cfg" && -n "$(ls -A "$VENV")" ]]; then
  fail "$VENV exists and is no virtual environment; name another folder" \
    "(./tpu_setup.sh VENV), or delete it."
fi

if ! uv="$(find_uv)"; then
  echo "installing uv $UV_VERSION in $UV_FOLDER"
  rm -rf "$UV_FOLDER"  # what an interrupted installation left
  install_uv >&2 || true
  uv="$(find_uv)" || fail "uv could not be installed; look at the lines above. This script" \
    "needs pip or curl: 'sudo apt-get update && sudo apt-get install -y" \
    "--no-install-recommends ca-certificates curl python3-pip'. Then run it again."
fi
# shellcheck source=/dev/null
echo "system: $(. /etc/os-release && echo "$PRETTY_NAME"), $("$uv" --version)"

# What is installed already is kept, so that a second run, or one after an interrupted run,
# does only what is left.
"$uv" venv --quiet --allow-existing --python "$PYTHONS" "$VENV" || fail "no Python" \
  "$PYTHONS could be had; look at the lines above. Where this machine has none, uv" \
  "downloads one from GitHub: allow that, name a mirror in UV_PYTHON_INSTALL_MIRROR, or" \
  "install Python 3.12 or 3.11 yourself ('sudo apt-get install -y python3' on Ubuntu 24.04" \
  "and Debian 12). Then run this script again."
echo "python: $("$VENV/bin/python" -c 'import platform, sys
print(platform.python_version(), "in", sys.prefix, "from", sys.base_prefix)')"

echo "installing jax_surgery and the packages of constraints/tpu.txt"
"$uv" pip install --quiet --python "$VENV/bin/python" --constraint constraints/tpu.txt \
  --editable '.[tpu]' || fail "the packages could not be installed; look at the lines" \
  "above. What was downloaded is kept, so run this script again once that is mended."
echo "packages: $("$uv" pip list --python "$VENV/bin/python" --format freeze |
  grep -E '^(jax|jaxlib|jax-surgery|libtpu|flax)==' | paste -s -d ' ')"

code=0
timeout --kill-after=10 "$CHECK_SECONDS" "$VENV/bin/python" -m jax_surgery.parallel.chips ||
  code=$?
case "$code" in
  0) echo "ready: $VENV/bin/python -m jax_surgery.main --config=configs/surgery.py" ;;
  1) exit 1 ;;  # the check has said why
  124 | 137)
    fail "JAX did not get the TPU's chips within $CHECK_SECONDS seconds. On a slice of" \
      "several hosts it waits for all of them: run this script on every worker at once" \
      "(gcloud compute tpus tpu-vm ssh NAME --worker=all --command=...)."
    ;;
  *)
    fail "JAX ended with status $code while it opened the TPU; look at the lines above." \
      "The packages are installed. Reboot the VM and run this script again."
    ;;
esac
