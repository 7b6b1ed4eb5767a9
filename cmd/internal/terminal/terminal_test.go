// SPDX-License-Identifier: Apache-2.0

package terminal

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/coordinator"
	"github.com/concordtx/concord/coordinator/peer"
	"github.com/concordtx/concord/txn"
)

// The exit codes are a contract with scripts: what the cluster answers has always the same.
func TestExitCodesOfAnswers(t *testing.T) {
	for err, code := range map[error]int{
		txn.ErrInvalid: ExitUsage, coordinator.ErrNewerStore: ExitUsage, coordinator.ErrMembers: ExitUsage,
		peer.ErrRemoved: ExitUsage, coordinator.ErrDropped: ExitUsage,
		txn.ErrNotFound: ExitNotFound, txn.ErrDecided: ExitRefused, txn.ErrRefused: ExitRefused,
		txn.ErrTooOld:      ExitInDoubt,
		txn.ErrUnavailable: ExitUnavailable, txn.ErrBusy: ExitUnavailable, &txn.NotLeaderError{}: ExitUnavailable,
		context.DeadlineExceeded: ExitUnavailable, context.Canceled: ExitUnavailable,
		errors.New("anything else"): ExitFailed,
	} {
		require.Equal(t, code, ExitCode(fmt.Errorf("commit: %w", err)), "%v", err)
	}
}

const nasty = "a\x1b]0;owned\x07b\u009b2Jc\u202ed\u200be\U000e0041f\ng\th\r"

func TestHarmlessTextMeansTheSameInJSON(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, PrintJSON(Harmless(&out), nasty+"é💳"))
	var back string
	require.NoError(t, json.Unmarshal(out.Bytes(), &back))
	require.Equal(t, nasty+"é💳", back)
}

func TestHarmlessDoesNotDependOnHowATextIsCut(t *testing.T) {
	text := nasty + "é💳\u202e|\xff|\xe2\x80"
	var whole bytes.Buffer
	_, err := (Harmless(&whole)).Write([]byte(text))
	require.NoError(t, err)
	for size := 1; size < 5; size++ {
		var cut bytes.Buffer
		h := Harmless(&cut)
		for part := range slices.Chunk([]byte(text), size) {
			n, err := h.Write(part)
			require.NoError(t, err)
			require.Len(t, part, n)
		}
		require.Equal(t, whole.String(), cut.String())
	}
}

// Colours are for terminals only, and what others have written has none.
func TestColoursWhereATerminalIs(t *testing.T) {
	for colours, want := range map[bool]string{
		false: "A  B\nx  \\u001b[31my\nbad\n",
		true:  "\x1b[1mA  B\x1b[0m\nx  \\u001b[31my\n\x1b[31mbad\x1b[0m\n",
	} {
		var out bytes.Buffer
		w := &harmless{to: &out, colours: colours}
		require.NoError(t, PrintTable(w, []string{"A", "B"}, [][]string{{"x", "\x1b[31my"}}))
		require.NoError(t, Paint(w, Red, "bad"))
		_, err := io.WriteString(w, "\n")
		require.NoError(t, err)
		require.Equal(t, want, out.String())
	}
	require.False(t, wantsColours(&bytes.Buffer{}))
}
