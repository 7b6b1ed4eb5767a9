// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/internal/said"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

// refusals are what node 1, one of three, answers to a hello in which something is wrong.
var refusals = []struct {
	name  string
	spoil func(*Hello)
	says  string
}{
	{name: "a peer of an earlier release", spoil: func(h *Hello) { h.Newest, h.Oldest = oldestVersion-1, 1 },
		says: "node 2 speaks version 2 of the peer protocol, node 1 speaks 3 to 5: the releases are too far apart, " +
			"upgrade node 2"},
	{name: "a peer of a later release", spoil: func(h *Hello) {
		h.Newest, h.Oldest = protocolVersion+2,
			protocolVersion+1
	},
		says: "node 2 speaks versions 6 and above of the peer protocol, node 1 up to 5: the releases are too far " +
			"apart, upgrade node 1"},
	{name: "a peer with the same id", spoil: func(h *Hello) { h.From = 1 },
		says: `two nodes have the id 1: give each node its own id in "node" and "members"`},
	{name: "a peer that looks for another node", spoil: func(h *Hello) { h.To = 3 },
		says: `node 2 expected node 3 at this address, but here is node 1: correct the addresses in "members"`},
	{name: "a peer with other members", spoil: func(h *Hello) { h.Members[0]++ },
		says: `nodes 2 and 1 have different "members": use the same list on all nodes`},
	{name: "a peer that knows a lower level", spoil: func(h *Hello) { h.Level = txn.LevelBase - 1 },
		says: `the cluster is at feature level 1, and node 2 knows up to 0: run the release there that the other ` +
			`nodes run, and set no lower "feature_level"`},
	{name: "a peer that needs a higher level", spoil: func(h *Hello) { h.Needs = txn.Newest + 1 },
		says: `the cluster is at feature level 10, and node 1 knows up to 9: run the release there that the other ` +
			`nodes run, and set no lower "feature_level"`},
	{name: "a peer that is no member", spoil: func(h *Hello) { h.From = 9 },
		says: `node 9 is not a member of the cluster of node 1: run "concord member add 9" with its addresses, or ` +
			`correct "members"`},
	{name: "a peer of another cluster", spoil: func(h *Hello) { h.Cluster = 8 },
		says: "node 2 belongs to cluster 00000008, node 1 to cluster 00000007: one of them has the data directory " +
			"of another cluster"},
	{name: "a peer with another store", spoil: func(h *Hello) { h.Store = txn.StoreID{0xba} },
		says: "node 2 has a different store from the one that the cluster knows: its disk was lost, or directories " +
			"were swapped. Give it its own directory back; " +
			`if that is lost for good, run "concord member replace 2"`},
	{name: "a peer whose store was set back", spoil: func(h *Hello) { h.Tail = zab.Zxid{Epoch: 1, Counter: 4} },
		says: "the store of node 2 was set back: its log ends at 1.4, but it had everything up to 1.5. It has " +
			"forgotten what it promised since. " +
			`Stop it, run "concord member replace 2", and start it with an empty directory`},
}

func TestWhatRefusalsSay(t *testing.T) {
	for _, m := range refusals {
		t.Run(m.name, func(t *testing.T) {
			p, addr, _ := lonely(t)
			p.KnowStores([]txn.MemberStore{{Node: 2, Store: txn.StoreID{2}, Holds: zab.Zxid{Epoch: 1, Counter: 5}}})
			h := asPeer(p, 2)
			h.Tail = zab.Zxid{Epoch: 1, Counter: 5}
			m.spoil(&h)
			_, kind, why := speak(t, addr, h)
			require.Equal(t, frameRefused, kind)
			require.Equal(t, m.says, why)
		})
	}
}

// Who writes another refusal finds out here that its text has to be looked at by everybody.
func TestEveryRefusalHasARow(t *testing.T) {
	said.Within(t, []string{"."}, nil, []string{"check", "foreignStore"})
}
