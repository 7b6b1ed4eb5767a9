// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"time"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/api/member"
	"github.com/concordtx/concord/coordinator"
	"github.com/concordtx/concord/coordinator/commit"
	"github.com/concordtx/concord/coordinator/deadlock"
	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

// Node is what this package needs of a coordinator node; *coordinator.Node is one.
type Node interface {
	// Status is what the node knows without asking anybody, and StatusSince that of a state
	// which reflects z. Nobody changes a snapshot.
	Status() *coordinator.Snapshot
	StatusSince(ctx context.Context, z zab.Zxid) (*coordinator.Snapshot, error)
	// Applied is the position that the node's state reflects; Reach waits until that is z.
	Applied() zab.Zxid
	Reach(ctx context.Context, z zab.Zxid) error
	// APIAddress returns the API address of a member; empty if there is no such member.
	APIAddress(id uint64) string
	MaxTransaction() time.Duration
	// Closed is closed when the node answers no more.
	Closed() <-chan struct{}

	Commit(ctx context.Context, r txn.CommitRequest) (commit.Reply, error)
	// CommitLater calls done once, from a goroutine that must not wait, or never if the node closes.
	CommitLater(r txn.CommitRequest, done func(commit.Reply))
	LastDecided(d txn.LastDecision, by commit.Reporter)
	Finished(id txn.ID, no txn.BranchNo, f txn.Finish, by commit.Reporter)
	// Deliver hears members of three-phase transactions. It does not wait, and may lose what it hears.
	Deliver(envelopes []member.Envelope)
	Outcome(ctx context.Context, q txn.Inquiry) (commit.Reply, error)
	// KeyUse says which transaction is committed under an idempotency key, and claims one that has none.
	KeyUse(ctx context.Context, key string, claim commit.KeyClaim) (commit.Reply, error)
	// GrantLease, RenewLease and EndLease are for the leader; RenewLease reports whether the
	// lease has not ended.
	GrantLease(ctx context.Context) (txn.Lease, error)
	RenewLease(l txn.Lease) (bool, error)
	EndLease(ctx context.Context, l txn.Lease) error
	// HoldsLease reports whether a lease was granted and has not ended, as far as this node has applied the log.
	HoldsLease(l txn.Lease) bool
	LeaseLength() time.Duration // 0: there are none
	// Waiting hears which transactions of a client wait, and says which have to end because of a deadlock.
	Waiting(ctx context.Context, heard uint64, waiters []deadlock.Waiter) (commit.Reply, error)
	// FeatureLevel is what every member knows, as far as this node has heard.
	FeatureLevel() txn.FeatureLevel
	View(ctx context.Context, id txn.ID) (*commit.View, error)
	EachFinished(before txn.ID, visit func(txn.Txn) bool) error
	// Act has an act of a person in the log before do does it, and how it ended after that.
	Act(ctx context.Context, act txn.ActRecord, do func() (says string, err error)) error
	Acts(ctx context.Context) ([]*txn.Act, error)
	Resolve(ctx context.Context, asked txn.Resolution) (commit.Reply, error)
	Forget(ctx context.Context, id txn.ID, who, why string) error
	Settle(ctx context.Context, s txn.Settlement) (coordinator.Settled, error)
	// Report and Accept are about a database that was set back.
	Report(ctx context.Context, resource string) (coordinator.SetBack, error)
	Accept(ctx context.Context, resource, who, why string) error
	Replace(ctx context.Context, node zab.NodeID, who, why string) error
	AddMember(ctx context.Context, m replica.Member, key, who, why string) error
	RemoveMember(ctx context.Context, node zab.NodeID, key, who, why string) error
	Lead(ctx context.Context, node zab.NodeID, who, why string) error
	// Retry has branches of a transaction tried now, or one of them, and says how many.
	Retry(ctx context.Context, id txn.ID, no *txn.BranchNo) (branches int, err error)
	Recover(ctx context.Context, id txn.ID, apply bool, each func(coordinator.Progress) error) error
	// ListThrough and FinishThrough are for a leader that does not reach a resource.
	ListThrough(ctx context.Context, resource string) ([]adapters.Prepared, error)
	FinishThrough(ctx context.Context, x txn.XID, resource string) (txn.Finish, error)
	// Examine asks the databases about branches of a transaction that is not finished.
	Examine(ctx context.Context, id txn.ID, decided bool, branches []txn.Branch) coordinator.Examined
	// Recheck looks at a resource again if the node takes it for another database than identity.
	Recheck(ctx context.Context, resource, identity string)
	Check(ctx context.Context, resource string) (map[string]coordinator.CheckResult, error)
}

var _ Node = (*coordinator.Node)(nil)
