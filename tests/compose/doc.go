// SPDX-License-Identifier: Apache-2.0

// Package compose brings docker-compose.yml up in containers and does to them what happens to
// containers: they are killed, cut off, and made anew, while money moves between the databases.
//
// It runs as root on Debian and its relatives, with the build tag "compose": "make compose-test" finds a
// Docker engine, or starts one of its own, with its own data and socket. Its own engine cannot pull
// images, so it gets the names that the file asks for from the servers that are installed on the machine.
package compose
