#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What `python -m launch` asks of each worker; it lies in the checkout that setup copies.
#   worker.sh setup        runs ./tpu_setup.sh
#   worker.sh start FLAG.. starts the run with these flags, apart from this shell, unless it runs
#   worker.sh status       prints one line: launch-status HOST none|running|ended CODE
#   worker.sh stop         ends the run as Ctrl-C would, and after 60 seconds at once
#   worker.sh pack WORKDIR makes results.tar in the home folder, without checkpoints
set -euo pipefail

checkout="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
state="$HOME/jax_surgery_run"

# The run is a process group of its own; after a restart of the machine its number may be
# another's, so the command line is compared too.
running() {
  [[ -f "$state/pid" ]] && pgrep -g "$(cat "$state/pid")" -f jax_surgery.main >/dev/null
}

start() {
  mkdir -p "$state"
  if running; then
    if [[ "$(cat "$state/flags")" == "$*" ]]; then
      echo "runs already"
      return 0
    fi
    echo "error: another run is going on here: $(cat "$state/flags"). Wait for it, or end it" \
      "with 'launch/worker.sh stop' on every worker." >&2
    return 1
  fi
  rm -f "$state/exit"
  echo "$*" >"$state/flags"
  cd "$checkout"
  # A session of its own: it goes on when ssh ends. The variables are expanded in there.
  # shellcheck disable=SC2016
  setsid nohup bash -c '"$@"; echo $? >"$0/exit.half"; mv "$0/exit.half" "$0/exit"' "$state" \
    .venv/bin/python -m jax_surgery.main "$@" >>"$state/log" 2>&1 </dev/null &
  echo "$!" >"$state/pid"
  echo "started"
}

status() {
  if running; then
    echo "launch-status $(hostname) running"
  elif [[ -f "$state/exit" ]]; then
    echo "launch-status $(hostname) ended $(cat "$state/exit")"
  elif [[ -f "$state/pid" ]]; then
    echo "launch-status $(hostname) ended 137" # it was killed, or the machine restarted
  else
    echo "launch-status $(hostname) none"
  fi
}

stop() {
  running || return 0
  local pid
  pid="$(cat "$state/pid")"
  pkill -TERM -P "$pid" || true # the run alone: the shell notes its code
  for _ in $(seq 60); do
    running || return 0
    sleep 1
  done
  kill -KILL -- "-$pid" 2>/dev/null || true
}

pack() {
  cd "$checkout"
  tar -cf "$HOME/results.tar" --exclude=checkpoints --exclude='checkpoints/*' -C "$1" .
}

action="${1:-}"
shift || true
case "$action" in
  setup) cd "$checkout" && ./tpu_setup.sh ;;
  start) start "$@" ;;
  status | stop) "$action" ;;
  pack) pack "$1" ;;
  *)
    echo "usage: worker.sh setup | start FLAG... | status | stop | pack WORKDIR" >&2
    exit 2
    ;;
esac
