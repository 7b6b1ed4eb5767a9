// SPDX-License-Identifier: Apache-2.0

package concord_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/adapters/memory"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/internal/said"
	"github.com/concordtx/concord/security"
	"github.com/concordtx/concord/txn"
)

// message is an error that a user of the SDK can meet: how to get it, what it says, with GID for
// the transaction's id, ADDR for the node's address and TIME for what differs, and what it wraps.
type message struct {
	name     string
	meet     func(*testing.T, *shaky) error
	says     string
	resource string // of an AbortedError
	is       []error
}

var (
	errFunds    = errors.New("insufficient funds")
	errDeadlock = errors.New("deadlock")
)

// in is what Run says about a transaction that does this.
func in(do func(context.Context, *shaky, *concord.Tx) error, opts ...concord.TxOption) func(*testing.T, *shaky) error {
	return func(t *testing.T, b *shaky) error {
		return b.client.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error { return do(ctx, b, tx) },
			opts...)
	}
}

// of opens a branch of some other resource.
func of(r adapters.Opener) func(*testing.T, *shaky) error {
	return in(func(ctx context.Context, b *shaky, tx *concord.Tx) error {
		_, err := tx.Enlist(ctx, r)
		return err
	})
}

// once is what RunOnce says.
func once(key string, do func(context.Context, *concord.Tx) error, opts ...concord.TxOption) func(*testing.T,
	*shaky) error {
	return func(t *testing.T, b *shaky) error {
		b.leader.set(func() { b.level = txn.LevelKeys })
		_, err := b.client.RunOnce(t.Context(), key, do, opts...)
		return err
	}
}

// nested is what a Run with these options says within another one, which it does not harm.
func nested(opts ...concord.TxOption) func(*testing.T, *shaky) error {
	return func(t *testing.T, b *shaky) (err error) {
		require.NoError(t, b.client.Run(t.Context(), func(ctx context.Context, _ *concord.Tx) error {
			err = b.client.Run(ctx, b.transfer, opts...)
			return nil
		}))
		return err
	}
}

// nameless is a database that is not there when it is asked who it is.
type nameless struct{ *memory.Resource }

func (nameless) Identity(context.Context) (string, error) { return "", errBroke }

// known is a resource as the cluster shows it.
func known(b *shaky, r *concordv1.ResourceStatus) {
	b.leader.set(func() { b.resources = append(b.resources, r) })
}

func dial(ctx context.Context, addrs ...string) error {
	c, err := concord.Dial(ctx, addrs)
	if err == nil {
		err = errors.Join(errors.New("it was dialed"), c.Close())
	}
	return err
}

var messages = []message{
	{name: "dial nobody", meet: func(t *testing.T, _ *shaky) error { return dial(t.Context()) },
		says: "dial: addrs: is empty, want the address of at least one coordinator node, such as 127.0.0.1:7420",
		is:   []error{txn.ErrInvalid}},
	{name: "dial a malformed address", meet: func(t *testing.T,
		_ *shaky) error {
		return dial(t.Context(), "localhost")
	},
		says: `dial: addrs[0]: "localhost" is not host:port, such as 127.0.0.1:7420`, is: []error{txn.ErrInvalid}},
	{name: "dial with two kinds of TLS", meet: func(t *testing.T, b *shaky) error {
		c, err := concord.Dial(t.Context(), []string{b.addr}, concord.WithTLS(&tls.Config{}),
			concord.WithCredentials(&security.Credentials{}))
		require.Nil(t, c)
		return err
	}, says: "dial: WithTLS and WithCertsDir contradict each other: use one of them",
		is: []error{txn.ErrInvalid}},
	{name: "dial a dead address", meet: func(t *testing.T, b *shaky) error {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		return dial(ctx, "127.0.0.1:1")
	}, says: "dial: list the resources: no coordinator node did it in time (context deadline exceeded); " +
		"127.0.0.1:1: dial tcp 127.0.0.1:1: " +
		`connect: connection refused; check the nodes with "concord status --addr 127.0.0.1:1"`,
		is: []error{txn.ErrUnavailable, context.DeadlineExceeded}},

	{name: "a timeout that is none", meet: in(nil, concord.WithTimeout(-1)),
		says: "begin: WithTimeout(-1ns): invalid request: want a positive duration", is: []error{txn.ErrInvalid}},
	{name: "a label that is too long", meet: in(nil, concord.WithLabel(strings.Repeat("x", 1025))),
		says: "begin: WithLabel: has 1025 bytes, at most 1024 are allowed", is: []error{txn.ErrInvalid}},
	{name: "retries that are none", meet: in(nil, concord.WithRetry(concord.RetryPolicy{Attempts: -1})),
		says: "begin: WithRetry(-1 attempts, pauses of 10ms to 1s): invalid request: want one attempt or more, and " +
			"pauses that grow", is: []error{txn.ErrInvalid}},
	{name: "retries of what the caller does", meet: func(t *testing.T, b *shaky) error {
		_, err := b.client.Begin(t.Context(), concord.WithRetry(concord.RetryPolicy{}))
		return err
	}, says: "begin: WithRetry: invalid request: only Run can repeat a transaction: call Run, or begin a new one " +
		"as long as concord.Retryable says so", is: []error{txn.ErrInvalid}},
	{name: "retried in vain", resource: "billing", meet: func(t *testing.T, b *shaky) error {
		b.billing.passing = errDeadlock
		return in(func(ctx context.Context, b *shaky, tx *concord.Tx) error {
			return errors.Join(b.billing.add(ctx, tx, "A", 1), b.billing.fails(errDeadlock))
		}, concord.WithRetry(concord.RetryPolicy{Attempts: 2, Initial: time.Millisecond}))(t, b)
	}, says: "attempt 2 of 2, the last: transaction GID was aborted by billing: deadlock",
		is: []error{concord.ErrAborted, errDeadlock}},
	{name: "a deadlock that no database sees", meet: func(t *testing.T, b *shaky) error {
		b.allVictims()
		return b.client.Run(t.Context(), b.waitForAnswer)
	}, says: "transaction GID was aborted: concord ended it because of a deadlock between the databases billing " +
		"and orders, with transaction GID: run it again (WithRetry does), and access databases in a fixed order; " +
		"the function returned: context canceled",
		is: []error{concord.ErrAborted, context.Canceled}},
	{name: "no time to retry", resource: "billing", meet: func(t *testing.T, b *shaky) error {
		b.billing.passing = errDeadlock
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		return b.client.Run(ctx, func(ctx context.Context, tx *concord.Tx) error {
			err := errors.Join(b.billing.add(ctx, tx, "A", 1), b.billing.fails(errDeadlock))
			context.AfterFunc(ctx, cancel) // which ends when it is rolled back
			return err
		}, concord.WithRetry(concord.RetryPolicy{Initial: time.Hour}))
	}, says: "attempt 1 of 5, after which the context ended (context canceled): transaction GID was aborted by " +
		"billing: deadlock",
		is: []error{concord.ErrAborted, errDeadlock, context.Canceled}},
	{name: "a last resource in three phases",
		meet: in(nil, concord.WithLastResource("billing"), concord.WithProtocol(concord.ThreePhase)),
		says: "begin: WithLastResource works in two phases: leave WithProtocol out", is: []error{txn.ErrInvalid}},
	{name: "a last resource, recorded", meet: in(nil, concord.WithLastResource("billing"), concord.Recorded()),
		says: "begin: Recorded lets the cluster decide: leave it or WithLastResource out",
		is:   []error{txn.ErrInvalid}},
	{name: "run once with a last resource", meet: once("k", nil, concord.WithLastResource("billing")),
		says: "begin: RunOnce lets the cluster decide: leave WithLastResource out", is: []error{txn.ErrInvalid}},
	{name: "a last resource where they are not switched on", meet: in(nil, concord.WithLastResource("billing")),
		says: `begin: last resources are not switched on in this cluster: refused: run this release on all nodes, ` +
			`and none with a "feature_level" below 8; until then leave out WithLastResource`,
		is: []error{txn.ErrRefused}},
	{name: "three phases where they are not switched on", meet: in(nil, concord.WithProtocol(concord.ThreePhase)),
		says: `begin: three_phase is not switched on in this cluster: refused: run this release on all nodes, and ` +
			`none with a "feature_level" below 4; until then leave out WithProtocol`,
		is: []error{txn.ErrRefused}},
	{name: "three phases without an agent", resource: "orders", meet: func(t *testing.T, b *shaky) error {
		b.leader.set(func() { b.level = txn.LevelThreePhase })
		return in(func(ctx context.Context, b *shaky, tx *concord.Tx) error {
			_, err := b.orders.Tx(ctx, tx)
			return err
		}, concord.WithProtocol(concord.ThreePhase))(t, b)
	}, says: "transaction GID was aborted by orders: enlist orders: no agent holds its branches, and only agents " +
		"can decide in three phases: " +
		`put the database behind an agent ("concord agent --help"), or begin the transaction without ` +
		`WithProtocol(ThreePhase)`, is: []error{concord.ErrAborted}},
	{name: "a protocol that nobody knows", meet: in(nil, concord.WithProtocol("paxos")),
		says: `begin: WithProtocol: "paxos" is not a protocol that this version knows, want two_phase or three_phase`,
		is:   []error{txn.ErrInvalid}},
	{name: "a context that has ended", meet: func(t *testing.T, b *shaky) error {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		return b.client.Run(ctx, b.transfer)
	}, says: "begin: context canceled", is: []error{context.Canceled}},
	{name: "a client that is closed", meet: func(t *testing.T, b *shaky) error {
		require.NoError(t, b.client.Close())
		return b.client.Run(t.Context(), b.transfer)
	}, says: "begin: the client is closed: dial another one", is: []error{concord.ErrClosed}},

	{name: "a resource that the cluster does not know", meet: of(memory.New("stock", memory.NewDisk())),
		resource: "stock",
		says: `transaction GID was aborted by stock: the resource cannot take part: the coordinator knows no ` +
			`resource "stock", only billing, orders: ` +
			`add it to the nodes' config, or use a name from "concord resource ls"`,
		is: []error{concord.ErrAborted, concord.ErrResource}},
	{name: "a resource that is another database", meet: of(memory.New("orders", memory.NewDisk())), resource: "orders",
		says: `transaction GID was aborted by orders: the resource cannot take part: "orders" is memory TIME here ` +
			`and memory TIME at the coordinator, ` +
			`which could not finish a branch of yours: connect both to the same database`,
		is: []error{concord.ErrAborted, concord.ErrResource}},
	{name: "a resource of another kind", resource: "pg", meet: func(t *testing.T, b *shaky) error {
		known(b, &concordv1.ResourceStatus{Name: "pg", Driver: "postgres", Identity: "x", Ok: true})
		return of(memory.New("pg", memory.NewDisk()))(t, b)
	}, says: `transaction GID was aborted by pg: the resource cannot take part: "pg" is a memory database here and ` +
		`a postgres database at the coordinator: ` +
		`give one of them another name`, is: []error{concord.ErrAborted, concord.ErrResource}},
	{name: "a resource that the coordinator cannot reach", resource: "stock", meet: func(t *testing.T, b *shaky) error {
		known(b, &concordv1.ResourceStatus{Name: "stock", Driver: "memory", Error: "connection refused"})
		return of(memory.New("stock", memory.NewDisk()))(t, b)
	}, says: `transaction GID was aborted by stock: the resource cannot take part: the coordinator could not ask ` +
		`its "stock" which database it is ` +
		`(connection refused): run "concord resource check stock"`,
		is: []error{concord.ErrAborted, concord.ErrResource}},
	{name: "a resource that is not fit", resource: "stock", meet: func(t *testing.T, b *shaky) error {
		disk := memory.NewDisk()
		r := memory.New("stock", disk)
		identity, err := r.Identity(t.Context())
		require.NoError(t, err)
		known(b, &concordv1.ResourceStatus{Name: "stock", Driver: "memory", Identity: identity, Error: "no privilege"})
		return of(r)(t, b)
	}, says: `transaction GID was aborted by stock: the resource cannot take part: the coordinator finds "stock" ` +
		`not fit: no privilege: ` +
		`run "concord resource check stock"`, is: []error{concord.ErrAborted, concord.ErrResource}},
	{name: "too many branches", resource: "r256", meet: in(func(ctx context.Context, b *shaky, tx *concord.Tx) error {
		for i := range txn.MaxBranches + 1 {
			r := memory.New(fmt.Sprint("r", i), memory.NewDisk())
			identity, _ := r.Identity(ctx) // of a live context
			known(b, &concordv1.ResourceStatus{Name: r.Name(), Driver: "memory", Identity: identity, Ok: true})
			if _, err := tx.Enlist(ctx, r); err != nil {
				return err
			}
		}
		return nil
	}), says: "transaction GID was aborted by r256: the transaction has 256 branches already, which is the limit: " +
		"split it", is: []error{concord.ErrAborted}},

	{name: "the function fails", meet: in(func(ctx context.Context, b *shaky, tx *concord.Tx) error {
		return errors.Join(b.transfer(ctx, tx), errFunds)
	}),
		says: "transaction GID was aborted: insufficient funds", is: []error{concord.ErrAborted, errFunds}},
	{name: "the function fails with what a database said", resource: "billing",
		meet: in(func(ctx context.Context, b *shaky, tx *concord.Tx) error {
			b.billing.set(func() { b.billing.statement = errBroke })
			return errors.Join(b.transfer(ctx, tx), fmt.Errorf("pay: %w", errBroke))
		}), says: "transaction GID was aborted by billing: pay: the connection broke",
		is: []error{concord.ErrAborted, errBroke}},
	{name: "a statement fails, and the function takes no notice", resource: "orders",
		meet: in(func(ctx context.Context, b *shaky, tx *concord.Tx) error {
			m, err := b.orders.Tx(ctx, tx)
			if err == nil && m.Put(ctx, "", 1) != nil {
				err = b.billing.add(ctx, tx, "A", 1)
			}
			return err
		}), says: "transaction GID was aborted by orders: prepare concord-c0ffee01-GID-00: a statement failed: a key " +
			"must not be empty",
		is: []error{concord.ErrAborted, memory.ErrNoKey}},
	{name: "the same, and it was the only branch", resource: "orders",
		meet: in(func(ctx context.Context, b *shaky, tx *concord.Tx) error {
			m, err := b.orders.Tx(ctx, tx)
			if err == nil {
				_ = m.Put(ctx, "", 1)
			}
			return err
		}), says: "transaction GID was aborted by orders: not committed: a key must not be empty",
		is: []error{concord.ErrAborted, memory.ErrNoKey}},
	{name: "the cluster refuses", meet: func(t *testing.T, b *shaky) error {
		b.before = func(context.Context) error {
			return fmt.Errorf("branch 1: the coordinator has no resource %q: %w", "billing", txn.ErrInvalid)
		}
		return b.client.Run(t.Context(), b.transfer)
	}, says: `transaction GID was aborted: commit: branch 1: the coordinator has no resource "billing": invalid ` +
		`request (somebody asked and nobody had committed it)`,
		is: []error{concord.ErrAborted, txn.ErrInvalid}},
	{name: "the cluster decided to abort before", meet: in(func(ctx context.Context, b *shaky, tx *concord.Tx) error {
		_, err := b.client.Outcome(ctx, tx.ID())
		return errors.Join(err, b.transfer(ctx, tx))
	}), says: "transaction GID was aborted: somebody asked and nobody had committed it",
		is: []error{concord.ErrAborted}},

	{name: "its own limit", meet: in(func(ctx context.Context, _ *shaky,
		_ *concord.Tx) error {
		<-ctx.Done()
		return nil
	}, concord.WithTimeout(time.Millisecond)),
		says: "transaction GID was aborted: its time limit of 1ms (WithTimeout) was reached: allow more, or do " +
			"less in one transaction",
		is: []error{concord.ErrAborted, context.DeadlineExceeded}},
	{name: "the limit, and a function that fails of it",
		meet: in(func(ctx context.Context, _ *shaky, _ *concord.Tx) error { <-ctx.Done(); return ctx.Err() },
			concord.WithTimeout(time.Millisecond)),
		says: "transaction GID was aborted: its time limit of 1ms (WithTimeout) was reached: allow more, or do " +
			"less in one transaction; the function returned: context deadline exceeded",
		is: []error{concord.ErrAborted, context.DeadlineExceeded}},
	{name: "a branch after the limit", resource: "orders",
		meet: in(func(ctx context.Context, b *shaky, tx *concord.Tx) error {
			<-ctx.Done()
			_, err := b.orders.Tx(context.WithoutCancel(ctx), tx)
			return err
		}, concord.WithTimeout(time.Millisecond)),
		says: "transaction GID was aborted by orders: enlist orders: its time limit of 1ms (WithTimeout) was " +
			"reached: allow more, or do less in one transaction",
		is: []error{concord.ErrAborted, context.DeadlineExceeded}},
	{name: "the context of the caller", meet: func(t *testing.T, b *shaky) error {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		return b.client.Run(ctx, func(ctx context.Context, _ *concord.Tx) error { <-ctx.Done(); return nil })
	}, says: "transaction GID was aborted: the caller's context ended TIME after the transaction began: context " +
		"deadline exceeded",
		is: []error{concord.ErrAborted, context.DeadlineExceeded}},

	{name: "a second commit", meet: func(t *testing.T, b *shaky) error {
		tx, err := b.client.Begin(t.Context())
		require.NoError(t, err)
		require.NoError(t, tx.Commit(t.Context()))
		return tx.Commit(t.Context())
	}, says: "the transaction has ended: begin a new one", is: []error{concord.ErrTxEnded}},
	{name: "a rollback that fails", meet: func(t *testing.T, b *shaky) error {
		b.billing.dropped[callRollback] = 1
		tx, err := b.client.Begin(t.Context())
		require.NoError(t, err)
		require.NoError(t, b.transfer(t.Context(), tx))
		return tx.Rollback(t.Context())
	}, says: "billing could not be asked to end its branch, which may hold locks until the client or the cluster " +
		"has ended it: the connection broke", is: []error{errBroke}},

	{name: "nobody knows", meet: func(t *testing.T, b *shaky) error {
		b.before = func(ctx context.Context) error { <-ctx.Done(); return txn.ErrUnavailable }
		return b.client.Run(t.Context(), b.transfer, concord.WithTimeout(time.Second))
	}, says: "the outcome of transaction GID is unknown: its time limit of 1s (WithTimeout) was reached: allow " +
		"more, or do less in one transaction; ask Client.Outcome for it before you repeat it",
		is: []error{concord.ErrUnknownOutcome, context.DeadlineExceeded}},
	{name: "only the database knows", meet: func(t *testing.T, b *shaky) error {
		b.billing.lost[callOnePhase] = 1
		return b.client.Run(t.Context(),
			func(ctx context.Context, tx *concord.Tx) error { return b.billing.add(ctx, tx, "A", 1) })
	}, says: "the connection to billing broke while the only branch that wrote committed: the connection broke; " +
		"the cluster knows no more, so look at the data there before you repeat it (the cluster can tell if a " +
		"transaction is begun with concord.Recorded)",
		is: []error{concord.ErrUnknownOutcome, errBroke}},
	{name: "torn", meet: func(t *testing.T, b *shaky) error {
		b.billing.torn = errors.New("a statement ended the transaction")
		return b.client.Run(t.Context(), b.transfer)
	}, says: "transaction GID was rolled back, but not all of what it did in billing: part of the branch may be " +
		"committed: a statement ended the transaction; " +
		"look into that database for what is left of it before you repeat it", is: []error{concord.ErrTorn}},
	{name: "torn, and the function failed", meet: func(t *testing.T, b *shaky) error {
		b.billing.torn = errors.New("a statement ended the transaction")
		return b.client.Run(t.Context(),
			func(ctx context.Context, tx *concord.Tx) error { return errors.Join(b.transfer(ctx, tx), errFunds) })
	}, says: "transaction GID was rolled back, but not all of what it did in billing: part of the branch may be " +
		"committed: a statement ended the transaction; " +
		"the function returned: insufficient funds; look into that database for what is left of it before you " +
		"repeat it", is: []error{concord.ErrTorn, errFunds}},

	{name: "another cluster", meet: func(t *testing.T, b *shaky) error {
		b.leader.set(func() { b.id = cluster + 1 })
		return b.client.Run(t.Context(), b.transfer)
	}, says: "transaction GID was aborted: this is another cluster: the nodes at ADDR are cluster c0ffee02 now, and " +
		"this client was dialed when they were c0ffee01: " +
		`if they were set up anew, look for branches of c0ffee01 with "concord recover" and restart the ` +
		`application; if not, correct the addresses`,
		is: []error{concord.ErrAborted, concord.ErrCluster}},
	{name: "another cluster, which may have been asked in the place of the first one",
		meet: func(t *testing.T, b *shaky) error {
			b.after = func(context.Context) error { // the decision is made, and then everything is lost
				b.leader.set(func() { b.id = cluster + 1 })
				return txn.ErrUnavailable
			}
			err := b.client.Run(t.Context(), b.transfer)
			require.Len(t, b.prepared(t), 2, "nobody may end them")
			return err
		}, says: "the outcome of transaction GID is unknown: this is another cluster: the nodes at ADDR are cluster " +
			"c0ffee02 now, and this client was dialed when they were c0ffee01: " +
			`if they were set up anew, look for branches of c0ffee01 with "concord recover" and restart the ` +
			`application; if not, correct the addresses; ` +
			"nobody else can tell it, so look at the data before you repeat it",
		is: []error{concord.ErrUnknownOutcome, concord.ErrCluster}},
	{name: "another cluster, again", meet: func(t *testing.T, b *shaky) error {
		b.leader.set(func() { b.id = cluster + 1 })
		require.ErrorIs(t, b.client.Run(t.Context(), b.transfer), concord.ErrCluster)
		return b.client.Run(t.Context(), b.transfer)
	}, says: "begin: this is another cluster: the nodes at ADDR are cluster c0ffee02 now, and this client was " +
		"dialed when they were c0ffee01: " +
		`if they were set up anew, look for branches of c0ffee01 with "concord recover" and restart the ` +
		`application; if not, correct the addresses`,
		is: []error{concord.ErrCluster}},
	{name: "dial a cluster that has not been formed", meet: func(t *testing.T, b *shaky) error {
		b.leader.set(func() { b.id = 0 })
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		return dial(ctx, b.addr)
	}, says: "dial: the cluster has not been formed yet: context deadline exceeded: start a majority of its nodes",
		is: []error{context.DeadlineExceeded}},

	{name: "run once without a key", meet: once("", nil),
		says: "begin: RunOnce: is empty, want an idempotency key, such as the number of an order",
		is:   []error{txn.ErrInvalid}},
	{name: "run once in three phases", meet: once("k", nil, concord.WithProtocol(concord.ThreePhase)),
		says: "begin: RunOnce works in two phases: leave WithProtocol out",
		is:   []error{txn.ErrInvalid}},
	{name: "run once within another one", meet: in(func(ctx context.Context, b *shaky, _ *concord.Tx) error {
		_, err := b.client.RunOnce(ctx, "k", nil)
		return err
	}), says: "transaction GID was aborted: begin: RunOnce commits a transaction of its own, and its context is " +
		"that of another one: call it outside of Run", is: []error{concord.ErrAborted}},
	{name: "run once what somebody else is about", meet: func(t *testing.T, b *shaky) error {
		b.leader.set(func() { b.claimed = true })
		return once("k", nil, concord.WithTimeout(200*time.Millisecond))(t, b)
	}, says: "begin: another call with the key is under way (context deadline exceeded): call RunOnce again, with " +
		"the same key, to learn what became of it",
		is: []error{concord.ErrInFlight, context.DeadlineExceeded, txn.ErrBusy}},
	{name: "a result that is too large", meet: once("k", func(_ context.Context, tx *concord.Tx) error {
		return tx.SetResult(make([]byte, concord.MaxResult+1))
	}), says: "transaction GID was aborted: the result has 4097 bytes, and at most 4096 are kept with a key: keep " +
		"less, or store it in a database and keep its name", is: []error{concord.ErrAborted}},
	{name: "a result without a key", meet: in(func(_ context.Context, _ *shaky, tx *concord.Tx) error {
		return tx.SetResult(nil)
	}), says: "transaction GID was aborted: the transaction has no key to keep a result with: use Client.RunOnce",
		is: []error{concord.ErrAborted}},

	{name: "a part that must not join", meet: nested(concord.NoJoin()),
		says: "begin: this context already has a transaction, and NoJoin forbids to join it: call Run outside of " +
			"that one, or leave out NoJoin", is: []error{concord.ErrNested}},
	{name: "a part that must be recorded", meet: nested(concord.Recorded()),
		says: "begin: this context already has a transaction, which is not recorded: begin the outer one with Recorded",
		is:   []error{concord.ErrNested}},
	{name: "a part that fails, and nobody takes notice",
		meet: in(func(ctx context.Context, b *shaky, _ *concord.Tx) error {
			_ = b.client.Run(ctx, func(context.Context, *concord.Tx) error { return errFunds })
			return nil
		}), says: "transaction GID was aborted: a part of the transaction failed: insufficient funds",
		is: []error{concord.ErrAborted, errFunds}},
	{name: "a part that panics, and nobody takes notice",
		meet: in(func(ctx context.Context, b *shaky, _ *concord.Tx) error {
			defer func() { _ = recover() }()
			return b.client.Run(ctx, func(context.Context, *concord.Tx) error { panic("oh no") })
		}), says: "transaction GID was aborted: a part of the transaction failed: a function that had joined the " +
			"transaction panicked", is: []error{concord.ErrAborted}},

	{name: "an outcome that the cluster has forgotten", meet: func(t *testing.T, b *shaky) error {
		b.leader.set(func() { b.table = txn.NewTable(txn.Meta{Watermark: time.Now().Add(time.Hour)}, nil, archive{}) })
		_, err := b.client.Outcome(t.Context(), txn.NewID(time.Now()))
		return err
	}, says: "outcome of GID: the transaction is older than what the cluster remembers: look into the databases",
		is: []error{txn.ErrTooOld}},
	{name: "a resource that does not say which database it is", resource: "stock",
		meet: of(nameless{memory.New("stock", memory.NewDisk())}),
		says: "transaction GID was aborted by stock: ask stock which database it is: the connection broke",
		is:   []error{concord.ErrAborted, errBroke}},
	{name: "a resource whose database was set back", resource: "stock", meet: func(t *testing.T, b *shaky) error {
		r := memory.New("stock", memory.NewDisk())
		identity, err := r.Identity(t.Context())
		require.NoError(t, err)
		known(b, &concordv1.ResourceStatus{Name: "stock", Driver: "memory", Identity: identity,
			Quarantine: &concordv1.Quarantine{}})
		return of(r)(t, b)
	}, says: `transaction GID was aborted by stock: the resource cannot take part: it is quarantined: resource ` +
		`"stock" is quarantined: its database is behind what the log remembers of it; see "concord resource report ` +
		`stock", then "concord resource accept stock --reason TEXT"`,
		is: []error{concord.ErrAborted, concord.ErrQuarantined}},
}

var (
	anID      = regexp.MustCompile(`\b[0-7][0-9A-HJKMNP-TV-Z]{25}\b`)
	anAddr    = regexp.MustCompile(`127\.0\.0\.1:[0-9]{4,5}`)
	aDuration = regexp.MustCompile(`ended [0-9.]+m?s after|memory [0-9A-Z]{26}`)
)

func TestWhatErrorsSay(t *testing.T) {
	for _, m := range messages {
		t.Run(m.name, func(t *testing.T) {
			b := newShaky(t)
			err := m.meet(t, b)
			require.Error(t, err)
			said := aDuration.ReplaceAllStringFunc(err.Error(), func(s string) string {
				if strings.HasPrefix(s, "memory") {
					return "memory TIME"
				}
				return "ended TIME after"
			})
			said = anID.ReplaceAllString(said, "GID")
			if !strings.Contains(m.says, "such as 127") {
				said = anAddr.ReplaceAllString(said, "ADDR")
			}
			require.Equal(t, m.says, said)
			for _, is := range m.is {
				require.ErrorIs(t, err, is)
			}
			for _, other := range []error{concord.ErrAborted, concord.ErrUnknownOutcome, concord.ErrTorn} {
				named := false
				for _, is := range m.is {
					named = named || errors.Is(is, other)
				}
				require.Equal(t, named, errors.Is(err, other), "%v", other)
			}
			var aborted *concord.AbortedError
			if errors.As(err, &aborted) {
				require.Equal(t, m.resource, aborted.Resource)
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
	files, err := filepath.Glob("*.go")
	require.NoError(t, err)
	said.CheckFiles(t, slices.DeleteFunc(files, func(file string) bool { return slices.Contains(ofJoined, file) }),
		rows, withoutRow)
}

// ofJoined are files of which the table of concordhttp speaks.
var ofJoined = []string{"call.go", "join.go", "part.go"}

// Why a text has no row.
const (
	wraps    = "another error says the rest, and what to do"
	named    = "what errors.Is is asked for: what wraps it has a text of its own"
	unsaid   = "only hooks see it, which tell how a branch has ended"
	surprise = "only nodes of a later release, or an adapter that is none of ours, answer so"
	joins    = "of calls that join transactions: two services are needed to meet it"
)

// withoutRow are the texts that no row of the table has.
var withoutRow = map[string]string{
	"look up %s: %w": wraps,
	"this kind of database cannot be a last resource: name another one in WithLastResource": surprise,
	"this kind of resource cannot take part beside a last resource: name it in WithLastResource itself, if it can be " +
		"one, or begin the transaction without that": "wants an agent, or a SQLite file (adapters/sqlite)",
	"a transaction with a last resource cannot be joined by another service: begin it without " +
		"WithLastResource": joins,
	"its last resource %q has never been used by this client, so its marker cannot be written: call Tx of that " +
		"resource in the transaction": "TestALastResourceDecides",
	"the last resource %s could not be asked: %w": wraps,
	"the cluster gave an answer that this version does not know: %w; build the application with the " +
		"release that the nodes run": surprise,
	"the branch was left to the cluster":                 unsaid,
	"voted no without a reason":                          surprise,
	"the cluster could not be asked: %w":                 wraps,
	"the cluster answered %v: see \"concord tx get %s\"": surprise,
	"transaction aborted":                                named,
	"transaction outcome unknown":                        named,
	"the cluster had not heard from this client for too long (was it stopped, or cut off?), has " +
		"ended its lease, and rolls back what it holds: begin again": "wants nodes: " +
		"TestNothingIsCommittedUnderALeaseThatHasEnded has all of it",
	"this client may have lost its lease, and the cluster could not be asked: %w": wraps,
	"look up what was done under the key: %w":                                     wraps,
	"check resource %s: %w":                                                       wraps,
	"the application asked for it":                                                unsaid,
	"transaction %s is still in the hands of another call that has not returned: its time limit " +
		"ends it: %w": "wants a call that hangs for half a minute; its time limit is what ends it",
	"a call of another service may open no more branches here, there are %d: use fewer databases in one " +
		"transaction, or let fewer services hand it on": "TestWhatErrorsOfJoinedCallsSay of concordhttp is where " +
		"such calls are made",
}
