#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Starts PostgreSQL as the image of that name does, as far as docker-compose.yml relies on it: a new
# folder is initialised, and the SQL in /docker-entrypoint-initdb.d is run while nobody can connect over TCP.
set -eu

data=/var/lib/postgresql/data
bin=$(echo /usr/lib/postgresql/*/bin)
as() { setpriv --reuid=999 --regid=999 --clear-groups "$@"; }

mkdir -p "$data"
chown 999:999 "$data" /run/postgresql
chmod 700 "$data"
if [ ! -s "$data/PG_VERSION" ]; then
	echo "$POSTGRES_PASSWORD" >/tmp/password
	chmod 644 /tmp/password
	as "$bin/initdb" -D "$data" -U postgres --pwfile=/tmp/password --auth-local=trust --auth-host=scram-sha-256 -E UTF8
	rm -f /tmp/password
	echo "host all all all scram-sha-256" >>"$data/pg_hba.conf"
	as "$bin/pg_ctl" -D "$data" -w -o "-c listen_addresses= -c unix_socket_directories=/run/postgresql" start
	for file in /docker-entrypoint-initdb.d/*.sql; do
		as "$bin/psql" -v ON_ERROR_STOP=1 -h /run/postgresql -U postgres -f "$file"
	done
	as "$bin/pg_ctl" -D "$data" -m fast -w stop
fi
[ "$1" = postgres ] && shift
exec setpriv --reuid=999 --regid=999 --clear-groups "$bin/postgres" -D "$data" \
	-c listen_addresses='*' -c unix_socket_directories=/run/postgresql "$@"
