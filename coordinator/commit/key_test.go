// SPDX-License-Identifier: Apache-2.0

package commit

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/api"
	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/txn"
)

func (l *lone) commitKeyed(key, result string) (txn.ID, Reply) {
	l.t.Helper()
	id := l.newID().WithClass(txn.Recorded)
	return id, l.ask(func(request uint64) replica.Event {
		return CommitAsked{Request: request, CommitRequest: txn.CommitRequest{ID: id, Key: key, Result: []byte(result), Branches: []txn.Branch{{Resource: "orders"}, {No: 1, Resource: "billing"}}}}
	})
}

func (l *lone) keyUse(key string) Reply {
	l.t.Helper()
	return l.ask(func(request uint64) replica.Event { return KeyAsked{Request: request, Key: key} })
}

func TestAKeyIsUsedOnce(t *testing.T) {
	l := newLone(t, "orders", "billing")
	levelled(l)
	require.Nil(t, l.keyUse("k").Key)
	id, r := l.commitKeyed("k", "paid")
	require.Equal(t, txn.Commit, r.Decision, r.Reason)
	_, r = l.commitKeyed("k", "paid again")
	require.Equal(t, txn.Abort, r.Decision)
	require.Equal(t, "its key was used: transaction "+id.String()+" is committed under it", r.Reason)
	require.Equal(t, &txn.KeyUse{Key: "k", ID: id, Result: []byte("paid")}, l.keyUse("k").Key)
	_, r = l.commitKeyed("another", "")
	require.Equal(t, txn.Commit, r.Decision)
}

// While a member cannot read keys nobody is told to send any, and what comes with one is aborted.
func TestKeysAreOffUntilEveryMemberKnowsThem(t *testing.T) {
	l := newLone(t, "orders", "billing")
	l.step(replica.MembersSeen{Speakers: []replica.Speaker{{Node: 1, Store: txn.StoreID{1}, Level: txn.LevelKeys - 1}}})
	for range 10 {
		l.tick(50 * time.Millisecond)
	}
	require.Equal(t, txn.LevelKeys-1, l.table.Level())
	err := l.keyUse("k").Err
	require.ErrorIs(t, err, api.ErrRefused)
	require.EqualError(t, err, errKeysOff.Error())
	_, r := l.commitKeyed("k", "")
	require.Equal(t, txn.Abort, r.Decision)
	require.Equal(t, errKeysOff.Error(), r.Reason)
}
