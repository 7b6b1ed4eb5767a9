// SPDX-License-Identifier: Apache-2.0

package concord

import (
	"context"
	"errors"
	"fmt"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/api"
	"github.com/concordtx/concord/protocol"
	"github.com/concordtx/concord/txn"
)

// WithLastResource lets one database decide the transaction: all others are prepared, and then this one commits its
// work together with a marker, without a prepare. That commit is the decision. It costs the caller no round trip to the
// cluster, which only takes note of it, and the database need not support prepared transactions. The name is that of
// the resource.
//
// While that database is down, what had been prepared elsewhere waits for it, with its locks, and not for the cluster.
// The branches of the other databases must be this client's own: no agent holds them, and no other service joins the
// transaction.
func WithLastResource(resource string) TxOption { return func(o *txConfig) { o.last = resource } }

// deferring checks the options of a transaction with a last resource, and gives it its class.
func (o *txConfig) deferring() error {
	switch {
	case o.last == "":
		return nil
	case o.protocol != txn.TwoPhase:
		return txn.Invalidf("begin: WithLastResource works in two phases: leave WithProtocol out")
	case o.key != "":
		return txn.Invalidf("begin: RunOnce lets the cluster decide: leave WithLastResource out")
	case o.class == txn.Recorded:
		return txn.Invalidf("begin: Recorded lets the cluster decide: leave it or WithLastResource out")
	}
	if _, err := api.ParseLastResource("WithLastResource", o.last); err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	o.class = txn.LastResource
	return nil
}

var (
	errNotLast = errors.New("this kind of database cannot be a last resource: name another one in WithLastResource")
	errBeside  = errors.New("this kind of resource cannot take part beside a last resource: name it in " +
		"WithLastResource itself, if it can be one, or begin the transaction without that")
	errCallLast = txn.Refusedf("a transaction with a last resource cannot be joined by another service: begin it " +
		"without WithLastResource")
)

// deferred tells a branch that was just opened what it is in a transaction with a last resource.
func (tx *Tx) deferred(ctx context.Context, resource string, s adapters.Session) error {
	switch {
	case tx.last == "":
	case tx.last == resource:
		last, able := s.(adapters.Last)
		if !able {
			return errNotLast
		}
		return last.BeLast(ctx)
	default:
		beside, able := s.(adapters.Tagged)
		if !able {
			return errBeside
		}
		beside.SetTag(txn.TagOf(tx.last))
	}
	return nil
}

// openLast opens the branch of the last resource if the application has done nothing there and others have to be
// prepared: its marker decides all the same.
func (tx *Tx) openLast(ctx context.Context) error {
	if tx.last == "" || tx.take(ctx) != nil { // who claims it says why
		return nil
	}
	wanted := len(tx.branches) > 1 && tx.lastBranch() == nil
	tx.give()
	if !wanted {
		return nil
	}
	opener := tx.client.resources.opener(tx.last)
	if opener == nil {
		return fmt.Errorf("its last resource %q has never been used by this client, so its marker cannot be written: "+
			"call Tx of that resource in the transaction", tx.last)
	}
	_, err := tx.Enlist(ctx, opener)
	return err
}

// lastBranch is that of the last resource, or nil.
func (tx *Tx) lastBranch() *branch {
	for _, b := range tx.branches {
		if tx.last != "" && b.resource == tx.last {
			return b
		}
	}
	return nil
}

// opener returns what opens branches of a resource that has been used, or nil.
func (r *resources) opener(name string) adapters.Opener {
	r.mu.Lock()
	defer r.mu.Unlock()
	for o := range r.fitting {
		if o.Name() == name {
			return o
		}
	}
	return nil
}

// commitLast commits the last resource. It takes as long as the application waits: if nobody can tell what became of
// it the cluster is asked.
func (d *driver) commitLast(b *branch, branches []txn.Branch) word {
	return d.commitAlone(b, func(ctx context.Context) error {
		return b.session.(adapters.Last).CommitLast(ctx, txn.LastMarker{Decision: txn.Commit, Label: d.tx.label,
			Branches: branches})
	})
}

// askLast has the cluster settle the transaction at its last resource. The word has no event when the decision will
// not be learned.
func (d *driver) askLast(ctx context.Context) word {
	client := d.tx.client
	for pause := shortPause; ; pause = min(2*pause, longPause) {
		if strange := client.resources.recognize(ctx); strange != nil {
			client.logger.Error("gave up asking for a decision", "gid", d.tx.id, "err", strange)
			return word{err: strange}
		}
		decision, why, err := d.settle(ctx)
		switch {
		case err == nil:
			client.logger.Info("settled a transaction late", "gid", d.tx.id, "decision", decision)
			return word{event: protocol.Decided{Decision: decision, Reason: why}, err: errors.New(why)}
		case !errors.Is(err, txn.ErrUnavailable) || api.Wait(ctx, pause) != nil:
			client.logger.Error("gave up asking for a decision; the cluster ends the branches", "gid", d.tx.id, "err",
				err)
			return word{err: fmt.Errorf("the last resource %s could not be asked: %w", d.tx.last, err)}
		}
	}
}
