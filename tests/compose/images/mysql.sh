#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Starts MySQL as the image of that name does, as far as docker-compose.yml relies on it. The server
# has libraries of its own.
set -eu

data=/var/lib/mysql
tree=/opt/mysql
# server becomes the server: the first process of a container gets its signals.
server() {
	exec setpriv --reuid=999 --regid=999 --clear-groups \
		"$tree"/usr/lib*/ld-linux*.so.* --library-path "$(echo "$tree"/usr/lib/*-linux-gnu)" "$tree/usr/sbin/mysqld" \
		--no-defaults --basedir="$tree/usr" --lc-messages-dir="$tree/usr/share/mysql" \
		--character-sets-dir="$tree/usr/share/mysql/charsets" --plugin-dir="$tree/usr/lib/mysql/plugin" \
		--datadir="$data" "$@"
}

mkdir -p "$data"
chown 999:999 "$data" /run/mysqld
if [ ! -d "$data/mysql" ]; then
	{
		cat /docker-entrypoint-initdb.d/*.sql
		echo "ALTER USER root@localhost IDENTIFIED BY '$MYSQL_ROOT_PASSWORD';"
	} >/tmp/init.sql
	chmod 644 /tmp/init.sql
	(server --initialize-insecure --init-file=/tmp/init.sql)
	rm -f /tmp/init.sql
fi
[ "$1" = mysqld ] && shift
server --bind-address=0.0.0.0 --skip-name-resolve --socket=/run/mysqld/mysqld.sock --mysqlx=OFF --secure-file-priv= "$@"
