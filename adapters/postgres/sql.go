// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/concordtx/concord/txn"
)

// The texts that name a branch or a role. txn.XID prints letters, digits and hyphens
// only, so its text needs no escaping inside quotes; nothing that a server listed
// comes here but as a parsed XID, or as a role name that is quoted as an identifier.

func prepareText(x txn.XID) string { return prepareNamed(name{XID: x}.String()) }

func prepareNamed(name string) string { return "prepare transaction '" + name + "'" }

func finishText(x txn.XID, d txn.Decision) string { return finishNamed(name{XID: x}.String(), d) }

// finishNamed is the statement that ends a prepared branch. The server accepts it only
// alone in its message.
func finishNamed(name string, d txn.Decision) string {
	if d == txn.Commit {
		return "commit prepared '" + name + "'"
	}
	return "rollback prepared '" + name + "'"
}

// finishTag is the command tag of a finishText that worked.
func finishTag(d txn.Decision) string {
	if d == txn.Commit {
		return "COMMIT PREPARED"
	}
	return "ROLLBACK PREPARED"
}

// lookText asks under which names a branch may be prepared, by whom, and who we are.
func lookText(x txn.XID) string {
	return "select gid, owner, current_user, current_setting('role') from pg_prepared_xacts where starts_with(gid, '" +
		x.String() + "')"
}

// lookAllText is lookText for many branches. Names from other databases may be in other encodings, and are not cut.
const lookAllText = `
select gid, owner, current_user, current_setting('role')
  from pg_prepared_xacts
 where case when database = current_database() and starts_with(gid, 'concord-') then left(gid, 46) end = any($1)`

// roleText takes a role; "none" is how the server spells "the one that logged in".
func roleText(role string) string {
	if role == "none" {
		return "set role none"
	}
	return "set role " + pgx.Identifier{role}.Sanitize()
}

// beginText opens a transaction with its mark and its limits in one round trip.
func beginText(m mark, limits []string) string {
	return strings.Join(append([]string{"begin", m.setText()}, limits...), "; ")
}

// mark is a setting of the transactions that branches begin on one connection, which ends with each of
// them. It is a number that nobody else knows, so that no other transaction has it by chance.
type mark int32

func newMark() mark {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails: see its documentation
	return mark(binary.BigEndian.Uint32(b[:]) >> 1)
}

func (m mark) setText() string { return fmt.Sprintf("set local concord.branch = %d", m) }

// checkText is an expression that fails in a transaction without the mark, or where a condition does not hold.
func (m mark) checkText(condition string) string {
	return fmt.Sprintf("current_setting(case when current_setting('concord.branch', true) = '%d'%s "+
		"then 'concord.branch' else 'concord.branch.is_another' end)::int", m, condition)
}

// numberText names the transaction it runs in, and fails if that has no mark. No number
// means that it wrote nothing.
func (m mark) numberText() string {
	return "select pg_current_xact_id_if_assigned()::text, current_user::text, " + m.checkText("")
}

// noWriteText gives a number to a transaction that was declared to be read only, and fails in
// one that is not.
func (m mark) noWriteText() string {
	return "select pg_current_xact_id()::text, current_user::text, " +
		m.checkText(" and current_setting('transaction_read_only') = 'on'")
}

// readerText is numberText for a branch that may have read only.
func (m mark) readerText() string {
	return "select pg_current_xact_id_if_assigned()::text, current_setting('transaction_isolation'), " + m.checkText("")
}

// limitText sets a limit for one transaction. Zero leaves the setting as it is.
func limitText(setting string, d time.Duration) []string {
	if d <= 0 {
		return nil
	}
	return []string{fmt.Sprintf("set local %s = %d", setting, max(1, d.Milliseconds()))}
}

// optionsTexts set what TxOptions ask for, in a transaction that has done nothing yet.
// lockTimeout is the limit that the session has by itself.
func optionsTexts(o TxOptions, lockTimeout time.Duration) ([]string, error) {
	var modes []string
	switch o.Isolation {
	case "":
	case pgx.Serializable, pgx.RepeatableRead, pgx.ReadCommitted, pgx.ReadUncommitted:
		modes = append(modes, "isolation level "+string(o.Isolation))
	default:
		return nil, fmt.Errorf("isolation level %.40q is none of PostgreSQL's: use the constants of pgx, such as "+
			"pgx.Serializable", o.Isolation)
	}
	if o.ReadOnly {
		modes = append(modes, "read only")
	}
	texts := limitText("lock_timeout", lowered(o.LockTimeout, lockTimeout))
	if len(modes) > 0 {
		texts = append([]string{"set transaction " + strings.Join(modes, ", ")}, texts...)
	}
	return texts, nil
}

const (
	// serverText asks what stays the same as long as a connection lives, and its limits. The
	// timeline is that of the write-ahead log, because the one in the control file is as old as the
	// last checkpoint.
	serverText = `
select (select system_identifier from pg_control_system())::text,
       case when pg_is_in_recovery() then '' else left(pg_walfile_name(pg_current_wal_lsn()), 8) end,
       (select oid from pg_database where datname = current_database())::text,
       pid, (extract(epoch from backend_start) * 1000000)::bigint,
       (extract(epoch from current_setting('lock_timeout')::interval) * 1000)::bigint,
       (extract(epoch from current_setting('idle_in_transaction_session_timeout')::interval) * 1000)::bigint
  from pg_stat_activity where pid = pg_backend_pid()`

	// statusText asks what became of transaction $3 of system $1 on timeline $2. It
	// answers null where the server may not know: elsewhere the number is another's.
	statusText = `
select case when (select system_identifier from pg_control_system())::text = $1::text
             and not pg_is_in_recovery()
            then case when left(pg_walfile_name(pg_current_wal_lsn()), 8) = $2::text
                      then pg_xact_status($3::text::xid8) end end`

	// fenceText ends the session with process $1 that began at $2 microseconds, and waits
	// until it is gone. No row, or true: it is. Unless it is our own ($3), it must be seen at work
	// on the branch: in the statement that prepares it, which begins with $4, or in the transaction with number
	// $5. Null: it is not. The second column tells whether we may see it at all.
	fenceText = `
select case when backend_start is null then null
            when (extract(epoch from backend_start) * 1000000)::bigint <> $2::bigint then true
            when $3::bool or datname = current_database()
                 and (state = 'active' and starts_with(query, $4::text)
                      or backend_xid = nullif($5::text, '')::xid8::xid)
            then pg_terminate_backend(pid, 5000) end,
       backend_start is not null
  from pg_stat_activity where pid = $1::int and pid <> pg_backend_pid()`

	// listText lists candidates; txn.ParseXID decides. Names from other databases may be in
	// other encodings, and foreign ones may hold anything: both stay on the server.
	listText = `
select gid, prepared, coalesce(owner::text, '')
  from pg_prepared_xacts
 where database = current_database() and octet_length(gid) >= 46 and starts_with(gid, 'concord-')
 order by prepared, gid`
)

// name is that under which a branch is prepared: that of its XID, and behind it, if it is known, the numbers of all
// branches of its transaction, two hex digits each: what a prepared transaction has written nobody can read, but its
// name everybody can. concord-<cluster>-<gid>-01-0001 is the second of two. Where a last resource decides it is the
// tag of that which is behind it.
type name struct {
	txn.XID
	siblings []txn.BranchNo
	last     txn.LastTag
}

// maxName is the longest name that PostgreSQL takes, in bytes.
const maxName = 199

// String names no siblings if those are too many.
func (n name) String() string {
	text := n.XID.String()
	if n.last != 0 {
		return text + "-" + n.last.String()
	}
	if len(n.siblings) == 0 || len(text)+1+2*len(n.siblings) > maxName {
		return text
	}
	numbers := make([]byte, len(n.siblings))
	for i, no := range n.siblings {
		numbers[i] = byte(no)
	}
	return text + "-" + hex.EncodeToString(numbers)
}

func (s *session) preparedName() string {
	return name{XID: s.x, siblings: s.siblings, last: s.tag}.String()
}

// parseName is the inverse of String. What it does not accept is nobody's or somebody else's.
func parseName(text string) (n name, ours bool) {
	end := len(txn.XID{}.String())
	if len(text) <= end {
		n.XID, ours = txn.ParseXID(text)
		return n, ours
	}
	if n.XID, ours = txn.ParseXID(text[:end]); !ours || text[end] != '-' {
		return name{}, false
	}
	if n.ID.Class() == txn.LastResource {
		n.last, ours = txn.ParseLastTag(text[end+1:])
		return n, ours
	}
	numbers, err := hex.DecodeString(text[end+1:])
	if err != nil {
		return name{}, false
	}
	n.siblings = make([]txn.BranchNo, len(numbers))
	for i, no := range numbers {
		n.siblings[i] = txn.BranchNo(no)
		if i > 0 && n.siblings[i] <= n.siblings[i-1] {
			return name{}, false
		}
	}
	if n.String() != text || !slices.Contains(n.siblings, n.Branch) { // e.g. upper-case hex
		return name{}, false
	}
	return n, true
}
