#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Finds a Docker engine and Compose, or installs them (Debian and its relatives, as root). Nothing is
# started or enabled. Where they cannot be had the tests say so; this script does not fail.
set -eu

PATH=$PATH:/usr/sbin:/sbin
export DEBIAN_FRONTEND=noninteractive

if docker version >/dev/null 2>&1; then engine=yes; else engine=$(command -v dockerd || true); fi
compose=$(command -v docker-compose || true)
if [ -z "$compose" ] && docker compose version >/dev/null 2>&1; then compose=yes; fi
missing=
if [ -z "$engine" ]; then missing="$missing docker.io iptables"; fi
if [ -z "$compose" ]; then missing="$missing docker-compose"; fi
if [ -z "$missing" ]; then exit 0; fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then exit 0; fi

echo "compose: installing$missing"
# Debian asks policy-rc.d before it starts a service of a new package; 101 says no.
policy=
if [ ! -e /usr/sbin/policy-rc.d ]; then
	policy=/usr/sbin/policy-rc.d
	trap 'rm -f "$policy"' EXIT
	trap 'exit 1' HUP INT TERM
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod 755 "$policy"
fi
apt-get -qq -o DPkg::Lock::Timeout=300 update || true
# shellcheck disable=SC2086 # a list of package names
apt-get -qq -y -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 install --no-install-recommends $missing </dev/null \
	>/dev/null || echo "compose: apt-get install$missing failed"
