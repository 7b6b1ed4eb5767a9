#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# The question of the image's script of this name with --connect --innodb_initialized: a server that
# refuses the password of a stranger serves connections.
mariadb-admin --no-defaults --protocol=tcp -h 127.0.0.1 -u app -papp ping
