// SPDX-License-Identifier: Apache-2.0

package concordtest_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/adapters/memory"
	"github.com/concordtx/concord/concordtest"
	"github.com/concordtx/concord/internal/said"
)

// move takes 1 from the account in one database and adds it in the other.
func move(ctx context.Context, tx *concord.Tx, from, to *memory.Resource) error {
	f, err := from.Tx(ctx, tx)
	if err != nil {
		return err
	}
	if _, err := f.Add(ctx, "alice", -1); err != nil {
		return err
	}
	t, err := to.Tx(ctx, tx)
	if err != nil {
		return err
	}
	_, err = t.Add(ctx, "alice", 1)
	return err
}

// balance reads an account.
func balance(t *testing.T, c *concordtest.Cluster, r *memory.Resource) (v int64) {
	t.Helper()
	require.NoError(t, c.Client().Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
		m, err := r.Tx(ctx, tx)
		if err != nil {
			return err
		}
		v, _, err = m.Get(ctx, "alice")
		return err
	}))
	return v
}

func TestAClusterDecides(t *testing.T) {
	orders, ledger := concordtest.Memory("orders"), concordtest.Memory("ledger")
	began := time.Now()
	c := concordtest.New(t, orders, ledger)
	t.Log("ready after", time.Since(began))
	require.NoError(t, c.Client().Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
		return move(ctx, tx, orders.Resource(), ledger.Resource())
	}))
	require.EqualValues(t, -1, balance(t, c, orders.Resource()))
	require.EqualValues(t, 1, balance(t, c, ledger.Resource()))
}

// A new cluster comes to its feature level a moment after it can decide, and whoever wants a key waits for that.
func TestANewClusterKeepsKeys(t *testing.T) {
	orders, ledger := concordtest.Memory("orders"), concordtest.Memory("ledger")
	c := concordtest.New(t, orders, ledger)
	once, err := c.Client().RunOnce(t.Context(), "order 4711", func(ctx context.Context, tx *concord.Tx) error {
		return move(ctx, tx, orders.Resource(), ledger.Resource())
	})
	require.NoError(t, err)
	require.False(t, once.Replayed)
	require.EqualValues(t, 1, balance(t, c, ledger.Resource()))
}

// A client that was there before the cluster granted leases gets one with its first key: a claim without one holds
// nobody, and all would call their function.
func TestTheFirstKeyOfANewClusterIsClaimed(t *testing.T) {
	orders, ledger := concordtest.Memory("orders"), concordtest.Memory("ledger")
	c := concordtest.New(t, orders, ledger)
	var ran atomic.Int32
	var calls sync.WaitGroup
	begun, asked := make(chan struct{}), make(chan struct{})
	calls.Go(func() {
		_, err := c.Client().RunOnce(t.Context(), "order 4711", func(ctx context.Context, tx *concord.Tx) error {
			ran.Add(1)
			close(begun)
			<-asked
			return nil
		})
		assert.NoError(t, err)
	})
	<-begun
	_, err := c.Client().RunOnce(t.Context(), "order 4711", func(context.Context, *concord.Tx) error {
		ran.Add(1)
		return nil
	}, concord.WithTimeout(time.Second))
	close(asked)
	calls.Wait()
	require.ErrorIs(t, err, concord.ErrInFlight)
	require.EqualValues(t, 1, ran.Load())
}

func TestAVoteFailsOnce(t *testing.T) {
	orders, ledger := concordtest.Memory("orders"), concordtest.Memory("ledger")
	c := concordtest.New(t, orders, ledger)
	work := func(ctx context.Context, tx *concord.Tx) error {
		return move(ctx, tx, orders.Resource(), ledger.Resource())
	}
	c.FailVote("ledger")
	err := c.Client().Run(t.Context(), work)
	var aborted *concord.AbortedError
	require.ErrorAs(t, err, &aborted)
	require.Equal(t, "ledger", aborted.Resource)
	require.ErrorIs(t, err, concordtest.ErrVote)
	require.EqualError(t, err, "transaction "+aborted.GID.String()+voteFails)
	require.Zero(t, balance(t, c, orders.Resource()))
	require.NoError(t, c.Client().Run(t.Context(), work))
	require.EqualValues(t, 1, balance(t, c, ledger.Resource()))
}

func TestAnAnswerIsLostAndTheOutcomeCanBeLearned(t *testing.T) {
	orders, ledger := concordtest.Memory("orders"), concordtest.Memory("ledger")
	c := concordtest.New(t, orders, ledger)
	c.LoseAnswer()
	err := c.Client().Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
		return move(ctx, tx, orders.Resource(), ledger.Resource())
	})
	var unknown *concord.UnknownError
	require.ErrorAs(t, err, &unknown)
	require.ErrorIs(t, err, concordtest.ErrAnswer)
	require.EqualError(t, err, "the outcome of transaction "+unknown.GID.String()+answerIsLost)
	outcome, err := c.Client().Outcome(t.Context(), unknown.GID)
	require.NoError(t, err)
	require.Equal(t, concord.Committed, outcome)
	require.EqualValues(t, 1, balance(t, c, ledger.Resource()),
		"once the cluster has finished the branch, which holds its locks until then")

	c.LoseAnswer()
	err = c.Client().Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
		m, err := ledger.Resource().Tx(ctx, tx)
		if err != nil {
			return err
		}
		return m.Put(ctx, "alice", 7)
	})
	require.ErrorAs(t, err, &unknown)
	require.True(t, unknown.GID.IsZero())
	require.Equal(t, "ledger", unknown.Resource)
	require.EqualValues(t, 7, balance(t, c, ledger.Resource()))
}

func TestTransfersSurviveTheDeathsOfLeaders(t *testing.T) {
	orders, ledger := concordtest.Memory("orders"), concordtest.Memory("ledger")
	c := concordtest.New(t, orders, ledger)
	var moved int64
	stop := make(chan struct{})
	var worker sync.WaitGroup
	worker.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			err := c.Client().Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
				return move(ctx, tx, orders.Resource(), ledger.Resource())
			})
			var unknown *concord.UnknownError
			switch {
			case err == nil:
				moved++
			case errors.As(err, &unknown):
				outcome, err := c.Client().Outcome(t.Context(), unknown.GID)
				if err != nil {
					t.Error(err)
				}
				if outcome == concord.Committed {
					moved++
				}
			case !errors.Is(err, concord.ErrAborted):
				t.Error(err)
			}
		}
	})
	for range 4 { // more than there are nodes: they come back
		c.KillLeader()
	}
	close(stop)
	worker.Wait()
	require.Positive(t, moved)
	require.Equal(t, -moved, balance(t, c, orders.Resource()))
	require.Equal(t, moved, balance(t, c, ledger.Resource()))
}

func TestNoGoroutineIsLeft(t *testing.T) {
	before := goleak.IgnoreCurrent()
	t.Run("a test", func(t *testing.T) {
		orders, ledger := concordtest.Memory("orders"), concordtest.Memory("ledger")
		c := concordtest.New(t, orders, ledger)
		require.NoError(t, c.Client().Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
			return move(ctx, tx, orders.Resource(), ledger.Resource())
		}))
		c.KillLeader()
		c.LoseAnswer()
		require.ErrorIs(t, c.Client().Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
			return move(ctx, tx, orders.Resource(), ledger.Resource())
		}), concord.ErrUnknownOutcome)
	})
	goleak.VerifyNone(t, before)
}

func TestRealDatabases(t *testing.T) {
	for name, other := range map[string]func(string) *concordtest.MySQLDatabase{"MariaDB": concordtest.MariaDB,
		"MySQL": concordtest.MySQL} {
		t.Run(name, func(t *testing.T) {
			orders, billing := concordtest.Postgres("orders"), other("billing")
			c := concordtest.New(t, orders, billing)
			orders.Exec("create table account (id varchar(20) primary key, cents bigint not null)",
				"insert into account values ('alice', 1000)")
			billing.Exec("create table account (id varchar(20) primary key, cents bigint not null)",
				"insert into account values ('alice', 0)")
			work := func(ctx context.Context, tx *concord.Tx) error {
				pg, err := orders.Resource().Tx(ctx, tx)
				if err != nil {
					return err
				}
				if _, err := pg.Exec(ctx, "update account set cents = cents - 500 where id = $1", "alice"); err != nil {
					return err
				}
				my, err := billing.Resource().Tx(ctx, tx)
				if err != nil {
					return err
				}
				_, err = my.ExecContext(ctx, "update account set cents = cents + 500 where id = ?", "alice")
				return err
			}
			require.NoError(t, c.Client().Run(t.Context(), work))
			c.FailVote("billing")
			require.ErrorIs(t, c.Client().Run(t.Context(), work), concordtest.ErrVote)
			c.LoseAnswer()
			require.ErrorIs(t, c.Client().Run(t.Context(), work), concordtest.ErrAnswer)
			var left, right int64
			require.Eventually(t, func() bool { // the cluster finishes the branches
				require.NoError(t, orders.Pool().QueryRow(t.Context(), "select cents from account").Scan(&left))
				require.NoError(t, billing.DB().QueryRowContext(t.Context(), "select cents from account").Scan(&right))
				return left == 0 && right == 1000
			}, 20*time.Second, 10*time.Millisecond)
		})
	}
}

// What whoever breaks something on purpose hears, behind the transaction.
const (
	voteFails    = " was aborted by ledger: concordtest: the vote fails"
	answerIsLost = " is unknown: concordtest: the answer is lost; ask Client.Outcome for it before you repeat it"
)

// Who writes another error finds out here that its text has to be looked at by everybody.
func TestEveryErrorHasARow(t *testing.T) {
	said.Check(t, []string{voteFails, answerIsLost}, nil)
}
