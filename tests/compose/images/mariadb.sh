#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Starts MariaDB as the image of that name does, as far as docker-compose.yml relies on it.
set -eu

data=/var/lib/mysql
as() { setpriv --reuid=999 --regid=999 --clear-groups "$@"; }

mkdir -p "$data"
chown 999:999 "$data" /run/mysqld
if [ ! -d "$data/mysql" ]; then
	as mariadb-install-db --no-defaults --datadir="$data" --skip-test-db --auth-root-authentication-method=normal
	{
		echo "FLUSH PRIVILEGES;"
		cat /docker-entrypoint-initdb.d/*.sql
		echo "ALTER USER root@localhost IDENTIFIED BY '$MARIADB_ROOT_PASSWORD';"
	} | as mariadbd --no-defaults --datadir="$data" --bootstrap
fi
[ "$1" = mariadbd ] && shift
exec setpriv --reuid=999 --regid=999 --clear-groups mariadbd --no-defaults --datadir="$data" \
	--bind-address=0.0.0.0 --skip-name-resolve --socket=/run/mysqld/mysqld.sock "$@"
