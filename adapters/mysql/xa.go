// SPDX-License-Identifier: Apache-2.0

package mysql

import (
	"context"
	"database/sql/driver"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"

	sqldriver "github.com/go-sql-driver/mysql"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/txn"
)

// xa writes a name as both servers read it in every XA statement. Hexadecimal needs
// no escaping.
func xa(x txn.XID) string { return xaTagged(x, 0) }

// xaTagged is the name of a branch beside a last resource, whose tag is behind the number. Zero: there is none.
func xaTagged(x txn.XID, last txn.LastTag) string {
	bqual := x.Bqual()
	if last != 0 {
		bqual += "-" + last.String()
	}
	return "X'" + hex.EncodeToString([]byte(x.Gtrid())) + "',X'" + hex.EncodeToString([]byte(bqual)) + "'," +
		strconv.Itoa(txn.FormatID)
}

// Codes of the servers that mean something to us.
const (
	codeRecordChanged      = 1020
	codeTooManyConnections = 1040
	codeAccessDenied       = 1045
	codeDatabaseDenied     = 1044
	codeUnknownDatabase    = 1049
	codeNoSuchColumn       = 1054
	codeColumnExists       = 1060
	codeDuplicateKey       = 1062
	codeUnknownThread      = 1094
	codeKillDenied         = 1095
	codeTableDenied        = 1142
	codeNoSuchTable        = 1146
	codeLockWaitTimeout    = 1205
	codeDeadlock           = 1213
	codeReadOnly           = 1290
	codeReadOnlyMode       = 1836
	codeNotA               = 1397 // XAER_NOTA: unknown XID
	codeWrongState         = 1399 // XAER_RMFAIL
	codeRMError            = 1401 // XAER_RMERR
	codeRolledBack         = 1402 // XA_RBROLLBACK
	codeDuplicate          = 1440 // XAER_DUPID
	codeRolledBackTimeout  = 1613 // XA_RBTIMEOUT
	codeRolledBackDeadlock = 1614 // XA_RBDEADLOCK
	codeLockNoWait         = 3572
)

// codeOf returns the number of an error that the server answered; false for any
// other, such as a broken connection.
func codeOf(err error) (code uint16, answered bool) {
	var answer *sqldriver.MySQLError
	if errors.As(err, &answer) {
		return answer.Number, true
	}
	return 0, false
}

// isCode reports whether the server answered with one of these codes.
func isCode(err error, codes ...uint16) bool {
	code, answered := codeOf(err)
	for _, c := range codes {
		if answered && c == code {
			return true
		}
	}
	return false
}

// advise adds the next step to errors whose cause is outside of this program.
func advise(err error) error {
	code, answered := codeOf(err)
	if errors.Is(err, ErrPoolBusy) {
		return err // which says it
	}
	if !answered {
		if broken(err) {
			return fmt.Errorf("%w: check that the server runs and can be reached, then try again", err)
		}
		return err
	}
	step := ""
	switch code {
	case codeTooManyConnections:
		step = "raise max_connections or run fewer transactions at once"
	case codeAccessDenied:
		step = "correct the user or password of this resource"
	case codeDatabaseDenied, codeTableDenied:
		step = "GRANT the user of this resource what the server names; on " + markerTable +
			": SELECT, INSERT and DELETE"
	case codeUnknownDatabase:
		step = "create the database or correct the resource's data source name"
	case codeKillDenied:
		step = `GRANT CONNECTION_ADMIN ON *.* (MariaDB: CONNECTION ADMIN) to the user of this resource, or end the ` +
			`session yourself with KILL`
	case codeLockWaitTimeout:
		step = "somebody has held the lock for too long: check the process list, and \"concord recover\" for " +
			"branches in doubt, then try again"
	case codeDeadlock:
		step = "the server chose this transaction to end a deadlock: run it again"
	case codeReadOnly, codeReadOnlyMode:
		step = "the server is read-only: point the resource at the primary, or switch read_only off; MariaDB lets " +
			"READ_ONLY ADMIN finish branches"
	case codeRMError:
		step = "MySQL: GRANT XA_RECOVER_ADMIN ON *.* to the user of this resource; if it has that already, see the " +
			"server's log"
	case codeDuplicate:
		step = "the name is in use: begin a new transaction"
	default:
		return err
	}
	return fmt.Errorf("%w: %s", err, step)
}

// broken reports whether an error is about the connection, not an answer of the server.
func broken(err error) bool {
	var network net.Error
	return errors.As(err, &network) || errors.Is(err, driver.ErrBadConn) || errors.Is(err, sqldriver.ErrInvalidConn) ||
		errors.Is(err, io.EOF)
}

// rowsOf runs a query and returns all its rows as text.
type rowsOf func(ctx context.Context, query string) ([][]string, error)

// recoverList lists what is prepared and ours, and counts the rest.
func recoverList(ctx context.Context, q rowsOf) (list []adapters.Prepared, foreign int, err error) {
	rows, err := q(ctx, "XA RECOVER")
	if err != nil {
		return nil, 0, fmt.Errorf("list prepared branches: %w", err)
	}
	for _, row := range rows {
		p, ours := parseListed(row)
		if !ours {
			foreign++
			continue
		}
		list = append(list, p)
	}
	return list, foreign, nil
}

// parseListed reads a row of XA RECOVER: formatID, the lengths of the two parts, and
// the bytes of both, which may be anything.
func parseListed(row []string) (p adapters.Prepared, ours bool) {
	if len(row) != 4 {
		return p, false
	}
	format, err1 := strconv.ParseInt(row[0], 10, 64)
	gtrid, err2 := strconv.Atoi(row[1])
	bqual, err3 := strconv.Atoi(row[2])
	data := row[3]
	if err1 != nil || err2 != nil || err3 != nil || gtrid < 0 || bqual < 0 || gtrid+bqual != len(data) {
		return p, false
	}
	number, tag, tagged := strings.Cut(data[gtrid:], "-")
	if p.XID, ours = txn.ParseXA(format, []byte(data[:gtrid]), []byte(number)); ours && tagged {
		p.Last, ours = txn.ParseLastTag(tag)
		ours = ours && p.XID.ID.Class() == txn.LastResource
	}
	return p, ours
}

// Transient implements adapters.Opener. A record that has changed since the snapshot was taken is how
// MariaDB says that it cannot serialize.
func (r *Resource) Transient(err error) bool {
	return isCode(err, codeDeadlock, codeLockWaitTimeout, codeLockNoWait, codeRecordChanged, codeRolledBackDeadlock,
		codeRolledBackTimeout)
}
