#!/usr/bin/env bash
# A private RabbitMQ node for tests and demonstrations: any user, everything in one folder, only on 127.0.0.1.
#
#   rabbitmq-node.sh start DIR [PORT]   starts the node and waits until AMQP and the management API answer;
#                                       without PORT the port of the last start, else a free one (written to DIR/port)
#   rabbitmq-node.sh stop DIR           ends the node in order, and the port mapper that it started
#   rabbitmq-node.sh kill DIR           SIGKILL, as a crash would; `start` brings it back with what it had on disk
#   rabbitmq-node.sh restart DIR        stop, then start on the same port
#   rabbitmq-node.sh ctl DIR ARGS...    rabbitmqctl of that node
#   rabbitmq-node.sh port               prints a port that is free together with its three companions
#
# Companions of PORT: management PORT+10000, Erlang distribution PORT+20000, port mapper (epmd) PORT+5000. Ports from
# 5700 to 9999 keep all four apart and below the range from which the kernel takes ports for outgoing connections.
#
# CALLBACKD_RABBITMQ_BIN    folder of rabbitmq-server and rabbitmqctl (default /usr/lib/rabbitmq/bin, else from PATH)
# CALLBACKD_NODE_OWNER      a process id: the node is killed when that process is gone, however it ended
#
# Prints nothing but on failure. Exit code 1: failed; 64: bad usage.
set -euo pipefail

readonly START_LIMIT=120 STOP_LIMIT=60

usage() {
  sed -n '4,10p' "$0" | sed 's/^#   //' >&2
  exit 64
}

fail() {
  printf 'rabbitmq-node.sh: %s\n' "$1" >&2
  [ ! -s "$dir/log/node.log" ] || tail -n 30 "$dir/log/node.log" >&2
  [ ! -s "$dir/log/out.log" ] || tail -n 10 "$dir/log/out.log" >&2
  exit 1
}

main() {
  local command=${1:-}
  [ "$command" != port ] || { free_port; return; }
  [ $# -ge 2 ] || usage
  dir=$(realpath -m "$2")
  shift 2
  case $command in
    start) start "${1:-}" ;;
    stop) stop ;;
    kill) crash ;;
    restart) stop; start "${1:-}" ;;
    watch) watch "$1" "$2" ;;
    ctl) known_node; node_environment; exec "$bin/rabbitmqctl" "$@" ;;
    *) usage ;;
  esac
}

# Debian's wrappers in /usr/sbin change the user and drop the environment: the real scripts are called instead.
find_rabbitmq() {
  bin=${CALLBACKD_RABBITMQ_BIN:-/usr/lib/rabbitmq/bin}
  [ -x "$bin/rabbitmq-server" ] || bin=$(dirname "$(command -v rabbitmq-server || echo none/none)")
  [ -x "$bin/rabbitmq-server" ] || fail "no rabbitmq-server found: install the package rabbitmq-server or set CALLBACKD_RABBITMQ_BIN"
}

known_node() {
  if [ ! -s "$dir/port" ] || [ ! -s "$dir/name" ]; then fail "no node was started in $dir"; fi
  port=$(<"$dir/port") name=$(<"$dir/name")
  find_rabbitmq
}

start() {
  mkdir -p "$dir/mnesia" "$dir/log"
  ! vm_pid >/dev/null || fail "a node is already running in $dir"
  if [ -n "$1" ]; then
    printf '%s\n' "$1" >"$dir/port"
  elif [ ! -s "$dir/port" ]; then
    free_port >"$dir/port"
  fi
  # The node's files on disk belong to its name, so a restart keeps it; a new folder gets one that no other node has.
  [ -s "$dir/name" ] || printf 'callbackd-%s-%s@localhost\n' "$(<"$dir/port")" "$RANDOM" >"$dir/name"
  known_node
  if ! [[ $port =~ ^[0-9]+$ ]] || [ "$port" -gt 40000 ]; then fail "PORT must be a number up to 40000"; fi
  write_configuration
  rm -f "$dir/pid" "$dir/vm"
  : >"$dir/log/out.log"
  # A session of its own and no inherited descriptors: neither a Ctrl-C nor a caller's pipe reaches the node.
  (node_environment; cd "$dir"; exec setsid "$bin/rabbitmq-server" </dev/null >>"$dir/log/out.log" 2>&1) &
  local wrapper=$!
  if [ -n "${CALLBACKD_NODE_OWNER:-}" ]; then
    # In a session of its own too: who kills the owner often kills its whole process group.
    setsid bash "$0" watch "$dir" "$CALLBACKD_NODE_OWNER" "$wrapper" </dev/null >/dev/null 2>&1 &
  fi
  if ! wait_until_up "$wrapper"; then
    kill -KILL -- "-$wrapper" 2>/dev/null || true
    stop_port_mapper
    fail "the node did not come up within $START_LIMIT s (port $port)"
  fi
}

write_configuration() {
  local management=$((port + 10000))
  # Absolute limits: relative ones raise an alarm on a machine with little memory or a full disk. Statistics each
  # second (default 5) so that the management API lags less behind.
  cat >"$dir/rabbitmq.conf" <<CONF
listeners.tcp.1 = 127.0.0.1:$port
management.tcp.ip = 127.0.0.1
management.tcp.port = $management
vm_memory_high_watermark.absolute = 2GB
disk_free_limit.absolute = 20MB
collect_statistics_interval = 1000
CONF
  echo '[rabbitmq_management].' >"$dir/enabled_plugins"
  # A rung whose first message comes due while the broker starts finds no exchange yet; it tries again after this, by default three minutes.
  echo '[{rabbit, [{dead_letter_worker_publisher_confirm_timeout, 10000}]}].' >"$dir/advanced.config"
  : >"$dir/rabbitmq-env.conf"
}

# Every place that RabbitMQ would otherwise look at below /etc or /var is named, so that a system-wide node's settings
# do not get in.
node_environment() {
  local variable
  for variable in "${!RABBITMQ_@}"; do unset "$variable"; done
  export HOME=$dir LANG=C.UTF-8 LC_ALL=C.UTF-8
  export RABBITMQ_NODENAME=$name RABBITMQ_NODE_PORT=$port RABBITMQ_NODE_IP_ADDRESS=127.0.0.1 RABBITMQ_DIST_PORT=$((port + 20000))
  export RABBITMQ_MNESIA_BASE=$dir/mnesia RABBITMQ_LOG_BASE=$dir/log RABBITMQ_LOGS=$dir/log/node.log RABBITMQ_PID_FILE=$dir/pid
  export RABBITMQ_CONFIG_FILE=$dir/rabbitmq.conf RABBITMQ_CONFIG_FILES="$dir/conf.d/*.conf" RABBITMQ_ADVANCED_CONFIG_FILE=$dir/advanced.config
  export RABBITMQ_CONF_ENV_FILE=$dir/rabbitmq-env.conf RABBITMQ_ENABLED_PLUGINS_FILE=$dir/enabled_plugins RABBITMQ_GENERATED_CONFIG_DIR=$dir/config
  export RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS='-kernel inet_dist_use_interface {127,0,0,1}'
  export RABBITMQ_CTL_ERL_ARGS='-kernel inet_dist_use_interface {127,0,0,1}' RABBITMQ_CTL_DIST_PORT_MIN=35672 RABBITMQ_CTL_DIST_PORT_MAX=36671
  export ERL_EPMD_ADDRESS=127.0.0.1 ERL_EPMD_PORT=$((port + 5000))
}

wait_until_up() {
  local deadline=$((SECONDS + START_LIMIT))
  while [ "$SECONDS" -lt "$deadline" ]; do
    kill -0 "$1" 2>/dev/null || return 1
    if vm_pid >/dev/null && amqp_answers && management_answers; then return 0; fi
    sleep 0.2
  done
  return 1
}

# A protocol header gets a method frame (first octet 1) as answer, once the node takes connections.
amqp_answers() {
  # shellcheck disable=SC2016 # expanded by the inner shell
  [ "$(timeout 5 bash -c 'exec 3<>"/dev/tcp/127.0.0.1/$1" && printf "AMQP\0\0\11\1" >&3 && head -c 1 <&3 | od -An -tu1' _ "$port" 2>/dev/null)" = "   1" ]
}

# The credentials are guest:guest. An answer to /api/overview needs the user database and the statistics to be there.
management_answers() {
  # shellcheck disable=SC2016 # expanded by the inner shell
  timeout 5 bash -c 'exec 3<>"/dev/tcp/127.0.0.1/$1" &&
    printf "GET /api/overview HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic Z3Vlc3Q6Z3Vlc3Q=\r\nConnection: close\r\n\r\n" >&3 &&
    head -n 1 <&3' _ "$((port + 10000))" 2>/dev/null | grep -q '^HTTP/1.1 200'
}

# The process id of the node's Erlang VM, or failure. RabbitMQ removes its own file early while it stops, so a copy is
# kept. The working folder is compared, as process ids are used again.
vm_pid() {
  local pid
  [ ! -s "$dir/pid" ] || cp "$dir/pid" "$dir/vm" 2>/dev/null || true
  [ -s "$dir/vm" ] || return 1
  pid=$(<"$dir/vm")
  [ "/proc/$pid/cwd" -ef "$dir" ] && printf '%s\n' "$pid"
}

stop() {
  known_node
  local pid deadline=$((SECONDS + STOP_LIMIT))
  # RabbitMQ's own answer to SIGTERM is an orderly stop; rabbitmqctl would start a second VM to ask for the same.
  if pid=$(vm_pid); then
    kill -TERM "$pid"
    while vm_pid >/dev/null && [ "$SECONDS" -lt "$deadline" ]; do sleep 0.1; done
    ! vm_pid >/dev/null || { crash; stop_port_mapper; fail "the node did not stop within $STOP_LIMIT s and was killed"; }
  fi
  stop_port_mapper
}

crash() {
  local pid
  known_node
  pid=$(vm_pid) || return 0
  kill -KILL "$pid"
  while vm_pid >/dev/null; do sleep 0.05; done
}

stop_port_mapper() {
  # It refuses to end while it still knows a node, which it forgets a moment after the node's end.
  local _
  for _ in {1..20}; do
    ! port_is_free "$((port + 5000))" || return 0
    (node_environment; epmd -kill) >/dev/null 2>&1 || true
    sleep 0.1
  done
}

# Kills a node's process group when its owner has ended. Ends with the node.
watch() {
  while kill -0 "$1" && kill -0 "$2"; do sleep 1; done
  ! kill -0 "$2" || { kill -KILL -- "-$2"; known_node; stop_port_mapper; }
}

free_port() {
  local candidate
  for _ in $(seq 200); do
    candidate=$((5700 + (RANDOM * 32768 + RANDOM) % 4300))
    if port_is_free "$candidate" && port_is_free "$((candidate + 5000))" && port_is_free "$((candidate + 10000))" && port_is_free "$((candidate + 20000))"; then
      printf '%s\n' "$candidate"
      return
    fi
  done
  echo 'rabbitmq-node.sh: no free port between 5700 and 9999' >&2
  exit 1
}

port_is_free() {
  ! (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

main "$@"
