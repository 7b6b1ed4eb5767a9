// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"fmt"

	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
	"github.com/concordtx/concord/wal"
)

// restoredState is what a node holds in memory of a snapshot that has taken the place of its state.
// However much that is, the loop only takes it over: it is read by the goroutine that installed
// the snapshot, before the loop hears that it is durable. Nothing is applied in between.
type restoredState struct {
	at     zab.Zxid
	table  *txn.Table
	newest txn.ID // finished transaction
}

func (n *Node) readRestored(at zab.Zxid) (*restoredState, error) {
	table, err := loadTable(n.store, n.archive)
	if err != nil {
		return nil, err
	}
	newest, err := newestFinished(n.store)
	return &restoredState{at: at, table: table, newest: newest}, err
}

// persistedReader returns what is called after each sync of the log, on its goroutine, with what
// the loop hears of it.
func (n *Node) persistedReader(hear func(id uint64)) func(id uint64) {
	var last zab.Zxid
	return func(id uint64) {
		if at := n.store.Restored(); at != last {
			last = at
			x, err := n.readRestored(at)
			if err != nil {
				n.fatal(fmt.Errorf("read the snapshot of %v that was installed: %w", at, err))
			}
			n.restored.Store(x)
		}
		hear(id)
	}
}

// reload makes the table anew, after a snapshot took the place of the stored state.
func (n *Node) reload() (*txn.Table, error) {
	x := n.restored.Swap(nil)
	if x == nil {
		return nil, fmt.Errorf("the snapshot of %v was installed, and not read", n.store.Restored())
	}
	n.archive.restart(x.newest)
	return x.table, nil
}

// newestFinished returns the newest transaction that is stored as finished; zero if there is none.
func newestFinished(s *wal.Store) (id txn.ID, err error) {
	err = scanTxns(s, finishedKey, nil, true, func(newest txn.Txn) bool {
		id = newest.ID
		return false
	})
	return id, err
}
