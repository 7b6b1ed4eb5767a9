// SPDX-License-Identifier: Apache-2.0

package participant

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/internal/said"
	"github.com/concordtx/concord/txn"
)

// message is an error that whoever runs an agent or asks it can meet, beside the refusals that the traces
// show: how to get it in a directory, and what it says, with DIR for the directory and GID for a transaction.
type message struct {
	name string
	meet func(*testing.T, string) error
	says string
	is   error
}

// kept is what is said of a journal that was spoilt.
func kept(spoil func(*testing.T, *Journal)) func(*testing.T, string) error {
	return func(t *testing.T, dir string) error {
		j, err := OpenJournal(dir, "east", JournalOptions{})
		require.NoError(t, err)
		spoil(t, j)
		require.NoError(t, j.Close())
		_, err = Open(Config{Name: "east", DataDir: dir})
		return err
	}
}

// holding puts one entry into a journal, which change may change.
func holding(change func([]byte) []byte) func(*testing.T, *Journal) {
	return func(t *testing.T, j *Journal) {
		e := anEntry()
		key := append([]byte{entrySpace}, e.ID[:]...)
		require.NoError(t, j.db.Set(key, seal(key, change(e.AppendBinary(nil))), pebble.Sync))
	}
}

// withHead puts another head into a journal.
func withHead(t *testing.T, j *Journal, b ...byte) {
	t.Helper()
	require.NoError(t, j.db.Set([]byte(headKey), seal([]byte(headKey), b), pebble.Sync))
}

// refusing is what the core of an agent in this cluster refuses of the last event.
func refusing(cluster txn.ClusterID, events ...Event) func(*testing.T, string) error {
	return func(t *testing.T, _ string) error {
		c := NewCore("east", Rules{}, Life{}, cluster, []string{"orders"}, nil)
		var last []Effect
		for _, e := range append([]Event{Tick{Now: time.Unix(1_700_000_000, 0)}}, events...) {
			last = c.Step(e)
		}
		require.Len(t, last, 1)
		refused, ok := last[0].(Refuse)
		require.True(t, ok, "%v", last)
		return refused.Err
	}
}

// inOrders is a branch of a transaction that was begun then.
func inOrders(class txn.Class, at time.Time) Branch {
	return Branch{txn.XID{Cluster: 7, ID: txn.FirstID(at).WithClass(class)}, "orders"}
}

const copyIt = `the journal is damaged; keep a copy of the directory, and start the agent with an empty "data_dir" ` +
	`and another "name": it is a new member then, and finishes old branches as the cluster says`

var messages = []message{
	{name: "a directory that cannot be made", meet: func(t *testing.T, dir string) error {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
		_, err := OpenJournal(filepath.Join(dir, "file", "x"), "east", JournalOptions{})
		return err
	}, says: `journal DIR/file/x: stat DIR/file/x: not a directory; correct "data_dir", or let the user that runs ` +
		`concord write there`},
	{name: "a journal that is in use", is: ErrJournalLocked, meet: func(t *testing.T, dir string) error {
		j, err := OpenJournal(dir, "east", JournalOptions{})
		require.NoError(t, err)
		defer j.Close()
		_, err = OpenJournal(dir, "east", JournalOptions{})
		return err
	}, says: `journal DIR: the journal is in use (lock held by current process); one process at a time: stop the ` +
		`other agent, or give this one a "data_dir" of its own`},
	{name: "a directory of somebody else", is: ErrNotJournal, meet: func(t *testing.T, dir string) error {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "thesis.txt"), nil, 0o600))
		_, err := OpenJournal(dir, "east", JournalOptions{})
		return err
	}, says: `journal DIR: not the journal of an agent: it holds "thesis.txt"; choose an empty directory`},
	{name: "a journal of another agent", is: ErrOtherAgent, meet: func(t *testing.T, dir string) error {
		j, err := OpenJournal(dir, "west", JournalOptions{})
		require.NoError(t, err)
		require.NoError(t, j.Close())
		_, err = OpenJournal(dir, "east", JournalOptions{})
		return err
	}, says: `journal DIR: the journal belongs to another agent: it was made for "west", this is "east"; correct ` +
		`"name" or "data_dir" in the configuration`},
	{name: "an agent of another cluster", is: ErrOtherCluster, meet: func(t *testing.T, dir string) error {
		j, err := OpenJournal(dir, "east", JournalOptions{})
		require.NoError(t, err)
		defer j.Close()
		require.NoError(t, j.Join(7))
		return j.Join(8)
	}, says: `journal DIR: the agent belongs to another cluster: it is 00000007, and the coordinators are of ` +
		`00000008; correct "coordinators", or give the agent an empty "data_dir"`},
	{name: "a journal of a later version", is: ErrNewerEntry,
		meet: kept(func(t *testing.T, j *Journal) { withHead(t, j, headVersion+1) }),
		says: "journal DIR: an entry was written by a later version of concord; start that version, or a later one"},
	{name: "a journal without a head", is: ErrJournalDamaged, meet: kept(func(t *testing.T, j *Journal) {
		holding(func(b []byte) []byte { return b })(t, j)
		require.NoError(t, j.db.Delete([]byte(headKey), pebble.Sync))
	}), says: "journal DIR: its head is missing: " + copyIt},
	{name: "a journal with a head that is cut off", is: ErrJournalDamaged,
		meet: kept(func(t *testing.T, j *Journal) { withHead(t, j, headVersion) }),
		says: "journal DIR: its head cannot be read: " + copyIt},
	{name: "a journal with a head that is damaged", is: ErrJournalDamaged, meet: kept(func(t *testing.T, j *Journal) {
		require.NoError(t, j.db.Set([]byte(headKey), []byte("xxxxx"), pebble.Sync))
	}), says: "journal DIR: its head does not match its checksum: " + copyIt},
	{name: "an entry under a key that is none", is: ErrJournalDamaged, meet: kept(func(t *testing.T, j *Journal) {
		require.NoError(t, j.db.Set([]byte{entrySpace}, nil, pebble.Sync))
	}), says: "journal DIR: a key has the wrong length: " + copyIt},
	{name: "an entry that is damaged", is: ErrJournalDamaged, meet: kept(func(t *testing.T, j *Journal) {
		e := anEntry()
		require.NoError(t, j.db.Set(append([]byte{entrySpace}, e.ID[:]...), []byte("xxxxx"), pebble.Sync))
	}), says: "journal DIR: transaction GID does not match its checksum: " + copyIt},
	{name: "an entry that is cut off", is: ErrJournalDamaged,
		meet: kept(holding(func(b []byte) []byte { return b[:len(b)-1] })),
		says: "journal DIR: transaction GID: damaged entry: " + copyIt},
	{name: "an entry of a later version", is: ErrNewerEntry,
		meet: kept(holding(func(b []byte) []byte { b[1]++; return b })),
		says: "journal DIR: transaction GID: an entry was written by a later version of concord; start that " +
			"version, or a later one"},
	{name: "a resource that was taken away", meet: kept(holding(func(b []byte) []byte { return b })),
		says: `journal DIR: transaction GID has a branch in resource "orders", which is not among "resources": put ` +
			`it back until "concord tx ls" shows the transaction as finished`},

	{name: "an agent that does not know its cluster yet",
		meet: refusing(0, WorkAsked{Number: 1, Branch: inOrders(txn.Recorded, time.Unix(1_700_000_000, 0))}),
		says: `this agent has not reached its cluster yet, and does not know which it is: start the coordinator ` +
			`nodes, or correct "coordinators" in its configuration`},
	{name: "a vote while a request is running",
		meet: refusing(7, WorkAsked{Number: 1, Branch: inOrders(txn.Recorded, time.Unix(1_700_000_000, 0))},
			PrepareAsked{Number: 1, Branch: inOrders(txn.Recorded, time.Unix(1_700_000_000, 0))}),
		says: "request 1 of this branch is still running: wait for its answer before you ask for the vote"},
	{name: "three phases that began long ago",
		meet: refusing(7, WorkAsked{Number: 1, Branch: inOrders(txn.ThreePhase, time.Unix(1_000_000_000, 0))}),
		says: "the transaction was begun at 2001-09-09T01:46:40Z, which is too long ago, or too far ahead of the " +
			"clock here: begin a new one; if it is new, correct the clocks"},

	{name: "an agent that is busy", is: context.Canceled, meet: func(t *testing.T, _ string) error {
		a := &Agent{events: make(chan Event), closed: make(chan struct{}), waiting: map[Call]chan Effect{}}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := a.await(ctx, func(c Call) Event { return Left{Call: c} })
		return err
	}, says: "the agent is busy: ask again in a moment: context canceled"},
	{name: "an agent that takes its time", is: context.Canceled, meet: func(t *testing.T, _ string) error {
		a := &Agent{events: make(chan Event), closed: make(chan struct{}), waiting: map[Call]chan Effect{}}
		ctx, cancel := context.WithCancel(t.Context())
		go func() { <-a.events; cancel() }()
		_, err := a.await(ctx, func(c Call) Event { return Left{Call: c} })
		return err
	}, says: "the agent is still working on it: repeat the request to get its answer: context canceled"},
	{name: "an agent that shuts down", is: errStopped, meet: func(t *testing.T, _ string) error {
		a := &Agent{events: make(chan Event), closed: make(chan struct{}), waiting: map[Call]chan Effect{}}
		close(a.closed)
		_, err := a.await(t.Context(), func(c Call) Event { return Left{Call: c} })
		return err
	}, says: errStopped.Text},
	{name: "a branch whose session could not be begun", is: errNotBegun, meet: func(*testing.T, string) error {
		a := &Agent{sessions: map[txn.XID]*slot{}, working: context.Background()}
		v, ok := a.prepare(Prepare{}).(Voted)
		if !ok || v.Reason != errNotBegun.Error() {
			return errors.New(v.Reason)
		}
		return errNotBegun
	}, says: "the session of the branch could not be begun: roll the transaction back and begin a new one"},
}

var anID = regexp.MustCompile(`\b[0-7][0-9A-HJKMNP-TV-Z]{25}\b`)

func TestWhatErrorsSay(t *testing.T) {
	for _, m := range messages {
		t.Run(m.name, func(t *testing.T) {
			dir := t.TempDir()
			err := m.meet(t, dir)
			require.Error(t, err)
			says := anID.ReplaceAllString(strings.ReplaceAll(err.Error(), dir, "DIR"), "GID")
			require.Equal(t, m.says, says)
			if m.is != nil {
				require.ErrorIs(t, err, m.is)
			}
		})
	}
}

// Who writes another error finds out here that its text has to be looked at by everybody.
func TestEveryErrorHasARow(t *testing.T) {
	var rows []string
	for _, m := range messages {
		rows = append(rows, m.says)
	}
	for _, trace := range traces(t) {
		rows = append(rows, strings.Split(trace, "\n")...)
	}
	said.Check(t, rows, withoutRow, "damaged", "refuse")
}

// traces are what the core is seen to do, with the texts of its refusals.
func traces(t *testing.T) (all []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", "*.txt"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, f := range files {
		b, err := os.ReadFile(f)
		require.NoError(t, err)
		all = append(all, string(b))
	}
	return all
}

// withoutRow are the texts that no row of the table has.
var withoutRow = map[string]string{
	"write the journal: %w; check the disk, then start the agent again": "wants a disk that breaks, at " +
		"which the store ends the process",
	"the database voted no without a reason": "no adapter of ours votes so",
	"journal %s: %w; give \"data_dir\" as an absolute path": "wants a working directory " +
		"that is gone",
	"journal %s: %w; let the user that runs concord write there": "wants a directory that this " +
		"user may not write to, and tests may run as root",
	"journal %s: %w; let the user that runs concord read it": "wants a directory that this " +
		"user may not read, and tests may run as root",
	"journal %s: open the store: %w; check the disk and the rights of the directory": "wants a disk that breaks",
	"journal %s: %w; check the disk":                                                 "wants a disk that breaks",
}
