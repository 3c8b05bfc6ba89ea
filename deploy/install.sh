#!/usr/bin/env bash
# Installs Debian packages where that needs no password (as root, or with passwordless sudo); otherwise says which to
# install and fails. Prints nothing but on failure.
#
#   install.sh PACKAGE...
set -euo pipefail

refuse() {
  printf 'please install: %s\n' "$*" >&2
  exit 1
}

[ $# -gt 0 ] || { sed -n '5p' "$0" | sed 's/^#   //' >&2; exit 64; }
command -v apt-get >/dev/null || refuse "$@"
root=()
if [ "$(id -u)" != 0 ]; then
  sudo -n true 2>/dev/null || refuse "$@"
  root=(sudo -n)
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! { "${root[@]}" apt-get update -qq && "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -yqq --no-install-recommends "$@"; } </dev/null >"$log" 2>&1; then
  tail -n 20 "$log" >&2
  refuse "$@"
fi
