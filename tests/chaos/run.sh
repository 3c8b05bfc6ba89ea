#!/usr/bin/env bash
# The chaos suite: events flow, things break, every event is accounted for. What the figures mean is in deploy/RELIABILITY.md.
#
#   bash tests/chaos/run.sh                                    3,000 events, 10 faults, any seed
#   bash tests/chaos/run.sh --events 50000 --faults 40         more of both
#   bash tests/chaos/run.sh --seed 7                           the same faults in the same order as every time with 7
#   bash tests/chaos/run.sh --recovery 8                       seconds to be back to delivering after the broker is; 5
#   bash tests/chaos/run.sh --out FILE                         the tables into a file as well
#   bash tests/chaos/run.sh --controls                         only the broken workers that the suite has to catch
#   bash tests/chaos/run.sh --short                            what tests/run.sh calls: the suite's own tests, the broken
#                                                              workers, and a run with a fixed seed
#
# Needs Rust and RabbitMQ, as the tests do, and libfaketime, which it installs as root or with passwordless sudo.
# Starts a RabbitMQ of its own and ends it whatever happens.
# CALLBACKD_CHAOS_BIN names a binary to be tested in place of the debug build that is made here.
# CALLBACKD_CHAOS_KEEP=1 keeps the folder with ledgers, configuration and logs, which a run that fails does anyway.
# Exit code 1: something is not as promised.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
readonly root

# A plan with a killed worker, a killed broker, alarms, deleted queues, half-open connections on both sides and a stepped clock.
# Other tests may be building on the same machine, so it has more time to come back.
readonly SHORT=(--events 3000 --faults 10 --seed 68 --recovery 20)

main() {
  case ${1:-} in
    --help) sed -n '2,19p' "$0" | sed 's/^# \{0,1\}//'; return ;;
    --controls) shift; build_suite; start_broker; suite controls "$@" ;;
    --short) shift; test_suite; build_suite; build_callbackd; start_broker; suite controls; campaign "${SHORT[@]}" "$@" ;;
    *) build_suite; build_callbackd; start_broker; campaign "$@" ;;
  esac
}

step() {
  printf '== %s\n' "$*" >&2
}

test_suite() {
  step "the chaos suite's own tests"
  cargo test --quiet --locked --manifest-path "$root/tests/chaos/Cargo.toml" --target-dir "$root/target/chaos"
}

build_suite() {
  step "building the chaos suite"
  cargo build --quiet --locked --manifest-path "$root/tests/chaos/Cargo.toml" --target-dir "$root/target/chaos"
}

build_callbackd() {
  binary=${CALLBACKD_CHAOS_BIN:-}
  if [ -n "$binary" ]; then
    binary=$(realpath "$binary")
    return
  fi
  step "building callbackd"
  # From there, for its .cargo/config.toml.
  (cd "$root" && cargo build --quiet --locked --target-dir "$root/target")
  binary=$root/target/debug/callbackd
}

start_broker() {
  step "starting RabbitMQ"
  work=$(mktemp -d "${TMPDIR:-/tmp}/callbackd-chaos.XXXXXX")
  trap clean_up EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  # Should this script be killed, the node ends by itself.
  CALLBACKD_NODE_OWNER=$$ bash "$root/deploy/rabbitmq-node.sh" start "$work/node"
}

campaign() {
  local library
  library=$(find_faketime)
  if [ -z "$library" ]; then
    step "installing libfaketime"
    bash "$root/deploy/install.sh" libfaketime
    library=$(find_faketime)
  fi
  suite run --callbackd "$binary" --faketime "$library" "$@"
}

find_faketime() {
  find /usr/lib /usr/local/lib -name 'libfaketimeMT.so.1' -print -quit 2>/dev/null
}

# In the background, so that a signal is taken at once.
suite() {
  local command=$1 status=0
  shift
  mkdir "$work/$command"
  RUST_LIB_BACKTRACE=0 "$root/target/chaos/debug/chaos" "$command" --node "$work/node" --node-script "$root/deploy/rabbitmq-node.sh" --folder "$work/$command" "$@" &
  running=$!
  wait "$running" || status=$?
  running=
  [ "$status" -eq 0 ] || exit "$status"
}

clean_up() {
  local status=$?
  if [ -n "${running:-}" ] && kill -TERM "$running" 2>/dev/null; then wait "$running" 2>/dev/null || true; fi
  bash "$root/deploy/rabbitmq-node.sh" kill "$work/node" >/dev/null 2>&1 || true
  bash "$root/deploy/rabbitmq-node.sh" stop "$work/node" >/dev/null 2>&1 || true
  if [ -n "${CALLBACKD_CHAOS_KEEP:-}" ] || case $status in 0 | 130 | 143) false ;; esac; then step "kept $work"; else rm -rf "$work"; fi
  exit "$status"
}

main "$@"
