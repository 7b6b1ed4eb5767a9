// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// SQLSTATEs that the adapter branches on.
const (
	codeUndefinedObject  = "42704" // no prepared transaction of that name
	codeUndefinedTable   = "42P01"
	codeUndefinedColumn  = "42703"
	codeLockNotAvailable = "55P03"
	codeUndefinedSchema  = "3F000"
	codePrivilege        = "42501"
	codeReadOnly         = "25006" // the transaction, or the server
	codeDuplicate        = "23505"
	codeNoStatement      = "26000" // no statement of that name was prepared
	codeInvalidValue     = "22023" // a transaction number of the future, among others
	codeInvalidText      = "22P02" // a setting that is not there, read as a number
)

// sqlState returns the SQLSTATE of an error that the server answered, or "".
func sqlState(err error) string {
	var answer *pgconn.PgError
	if errors.As(err, &answer) {
		return answer.Code
	}
	return ""
}

// refused reports whether the server answered that the statement failed and went on
// to serve the session. Everything else, a FATAL answer too, leaves open what happened.
func refused(err error) bool {
	var answer *pgconn.PgError
	return errors.As(err, &answer) && answer.SeverityUnlocalized == "ERROR" && !outage(answer.Code)
}

func outage(code string) bool {
	return strings.HasPrefix(code, "08") || strings.HasPrefix(code, "57P") || code == "53300"
}

// operation is what concord itself was doing when the server answered. One SQLSTATE has
// different causes in different operations, so the next step depends on it.
type operation uint8

const (
	asking     operation = iota // about the server, in recovery and when a branch opens
	preparing                   // PREPARE TRANSACTION and what comes with it
	committing                  // in one phase
	finishing                   // COMMIT PREPARED and ROLLBACK PREPARED
)

// explain puts the resource and the operation in front of an error of one of concord's
// own commands, and the next step behind it. It returns nil for nil. pgx keeps passwords out of
// its own errors.
func (r *Resource) explain(op operation, what string, err error) error {
	if err == nil {
		return nil
	}
	if step := nextStep(op, err); step != "" {
		return fmt.Errorf("postgres %q: %s: %w; %s", r.name, what, err, step)
	}
	return fmt.Errorf("postgres %q: %s: %w", r.name, what, err)
}

func nextStep(op operation, err error) string {
	code := sqlState(err)
	voting := op == preparing || op == committing
	switch {
	case errors.Is(err, errMarker):
		return "have an administrator of the database run:\n" + CreateMarkerTable + ";\n" + markerGrants +
			"\nfor the roles of the application and of the coordinators"
	case voting && (code == "40001" || code == "40P01" || code == "55P03"):
		return "run the global transaction again"
	case fromWithin(err): // the error of a trigger, which says itself what is wrong
		return ""
	case op == finishing && code == "42501":
		return "make the recovery login a member of the role that prepared the branch (GRANT <owner> TO <login>) " +
			"and, to end sessions of others, of pg_signal_backend"
	case op == asking && code == "42501":
		return "grant the login what the message names"
	case op == finishing && code == "25006":
		return "this server is a standby: point the resource at the primary"
	case op == preparing && code == "55000":
		return "set max_prepared_transactions above 0 and restart the server, or name this database in WithLastResource"
	case op == finishing && code == "55000":
		return "somebody else is finishing the branch: try again"
	case op == preparing && code == "53200":
		return "raise max_prepared_transactions, and look for forgotten branches with \"concord recover\""
	case op == preparing && code == "42710":
		return "a branch of this name is prepared already: run the work in a new global transaction"
	case op == preparing && code == "0A000":
		return "keep what the message names out of the branch: PostgreSQL cannot prepare it"
	case op == finishing && code == "0A000":
		return "the branch belongs to another database of this server: point the resource at that one"
	case op == finishing && code == "25001":
		return "please report this as a bug of the adapter"
	case strings.HasPrefix(code, "28") || code == "3D000":
		return "check user, password and database of the resource's dsn"
	case code == "53300":
		return "the server has no free connection: raise max_connections or lower the pools, then try again"
	case outage(code) || code == "" && connectionLost(err):
		return "check that the server runs and can be reached, then try again"
	}
	return ""
}

// fromWithin reports whether the server ran something of the application's when it met
// the error: deferred triggers and constraints run at PREPARE and COMMIT.
func fromWithin(err error) bool {
	var answer *pgconn.PgError
	return errors.As(err, &answer) && answer.Where != ""
}

func connectionLost(err error) bool {
	var connect *pgconn.ConnectError
	return errors.As(err, &connect) || strings.Contains(err.Error(), "conn closed") || strings.Contains(err.Error(),
		"EOF")
}

// chain joins errors, the most general first, and leaves out nil.
func chain(errs ...error) error {
	var all error
	for _, err := range errs {
		switch {
		case all == nil:
			all = err
		case err != nil:
			all = fmt.Errorf("%w: %w", all, err)
		}
	}
	return all
}

// Transient implements adapters.Opener.
func (r *Resource) Transient(err error) bool {
	const serializationFailure, deadlockDetected, lockNotAvailable = "40001", "40P01", "55P03"
	switch sqlState(err) {
	case serializationFailure, deadlockDetected, lockNotAvailable:
		return true
	}
	return false
}
