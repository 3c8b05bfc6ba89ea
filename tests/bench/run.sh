#!/usr/bin/env bash
# The benchmark: callbackd against bare programs on the same libraries. What the figures mean is in deploy/PERFORMANCE.md.
#
#   bash tests/bench/run.sh                    everything, five rounds, about 15 minutes on two cores
#   bash tests/bench/run.sh --rounds 9         more rounds
#   bash tests/bench/run.sh --only single      one scenario, or several separated by commas; --help lists them
#   bash tests/bench/run.sh --quick            a short try of everything; its figures say little
#   bash tests/bench/run.sh --out FILE         the tables into a file as well
#
# Needs Rust, RabbitMQ (as the tests do), Node and npm. Starts a RabbitMQ of its own and ends it whatever happens.
# CALLBACKD_BENCH_BIN names a binary to be measured in place of the one that is built here.
# CALLBACKD_BENCH_KEEP=1 keeps the folder with configuration and logs. Exit code 1: a figure misses its mark.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
readonly root

main() {
  local argument
  for argument; do
    if [ "$argument" = --help ]; then sed -n '2,13p' "$0" | sed 's/^# \{0,1\}//'; build_bench; exec "$bench" measure --help; fi
  done
  build_bench
  build_callbackd
  install_node_program
  start_broker
  measure "$@"
}

step() {
  printf '== %s\n' "$*" >&2
}

build_bench() {
  step "building the benchmark"
  cargo build --quiet --release --locked --manifest-path "$root/tests/bench/Cargo.toml" --target-dir "$root/target/bench"
  bench=$root/target/bench/release/bench
}

build_callbackd() {
  binary=${CALLBACKD_BENCH_BIN:-}
  if [ -n "$binary" ]; then
    binary=$(realpath "$binary")
    return
  fi
  step "building callbackd"
  # From there, for its .cargo/config.toml.
  (cd "$root" && cargo build --quiet --release --locked --target-dir "$root/target")
  binary=$root/target/release/callbackd
}

install_node_program() {
  local folder=$root/tests/bench/node
  if ! cmp -s "$folder/package-lock.json" "$folder/node_modules/installed-lock.json"; then
    step "installing the Node program"
    (cd "$folder" && npm ci --silent --no-audit --no-fund)
    cp "$folder/package-lock.json" "$folder/node_modules/installed-lock.json"
  fi
}

start_broker() {
  step "starting RabbitMQ"
  work=$(mktemp -d "${TMPDIR:-/tmp}/callbackd-bench.XXXXXX")
  trap clean_up EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  # Should this script be killed, the node ends by itself.
  CALLBACKD_NODE_OWNER=$$ bash "$root/deploy/rabbitmq-node.sh" start "$work/node"
}

# In the background, so that a signal is taken at once.
measure() {
  mkdir "$work/run"
  "$bench" measure --node "$work/node" --callbackd "$binary" --script "$root/tests/bench/node/worker.js" --folder "$work/run" "$@" &
  running=$!
  wait "$running"
}

clean_up() {
  local status=$?
  if [ -n "${running:-}" ] && kill -TERM "$running" 2>/dev/null; then wait "$running" 2>/dev/null || true; fi
  bash "$root/deploy/rabbitmq-node.sh" kill "$work/node" >/dev/null 2>&1 || true
  bash "$root/deploy/rabbitmq-node.sh" stop "$work/node" >/dev/null 2>&1 || true
  if [ -n "${CALLBACKD_BENCH_KEEP:-}" ]; then step "kept $work"; else rm -rf "$work"; fi
  exit "$status"
}

main "$@"
