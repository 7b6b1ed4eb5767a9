// SPDX-License-Identifier: Apache-2.0

package adaptertest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/txn"
)

// childVar is set in the child process only and holds its order.
const childVar = "CONCORD_ADAPTERTEST_CHILD"

// Order is what a child process shall do before it is killed.
type Order struct {
	Arg     string // for ServeChild's open
	XID     txn.XID
	Key     string
	Value   int64
	Prepare bool // false: it is killed with the work done and nothing prepared
}

// childAnswer is what it did. The parent kills it after it has read this.
type childAnswer struct {
	Vote   txn.Vote
	Branch txn.Branch
	Error  string
}

// ServeChild returns at once in the test process. In the process that the suite
// starts to be killed it carries out the order and never returns: it ends when it is
// killed or when the parent is gone. Call it first in TestMain.
func ServeChild(
	open func(arg string) (adapters.Adapter, error),
	write func(ctx context.Context, s adapters.Session, key string, value int64) error,
) {
	text, isChild := os.LookupEnv(childVar)
	if !isChild {
		return
	}
	var order Order
	answer, err := childAnswer{}, json.Unmarshal([]byte(text), &order)
	if err == nil {
		answer, err = order.carryOut(open, write)
	}
	if err != nil {
		answer.Error = err.Error()
	}
	_ = json.NewEncoder(os.Stdout).Encode(answer) // a parent that cannot read it is gone
	_, _ = io.Copy(io.Discard, os.Stdin)
	os.Exit(1)
}

func (o Order) carryOut(
	open func(string) (adapters.Adapter, error),
	write func(context.Context, adapters.Session, string, int64) error,
) (childAnswer, error) {
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	r, err := open(o.Arg)
	if err != nil {
		return childAnswer{}, fmt.Errorf("open: %w", err)
	}
	s, err := r.Open(ctx, o.XID)
	if err != nil {
		return childAnswer{}, fmt.Errorf("begin: %w", err)
	}
	if err := write(ctx, s, o.Key, o.Value); err != nil {
		return childAnswer{}, fmt.Errorf("write: %w", err)
	}
	if !o.Prepare {
		return childAnswer{}, nil
	}
	vote, branch, err := s.Prepare(ctx)
	return childAnswer{Vote: vote, Branch: branch}, err
}

// KillClient starts this test binary again, lets it carry out the order, kills it with
// -9 and returns the branch that it prepared, if it had to.
func KillClient(t testing.TB, order Order) txn.Branch {
	text, err := json.Marshal(order)
	require.NoError(t, err)
	// The pattern matches no test: a package that forgot ServeChild does nothing, says so
	// and fails here, instead of running its tests twice.
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), childVar+"="+string(text))
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	defer stdin.Close()
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	timer := time.AfterFunc(2*Patience, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()

	var answer childAnswer
	decodeErr := json.NewDecoder(stdout).Decode(&answer)
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait(), "the child ended by itself; does TestMain call adaptertest.ServeChild?")
	require.NoError(t, decodeErr, "the child gave no answer; does TestMain call adaptertest.ServeChild?")
	require.Empty(t, answer.Error)
	if order.Prepare {
		require.Equal(t, txn.VoteYes, answer.Vote)
	}
	return answer.Branch
}
