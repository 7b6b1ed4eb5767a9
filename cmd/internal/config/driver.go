// SPDX-License-Identifier: Apache-2.0

package config

import (
	"context"
	"fmt"
	"strings"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/participant/statement"
	"github.com/concordtx/concord/security"
)

// driver is one kind of database: what a resource says about where it is, and what opens it. A
// program for which nothing opens it refuses it by name.
type driver struct {
	name  string
	shown string // in the list of a message
	at    place
	node  func(context.Context, Resource, *security.Credentials) (adapters.Resource, error)
	agent func(ctx context.Context, c Resource, sessions int) (statement.Database, error)
}

// place is how a resource says where its database is.
type place uint8

const (
	byDSN  place = iota + 1 // "dsn" or "dsn_file"
	byDir                   // "dir"
	byAddr                  // "addr"
)

// drivers are all that there are. The rows have no names of fields, so that one that leaves
// something out does not compile.
var drivers = []driver{
	{"postgres", "postgres", byDSN, openPostgres, hostPostgres},
	{"mysql", "mysql (also for MariaDB)", byDSN, openMySQL, hostMySQL},
	{"pebble", "pebble", byDir, nil /* it lives in one process, which an application cannot share */, hostPebble},
	{"agent", "agent", byAddr, openAgent, nil /* an agent stands beside its databases */},
}

// host is which of the two programs a resource is for.
type host uint8

const (
	ofNode host = iota + 1
	ofAgent
)

// opens reports whether a host can open such databases.
func (h host) opens(d driver) bool {
	switch h {
	case ofNode:
		return d.node != nil
	case ofAgent:
		return d.agent != nil
	}
	return false
}

// driver returns the driver of a resource that a host can open.
func (h host) driver(c Resource) (driver, error) {
	var known []string
	for _, d := range drivers {
		if !h.opens(d) {
			continue
		}
		if d.name == c.Driver {
			return d, nil
		}
		known = append(known, d.shown)
	}
	return driver{}, fmt.Errorf("driver %s is none of %s", shown(c.Driver), strings.Join(known, ", "))
}
