// SPDX-License-Identifier: Apache-2.0

package mysql

import (
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"
)

// TxOptions are wishes for one branch. The zero value wishes nothing.
type TxOptions struct {
	Isolation sql.IsolationLevel // LevelDefault: the server's
	// ReadOnly makes the server refuse writes. Such a branch ends at its vote, and its locks
	// with it.
	ReadOnly    bool
	LockTimeout time.Duration // in whole seconds, rounded up; zero: that of the resource
}

var errLateOptions = errors.New("the branch has options or has run statements already: give the options with the first call of TxWith")

// check tells whether the servers know what is wished for.
func (o TxOptions) check() error {
	switch o.Isolation {
	case sql.LevelDefault, sql.LevelReadUncommitted, sql.LevelReadCommitted, sql.LevelRepeatableRead, sql.LevelSerializable:
	default:
		return fmt.Errorf("there is no isolation level %q: use read uncommitted, read committed, repeatable read or serializable", o.Isolation)
	}
	if o.LockTimeout < 0 {
		return fmt.Errorf("a lock time-out of %s is none: give one of at least a second", o.LockTimeout)
	}
	return nil
}

// level is the statement that gives the next transaction its level, or nothing.
func (o TxOptions) level() string {
	var wishes []string
	if o.Isolation != sql.LevelDefault {
		wishes = append(wishes, "ISOLATION LEVEL "+strings.ToUpper(o.Isolation.String()))
	}
	if o.ReadOnly {
		wishes = append(wishes, "READ ONLY")
	}
	if wishes == nil {
		return ""
	}
	return "SET TRANSACTION " + strings.Join(wishes, ", ")
}

// lockTimeout is the limit of lock waits in a branch.
func (r *Resource) lockTimeout(o TxOptions) time.Duration {
	if o.LockTimeout > 0 {
		return o.LockTimeout
	}
	return r.options.LockTimeout
}
