#!/usr/bin/env bash
# A private PostgreSQL server for tests: everything in one folder, only on 127.0.0.1, no passwords.
#
#   postgres-node.sh start DIR [PORT]   makes the server where there is none, starts it and waits until it answers; the port is
#                                       written to DIR/port. Its one user is `callbackd`.
#   postgres-node.sh stop DIR           ends it in order
#   postgres-node.sh kill DIR           ends it at once, connections and all, as a crash would
#
# PostgreSQL does not run as root: for root it runs as the user that owns its package, `postgres`.
# CALLBACKD_POSTGRES_BIN: the folder of initdb and pg_ctl (default: the newest below /usr/lib/postgresql).
set -euo pipefail

fail() {
  printf 'postgres-node.sh: %s\n' "$1" >&2
  [ ! -s "$dir/log" ] || tail -n 20 "$dir/log" >&2
  exit 1
}

main() {
  [ $# -ge 2 ] || { sed -n '4,7p' "$0" | sed 's/^#   //' >&2; exit 64; }
  local command=$1
  dir=$(realpath -m "$2")
  bin=${CALLBACKD_POSTGRES_BIN:-$(printf '%s\n' /usr/lib/postgresql/*/bin | sort -V | tail -n 1)}
  [ -x "$bin/initdb" ] || fail "no PostgreSQL found: install the package postgresql or set CALLBACKD_POSTGRES_BIN"
  case $command in
    start) start "${3:-}" ;;
    stop) as_owner "$bin/pg_ctl" stop --pgdata "$dir/data" --mode fast --wait >/dev/null ;;
    kill) as_owner "$bin/pg_ctl" stop --pgdata "$dir/data" --mode immediate --wait >/dev/null ;;
    *) fail "unknown command $command" ;;
  esac
}

# In a folder that its owner may read.
as_owner() {
  if [ "$(id -u)" = 0 ]; then (cd / && runuser -u postgres -- "$@"); else "$@"; fi
}

start() {
  mkdir -p "$dir"
  if [ "$(id -u)" = 0 ]; then chown postgres "$dir"; fi
  [ -d "$dir/data" ] || as_owner "$bin/initdb" --pgdata "$dir/data" --username callbackd --auth trust --encoding UTF8 --no-locale --no-sync >"$dir/log" 2>&1 \
    || fail "initdb failed"
  local port=${1:-}
  if [ -z "$port" ] && [ -s "$dir/port" ]; then port=$(<"$dir/port"); fi
  [ -n "$port" ] || port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
  echo "$port" >"$dir/port"
  as_owner "$bin/pg_ctl" start --pgdata "$dir/data" --log "$dir/server.log" --wait --timeout 60 \
    --options "-c listen_addresses=127.0.0.1 -c port=$port -c unix_socket_directories='' -c max_connections=200" >/dev/null || fail "it does not start"
}

main "$@"
