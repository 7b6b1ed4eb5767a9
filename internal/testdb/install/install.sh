#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Finds the database servers that the tests need, and promtool, or installs them
# (Debian and its relatives, as root). Nothing is started or enabled.
#
#   PostgreSQL, MariaDB   packages of this distribution; exit 1 without them
#   promtool              is in the package prometheus; likewise
#   MySQL                 unpacked into the cache folder from Debian's unstable
#                         suite, with the libraries of its own, so that the
#                         machine's libraries stay as they are; without it the
#                         script says so and goes on
#
# Runs twice without harm; takes no time when everything is there.
set -eu

PATH=$PATH:/usr/sbin:/sbin
export DEBIAN_FRONTEND=noninteractive

# The same folder as cacheDir in internal/testdb/cache.go: root's is outside of
# its home, because servers run as another user, who cannot read that.
if [ "$(id -u)" = 0 ]; then
	cache=/var/cache/concord-testdb
elif [ -n "${XDG_CACHE_HOME:-${HOME:-}}" ]; then
	cache=${XDG_CACHE_HOME:-$HOME/.cache}/concord-testdb
else
	cache=${TMPDIR:-/tmp}/concord-testdb-$(id -u)
fi

work=
policy=
cleanup() {
	if [ -n "$work" ]; then rm -rf "$work"; fi
	if [ -n "$policy" ]; then rm -f "$policy"; fi
}
trap cleanup EXIT
trap 'exit 1' HUP INT TERM

say() { echo "testdb: $*"; }

fail() {
	say "$*" >&2
	exit 1
}

has_postgres() {
	command -v postgres >/dev/null && command -v initdb >/dev/null && return 0
	for initdb in /usr/lib/postgresql/*/bin/initdb; do
		if [ -x "$initdb" ]; then return 0; fi
	done
	return 1
}

has_mariadb() {
	command -v mariadbd >/dev/null && command -v mariadb-install-db >/dev/null
}

has_promtool() {
	command -v promtool >/dev/null
}

has_mysql() {
	if [ -x "$cache/mysql/usr/sbin/mysqld" ] || [ -x /var/cache/concord-testdb/mysql/usr/sbin/mysqld ]; then
		return 0
	fi
	command -v mysqld >/dev/null && ! mysqld --version 2>/dev/null | grep -qi mariadb
}

# Debian asks policy-rc.d before it starts a service of a new package; 101 says
# no. One that is there already belongs to the machine and is left alone.
forbid_services() {
	if [ -e /usr/sbin/policy-rc.d ]; then return; fi
	policy=/usr/sbin/policy-rc.d
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod 755 "$policy"
}

install_packages() {
	if ! command -v apt-get >/dev/null; then
		fail "missing:$1. Install PostgreSQL and MariaDB servers and promtool with this system's package manager, then run this again"
	fi
	if [ "$(id -u)" != 0 ]; then
		fail "missing:$1. Run as root: apt-get install$1"
	fi
	say "installing$1"
	forbid_services
	apt-get -qq -o DPkg::Lock::Timeout=300 update
	# shellcheck disable=SC2086 # a list of package names
	apt-get -qq -y -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 \
		install --no-install-recommends $1 </dev/null >"$work/install.log" 2>&1 ||
		{ tail -n 40 "$work/install.log" >&2; fail "apt-get install$1 failed"; }
}

# The mirror that this machine is set up with.
mirror() {
	apt-get indextargets --format '$(ORIGIN)|$(LABEL)|$(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
		sed -n 's/^Debian|Debian|//p' | head -n 1
}

# An apt of its own beside the machine's: it knows the unstable suite only and
# believes that nothing is installed, so that it names every library.
unstable() {
	tool=$1
	shift
	"$tool" -q -o Dir::Etc::SourceList="$work/sources.list" -o Dir::Etc::SourceParts=- \
		-o Dir::State::Lists="$work/lists" -o Dir::State::status="$work/status" \
		-o Dir::Cache="$work/cache" -o APT::Sandbox::User="$(id -un)" "$@"
}

fetch_mysql() {
	command -v apt-get >/dev/null && command -v dpkg >/dev/null || { reason="no apt on this system"; return 1; }
	uri=$(mirror)
	if [ -z "$uri" ] && [ "$(id -u)" = 0 ]; then
		apt-get -qq -o DPkg::Lock::Timeout=300 update || true
		uri=$(mirror)
	fi
	if [ -z "$uri" ]; then
		reason="this system's apt names no Debian mirror"
		return 1
	fi
	mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/deb" "$work/root"
	: >"$work/status"
	keyring=/usr/share/keyrings/debian-archive-keyring.gpg
	signed=
	if [ -e "$keyring" ]; then signed="[signed-by=$keyring]"; fi
	echo "deb $signed $uri unstable main" >"$work/sources.list"

	reason="the unstable suite cannot be read"
	unstable apt-get update >"$work/log" 2>&1 || { tail -n 5 "$work/log" >&2; return 1; }
	reason="the unstable suite has no mysql-server-core that can be installed"
	# Perl is for scripts around the server that nobody here runs.
	packages=$(unstable apt-get -s install --no-install-recommends mysql-server-core 2>"$work/log" |
		sed -n 's/^Inst \([^ ]*\).*/\1/p' | grep -v perl) || { cat "$work/log" >&2; return 1; }
	reason="its packages cannot be fetched"
	# shellcheck disable=SC2086 # a list of package names
	(cd "$work/deb" && unstable apt-get download $packages) >"$work/log" 2>&1 ||
		{ tail -n 5 "$work/log" >&2; return 1; }
	reason="its packages cannot be unpacked"
	for deb in "$work"/deb/*.deb; do
		dpkg -x "$deb" "$work/root" || return 1
	done
	reason="its packages hold no usr/sbin/mysqld"
	[ -x "$work/root/usr/sbin/mysqld" ] || return 1
	chmod 755 "$work/root"
	mv "$work/root" "$cache/mysql"
}

mkdir -p "$cache"
chmod 755 "$cache"

missing=
if ! has_postgres; then missing="$missing postgresql"; fi
if ! has_mariadb; then missing="$missing mariadb-server"; fi
if ! has_promtool; then missing="$missing prometheus"; fi
if [ -z "$missing" ] && has_mysql; then exit 0; fi

# Two runs at once would install the same things; the second waits, then looks again.
if command -v flock >/dev/null; then
	exec 9>"$cache/install.lock"
	flock -w 900 9 || fail "another install has held $cache/install.lock for 15 minutes"
fi
work=$(mktemp -d "$cache/install.XXXXXX")

missing=
if ! has_postgres; then missing="$missing postgresql"; fi
if ! has_mariadb; then missing="$missing mariadb-server"; fi
if ! has_promtool; then missing="$missing prometheus"; fi
if [ -n "$missing" ]; then install_packages "$missing"; fi
has_postgres || fail "PostgreSQL is still missing after the install"
has_mariadb || fail "MariaDB is still missing after the install"
has_promtool || fail "promtool is still missing after the install"

reason=
if ! has_mysql; then
	say "fetching MySQL"
	fetch_mysql || say "MySQL: NOT RUN ($reason)"
fi
