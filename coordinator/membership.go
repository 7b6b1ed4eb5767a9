// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

// listsSideBySide prints two lists of members, for an operator who has to find the difference.
func listsSideBySide(inFile, inLog []txn.Member) string {
	var ids []uint64
	for _, m := range slices.Concat(inFile, inLog) {
		ids = append(ids, m.ID)
	}
	slices.Sort(ids)
	cell := func(list []txn.Member, id uint64) string {
		if m, ok := txn.FindMember(list, id); ok {
			return m.String()
		}
		return "-"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "  %-24s%s\n", "\"members\" in the file", "in the log")
	for _, id := range slices.Compact(ids) {
		fmt.Fprintf(&b, "  %-24s%s\n", cell(inFile, id), cell(inLog, id))
	}
	return b.String()
}

// AddMember makes a node a member: an observer, or a voter, which learns first. It returns when
// the log says so; a learner becomes a voter when it has caught up.
// The error is txn.ErrRefused if another change is under way or the new member cannot be added as it is; the
// text says which and what to do.
func (n *Node) AddMember(ctx context.Context, m replica.Member, key, who, why string) error {
	_, err := n.ask(ctx, func(request uint64) replica.Event {
		return replica.AddAsked{Request: request, Member: m, Key: key, Who: who, Why: why}
	})
	return err
}

// RemoveMember makes a member one no more. When it returns the node can be switched off.
// The error is txn.ErrNotFound if there is no such member, and txn.ErrRefused if it is the last voter or too
// few would be left.
func (n *Node) RemoveMember(ctx context.Context, node zab.NodeID, key, who, why string) error {
	_, err := n.ask(ctx, func(request uint64) replica.Event {
		return replica.RemoveAsked{Request: request, Node: node, Key: key, Who: who, Why: why}
	})
	return err
}

// Lead makes another voter lead.
// The error is txn.ErrRefused if the node is not a voter, and txn.ErrUnavailable if it cannot take over now:
// then the leader keeps leading.
func (n *Node) Lead(ctx context.Context, node zab.NodeID, who, why string) error {
	_, err := n.ask(ctx, func(request uint64) replica.Event {
		return replica.LeadAsked{Request: request, Node: node, Who: who, Why: why}
	})
	return err
}

// Members returns who the members are, as far as this node knows.
func (n *Node) Members() replica.List { return *n.list.Load() }

// Replace is an operator's word that a node lost its disk for good: the next store that
// speaks for it is admitted, and synchronized from nothing.
// The error is txn.ErrNotFound if there is no such member, and txn.ErrRefused if the node leads.
func (n *Node) Replace(ctx context.Context, node zab.NodeID, who, why string) error {
	_, err := n.ask(ctx, func(request uint64) replica.Event {
		return replica.ReplaceAsked{Request: request, Node: node, Who: who, Why: why}
	})
	return err
}

// watchMembers tells the core who speaks.
func (l *loop) watchMembers() {
	speakers := append(l.peers.Speakers(),
		replica.Speaker{Node: l.config.Node, Store: l.store.ID(), Level: l.config.FeatureLevel, Peer: l.self.Peer,
			API: l.self.API})
	for i := range speakers {
		if s, ok := l.standings[speakers[i].Node]; ok {
			speakers[i].Peer, speakers[i].API = s.Peer, s.API
		}
	}
	slices.SortFunc(speakers, func(a, b replica.Speaker) int { return cmp.Compare(a.Node, b.Node) })
	l.events = append(l.events, replica.MembersSeen{Speakers: speakers})
}

// tellStores tells the handshakes what the log knows of the stores.
func (l *loop) tellStores() {
	if known := l.core.State().Stores(); !slices.Equal(l.peers.Stores(), known) {
		l.peers.KnowStores(known)
	}
}
