#!/usr/bin/env bash
# Shows callbackd at work, on a Debian machine with nothing but Rust: events through a real RabbitMQ to four receivers,
# of which one fails twice and one is down, to a dead letter and back. Ends by itself and takes away what it made.
#
#   bash deploy/demo.sh            builds the release program first
#   bash deploy/demo.sh --debug    builds and uses the debug program: faster to build
#
# RabbitMQ: the one at CALLBACKD__BROKER__URL; else one on localhost:5672 with its management API on 15672 (guest:guest),
# in a virtual host of the demo's own; else an installed one, as a private node in a temporary folder; else the Debian
# package is installed, where that needs no password; else Docker.
#
# Exit code 0: every step was seen to happen. 1: something was not, or could not be started.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly IMAGE=rabbitmq:4.0.5-management FIXTURES=tests/fixtures/contract
readonly COMPLIANCE=(customer-accepted contract-accepted records-with-new-fields) IDENT=(ident-result-bare mismatches)
started=$SECONDS failures=0 shown=0
children=() container='' vhost='' api_host='' leftovers=''

main() {
  local profile=release
  case ${1:-} in
    '') ;;
    --debug) profile=debug ;;
    *) sed -n '5,6p' "$0" | sed 's/^#   //' >&2; exit 64 ;;
  esac
  colours
  work=$(mktemp -d "${TMPDIR:-/tmp}/callbackd-demo.XXXXXX")
  trap clean_up EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM

  title "1. The program"
  build "$profile"
  title "2. RabbitMQ"
  find_broker
  title "3. A worker and its receivers"
  start_receivers
  start_worker
  title "4. Five events, published as the platform does"
  publish
  title "5. Deliveries and retries as they happen"
  follow_deliveries
  title "6. What arrived"
  show_arrivals
  title "7. What could not be delivered is a dead letter"
  show_dead_letter
  title "8. The receiver is back: the dead letter is replayed"
  replay
  explain
  title "9. Was it so?"
  check_everything
}

# --- the program -----------------------------------------------------------------------------------------------------

build() {
  local flags=()
  [ "$1" = debug ] || flags=(--release)
  command -v cargo >/dev/null || die "cargo is missing: install Rust"
  { command -v cc && command -v make; } >/dev/null || bash deploy/install.sh gcc libc6-dev make
  say "cargo build${flags[*]:+ ${flags[*]}} (minutes the first time)"
  cargo build --quiet --locked "${flags[@]}"
  program=${CARGO_TARGET_DIR:-target}/$1/callbackd
  say "$("$program" --version)"
}

callbackd() {
  "$program" --config "$work/callbackd.toml" "$@"
}

# --- RabbitMQ --------------------------------------------------------------------------------------------------------

find_broker() {
  if [ -n "${CALLBACKD__BROKER__URL:-}" ]; then
    use_shared "$CALLBACKD__BROKER__URL" || use_prefix "$CALLBACKD__BROKER__URL"
  elif use_shared amqp://guest:guest@127.0.0.1:5672; then
    :
  elif installed || install_package; then
    start_node
  elif docker info >/dev/null 2>&1; then
    start_container
  else
    die "no RabbitMQ: install the package rabbitmq-server (or Docker), or set CALLBACKD__BROKER__URL to one that runs"
  fi
}

installed() {
  [ -x "${CALLBACKD_RABBITMQ_BIN:-/usr/lib/rabbitmq/bin}/rabbitmq-server" ] || command -v rabbitmq-server >/dev/null
}

install_package() {
  say "installing Debian's package rabbitmq-server"
  bash deploy/install.sh rabbitmq-server && installed
}

start_node() {
  # Should this script be killed, the node ends by itself.
  CALLBACKD_NODE_OWNER=$$ bash deploy/rabbitmq-node.sh start "$work/node"
  use "amqp://guest:guest@127.0.0.1:$(<"$work/node/port")/%2f"
  say "a private node on 127.0.0.1:$(<"$work/node/port"), gone after the demo"
}

start_container() {
  local port
  port=$(free_port)
  say "docker run $IMAGE"
  container=$(docker run --detach --rm --publish "127.0.0.1:$port:5672" "$IMAGE")
  use "amqp://guest:guest@127.0.0.1:$port/%2f"
  wait_until 120 "RabbitMQ in Docker answers" docker exec "$container" rabbitmq-diagnostics --quiet --silent check_port_connectivity
  say "a container on 127.0.0.1:$port, gone after the demo"
}

# A broker that others use too: a virtual host of our own, through the management API, so that all can be taken away.
use_shared() {
  local url=$1
  [[ $url =~ ^amqp://(([^:@/]*):([^@/]*)@)?([^:/?]+)(:[0-9]+)? ]] || return 1
  local authority=${BASH_REMATCH[0]} user=${BASH_REMATCH[2]:-guest} password=${BASH_REMATCH[3]:-guest}
  api_host=${BASH_REMATCH[4]}
  API_CREDENTIALS=$(printf '%b:%b' "${user//%/\\x}" "${password//%/\\x}" | base64 -w 0)
  local name=callbackd-demo-$$-$RANDOM
  api PUT "/api/vhosts/$name" '{}' || return 1
  vhost=$name
  api PUT "/api/permissions/$name/$user" '{"configure":".*","write":".*","read":".*"}' || return 1
  use "$authority/$name"
  say "the one at ${authority##*@}, in the virtual host $name, gone after the demo"
}

# Without the management API nothing can be deleted from here: own names, so that nobody else's are touched.
use_prefix() {
  [[ $1 =~ ^(amqps?)://([^@/]*@)?([^:/?]+)(:([0-9]+))? ]] || die "CALLBACKD__BROKER__URL is no amqp:// or amqps:// URL"
  local port=${BASH_REMATCH[5]:-$([ "${BASH_REMATCH[1]}" = amqps ] && echo 5671 || echo 5672)}
  # shellcheck disable=SC2016 # expanded by the inner shell
  timeout 5 bash -c 'exec 3<>"/dev/tcp/$1/$2"' _ "${BASH_REMATCH[3]}" "$port" 2>/dev/null || die "nothing answers at ${BASH_REMATCH[3]}:$port, where CALLBACKD__BROKER__URL points"
  prefix=callbackd-demo-$$-$RANDOM
  use "$1"
  leftovers="the exchanges and queues (all without messages) whose names begin with $prefix stay on the broker: its management API did not answer on port 15672"
  say "the one at ${1##*@}, under names that begin with $prefix"
}

use() {
  export CALLBACKD__BROKER__URL=$1
}

# A call of the management API over plain HTTP; fails unless the answer is a success.
api() {
  # shellcheck disable=SC2016 # expanded by the inner shell
  API_HOST=$api_host API_CREDENTIALS=$API_CREDENTIALS timeout 10 bash -c '
    exec 3<>"/dev/tcp/$API_HOST/15672" || exit 1
    printf "%s %s HTTP/1.1\r\nHost: %s\r\nAuthorization: Basic %s\r\nContent-Type: application/json\r\n" "$1" "$2" "$API_HOST" "$API_CREDENTIALS" >&3
    printf "Content-Length: %d\r\nConnection: close\r\n\r\n%s" "${#3}" "$3" >&3
    head -n 1 <&3' _ "$1" "$2" "${3:-}" 2>/dev/null | grep -q '^HTTP/1.1 2'
}

# --- worker and receivers --------------------------------------------------------------------------------------------

start_receivers() {
  secret=whsec_$(head -c 32 /dev/urandom | base64 -w 0)
  receiver classic
  export DEMO_SECRET=$secret
  receiver topic --secret-env DEMO_SECRET
  receiver flaky --fail-first 2
  # Nobody listens here until step 8.
  down_port=$(free_port)
  say "classic   $(url classic)   the format that has been in production for years"
  say "topic     $(url topic)   every topic, signatures checked"
  say "flaky     $(url flaky)   answers 503 to the first two attempts of each message"
  say "down      http://127.0.0.1:$down_port   nobody listens"
}

# Starts `callbackd receive` under a name; what it sees goes to NAME.log.
receiver() {
  local name=$1
  shift
  "$program" receive --name "$name" --listen 127.0.0.1:0 "$@" >"$work/$name.log" 2>"$work/$name.err" &
  children+=($!)
  wait_until 15 "the receiver $name listens" grep -qs 'http://' "$work/$name.err"
}

url() {
  grep -o 'http://[0-9.:]*' "$work/$1.err"
}

start_worker() {
  local admin exchange=${prefix:+$prefix.}
  admin=$(free_port)
  cat >"$work/callbackd.toml" <<TOML
# The broker's URL comes from the environment: CALLBACKD__BROKER__URL.
[broker]
prefix = "${prefix:-callbacks}"

[[source]]
name = "compliance"
exchange = "${exchange}compliance.events"

[[source]]
name = "ident"
exchange = "${exchange}ident.events"

# Hours in production; seconds here, so that the demo ends.
[wait]
shortest = "1s"
longest = "4s"

[delivery]
timeout = "5s"
retry = { initial = "1s", multiplier = 2.0, max_delay = "4s", max_age = "10m", jitter = 0.2 }

[egress]
allow_http = true
allow_private_networks = true

[admin]
listen = "127.0.0.1:$admin"

[log]
format = "human"
TOML
  cat >"$work/integrators.toml" <<TOML
[[integrator]]
key = "acme"

[[integrator.endpoint]]
id = "classic"
url = "$(url classic)/callbacks"
headers = { x-acme-signature = { env = "ACME_STATIC_SECRET" } }

[[integrator.endpoint]]
id = "topic"
url = "$(url topic)/callbacks"
format = "topic"
signing_secrets = [{ env = "ACME_SIGNING_SECRET" }]

[[integrator.endpoint]]
id = "flaky"
url = "$(url flaky)/callbacks"
format = "topic"
topics = ["complianceRecord"]

[[integrator.endpoint]]
id = "down"
url = "http://127.0.0.1:$down_port/callbacks"
format = "topic"
topics = ["identResult"]
retry = { max_attempts = 4 }
TOML
  export ACME_STATIC_SECRET=demo ACME_SIGNING_SECRET=$secret
  say "$(callbackd check)"
  # Not through the function: a signal is to reach the program, not a shell around it.
  "$program" --config "$work/callbackd.toml" run >/dev/null 2>"$work/worker.log" &
  worker=$!
  children+=("$worker")
  wait_until 60 "the worker is ready" ready "$admin"
  say "worker    http://127.0.0.1:$admin   /readyz says 200; /metrics is there too"
}

ready() {
  kill -0 "$worker" 2>/dev/null || die "the worker ended"
  # shellcheck disable=SC2016 # expanded by the inner shell
  timeout 5 bash -c 'exec 3<>"/dev/tcp/127.0.0.1/$1" && printf "GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" >&3 && head -n 1 <&3' _ "$1" 2>/dev/null |
    grep -q '^HTTP/1.1 200'
}

# --- the events' way -------------------------------------------------------------------------------------------------

publish() {
  publish_to compliance "${COMPLIANCE[@]}"
  publish_to ident "${IDENT[@]}"
}

publish_to() {
  local source=$1 files=() event
  shift
  for event; do files+=("$FIXTURES/$event.in.json"); done
  say "$source: $*"
  callbackd publish --source "$source" "${files[@]}" 2>&1 | indent
}

follow_deliveries() {
  # What follows is checked one by one in step 9; here only the end is waited for, so a failure is shown there too.
  wait_until 45 "all deliveries are made or given up" settled || true
}

settled() {
  show_attempts
  [ "$(answered classic 200)" -ge 3 ] && [ "$(answered topic 200)" -ge 5 ] && [ "$(answered flaky 200)" -ge 3 ] && grep -q ' dead letter ' "$work/worker.log"
}

# Prints what the worker's log says of attempts since the last call.
show_attempts() {
  local line
  while IFS= read -r line; do
    shown=$((shown + 1))
    case $line in
      *' callbackd: attempt '*) show_attempt "$line" ;;
      *' callbackd: dead letter '*) row "$(field "$line" endpoint)" "$(field "$line" event_id)" '' "${red}dead letter$plain after $(field "$line" attempts) attempts" ;;
    esac
  done < <(tail -n "+$((shown + 1))" "$work/worker.log")
}

show_attempt() {
  local answer outcome
  answer=$(field "$1" status)
  case $(field "$1" verdict) in
    delivered) outcome="${green}delivered$plain" ;;
    retry) outcome="${yellow}again in $(field "$1" retry_in_ms) ms$plain" ;;
    *) outcome="${red}given up$plain" ;;
  esac
  row "$(field "$1" endpoint)" "$(field "$1" event_id)" "attempt $(field "$1" attempt)" "${answer:-$(field "$1" class)}  $outcome"
}

row() {
  printf '   %-9s %-16s %-10s %s\n' "$@"
}

field() {
  if [[ $1 =~ \ $2=\"?([^\"\ ]*) ]]; then printf '%s' "${BASH_REMATCH[1]}"; fi
}

show_arrivals() {
  say "${bold}classic$plain: compliance records and nothing else; the two ident events are skipped"
  indent <"$work/classic.log"
  say "${bold}topic$plain: every event, signed"
  indent <"$work/topic.log"
  say "${bold}flaky$plain: each message three times, the same webhook-id; here what was answered 200"
  grep -A 3 -e '-> 200' "$work/flaky.log" | grep -v '^--$' | indent
}

show_dead_letter() {
  say "callbackd dead list --json"
  dead_letters | indent
}

dead_letters() {
  callbackd dead list --json 2>/dev/null
}

replay() {
  receiver_back
  say "callbackd dead replay --endpoint down"
  callbackd dead replay --endpoint down 2>&1 | indent
  wait_until 20 "the replayed event arrives" arrived_at_down || true
  show_attempts
  indent <"$work/back.log"
}

# The log is written a moment later.
explain() {
  wait_until 20 "the delivery log has the replay" explained || true
  say "callbackd explain evt-ident-1"
  callbackd explain evt-ident-1 2>&1 | indent
}

explained() {
  callbackd explain evt-ident-1 2>/dev/null | grep -q '^=> down: delivered'
}

receiver_back() {
  "$program" receive --name back --listen "127.0.0.1:$down_port" >"$work/back.log" 2>"$work/back.err" &
  children+=($!)
  wait_until 15 "the receiver that was down listens" grep -qs 'http://' "$work/back.err"
}

arrived_at_down() {
  [ "$(answered back 200)" -ge 1 ]
}

# How many requests a receiver answered with a status.
answered() {
  grep -c -e "-> $2\$" "$work/$1.log" || true
}

# --- the proof -------------------------------------------------------------------------------------------------------

check_everything() {
  local event
  check "classic got 3 callbacks" equal "$(answered classic 200)" 3
  for event in "${COMPLIANCE[@]}"; do
    check "classic got $event byte for byte" body_arrived classic "$event.classic"
  done
  check "topic got 5 callbacks" equal "$(answered topic 200)" 5
  for event in "${COMPLIANCE[@]}" "${IDENT[@]}"; do
    check "topic got $event byte for byte" body_arrived topic "$event.topic"
  done
  check "every signature at topic is valid" equal "$(grep -c 'signature valid' "$work/topic.log" || true)" 5
  check "flaky answered 503 six times" equal "$(answered flaky 503)" 6
  check "flaky got its 3 events at the third attempt" equal "$(grep -A 1 -e '-> 200' "$work/flaky.log" | grep -c 'attempt 3' || true)" 3
  check "flaky saw 3 webhook-ids in 9 requests" equal "$(grep -o 'webhook-id [^,]*' "$work/flaky.log" | sort | uniq -c | awk '{print $1}' | xargs)" "3 3 3"
  check "down became a dead letter after 4 attempts" grep -q ' dead letter event_id="evt-ident-1" .*endpoint="down" .*attempts=4' "$work/worker.log"
  check "the dead letter was replayed and arrived byte for byte" body_arrived back ident-result-bare.topic
  check "it arrived once" equal "$(answered back 200)" 1
  check "its story can be told" explained
  check "no dead letter is left" equal "$(dead_letters)" ''
  check "the worker stopped in order" worker_stops
  printf '\n'
  if [ "$failures" -gt 0 ]; then
    say "${red}$failures checks FAILED$plain; the end of the worker's log:"
    tail -n 20 "$work/worker.log" | indent
    exit 1
  fi
  say "${green}all as promised$plain, in $((SECONDS - started)) s with the build"
}

check() {
  local what=$1
  shift
  if "$@"; then
    printf '   %sok%s      %s\n' "$green" "$plain" "$what"
  else
    printf '   %sFAILED%s  %s\n' "$red" "$plain" "$what"
    failures=$((failures + 1))
  fi
}

equal() {
  [ "$1" = "$2" ] || { printf '           found %s\n' "${1:-nothing}"; return 1; }
}

body_arrived() {
  grep -qxF "  $(<"$FIXTURES/$2.json")" "$work/$1.log"
}

worker_stops() {
  kill -TERM "$worker" && wait "$worker"
}

# --- tools -----------------------------------------------------------------------------------------------------------

colours() {
  bold='' red='' green='' yellow='' plain=''
  if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
    bold=$'\e[1m' red=$'\e[31m' green=$'\e[32m' yellow=$'\e[33m' plain=$'\e[0m'
  fi
}

title() {
  printf '\n%s%s%s\n' "$bold" "$1" "$plain"
}

say() {
  printf '   %s\n' "$1"
}

indent() {
  sed 's/^./     &/'
}

die() {
  printf 'demo: %s\n' "$1" >&2
  [ ! -s "${work:-}/worker.log" ] || tail -n 20 "$work/worker.log" >&2
  exit 1
}

# Waits for a command to succeed: SECONDS, what it means, the command.
wait_until() {
  local deadline=$((SECONDS + $1)) what=$2
  shift 2
  until "$@"; do
    [ "$SECONDS" -lt "$deadline" ] || { printf 'demo: not in time: %s\n' "$what" >&2; return 1; }
    sleep 0.2
  done
}

# Below the range from which the kernel serves outgoing connections, so that the port stays free until it is used.
free_port() {
  local candidate
  for _ in {1..200}; do
    candidate=$((20000 + (RANDOM * 32768 + RANDOM) % 5700))
    (exec 3<>"/dev/tcp/127.0.0.1/$candidate") 2>/dev/null || { printf '%s\n' "$candidate"; return; }
  done
  die "no free port between 20000 and 25699"
}

clean_up() {
  local status=$?
  trap - EXIT INT TERM
  [ ${#children[@]} -eq 0 ] || kill "${children[@]}" 2>/dev/null || true
  wait 2>/dev/null || true
  [ -z "$vhost" ] || api DELETE "/api/vhosts/$vhost" || printf 'demo: the virtual host %s could not be deleted\n' "$vhost" >&2
  [ -z "$leftovers" ] || printf 'demo: %s\n' "$leftovers" >&2
  [ -z "$container" ] || docker rm --force "$container" >/dev/null 2>&1 || true
  if [ -d "$work/node" ]; then
    { bash deploy/rabbitmq-node.sh kill "$work/node"; bash deploy/rabbitmq-node.sh stop "$work/node"; } >/dev/null 2>&1 || true
  fi
  rm -rf "$work"
  exit "$status"
}

main "$@"
