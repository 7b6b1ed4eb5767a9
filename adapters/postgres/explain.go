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
	codeUndefinedObject = "42704" // no prepared transaction of that name
	codeNoStatement     = "26000" // no statement of that name was prepared
	codeInvalidValue    = "22023" // a transaction number of the future, among others
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

// explain puts the resource and the operation in front of an error and the next step
// behind it. It returns nil for nil. pgx keeps passwords out of its own errors.
func (r *Resource) explain(operation string, err error) error {
	if err == nil {
		return nil
	}
	if step := nextStep(strings.HasPrefix(operation, "prepare"), err); step != "" {
		return fmt.Errorf("postgres %q: %s: %w; %s", r.name, operation, err, step)
	}
	return fmt.Errorf("postgres %q: %s: %w", r.name, operation, err)
}

func nextStep(preparing bool, err error) string {
	code := sqlState(err)
	switch {
	case code == "42501":
		return "make the recovery login a member of the role that prepared the branch (GRANT <owner> TO <login>) and, to end sessions of others, of pg_signal_backend"
	case code == "25006":
		return "this server is a standby: point the resource at the primary"
	case code == "55000" && preparing:
		return "set max_prepared_transactions above 0 and restart the server"
	case code == "55000":
		return "somebody else is finishing the branch: try again"
	case code == "53200" && preparing:
		return "raise max_prepared_transactions, and look for forgotten branches with \"concord recover\""
	case code == "42710" && preparing:
		return "a branch of this name is prepared already: run the work in a new global transaction"
	case code == "0A000" && preparing:
		return "keep temporary tables, LISTEN, NOTIFY and WITH HOLD cursors out of the branch"
	case code == "0A000":
		return "the branch belongs to another database of this server: point the resource at that one"
	case code == "40001" || code == "40P01" || code == "55P03":
		return "run the global transaction again"
	case code == "25001":
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

func connectionLost(err error) bool {
	var connect *pgconn.ConnectError
	return errors.As(err, &connect) || strings.Contains(err.Error(), "conn closed") || strings.Contains(err.Error(), "EOF")
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
