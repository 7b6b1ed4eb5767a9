// SPDX-License-Identifier: Apache-2.0

package concordhttp

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/internal/said"
)

// failures are why a service says that the transaction must not be committed: what its handler does, and what
// whoever commits hears behind the name of the service.
var failures = []struct {
	name string
	meet func() error
	says string
}{
	{"a handler that fails", func() error {
		a := &answer{header: http.Header{}}
		a.WriteHeader(http.StatusBadGateway)
		return a.failure()
	}, "its handler answered 502 Bad Gateway"},
	{"an answer that is too long", func() error {
		a := &answer{header: http.Header{}}
		_, err := a.Write(make([]byte, MaxAnswer+1))
		if a.failure() != err {
			return nil
		}
		return err
	}, "an answer in a transaction has at most 8388608 bytes: answer with less, or be called outside of it"},
	{"a handler that panics", func() error { return errPanicked }, "its handler panicked"},
}

func TestWhatFailuresSay(t *testing.T) {
	for _, f := range failures {
		require.EqualError(t, f.meet(), f.says, f.name)
	}
	w := httptest.NewRecorder()
	(&answer{over: true}).send(w)
	require.Equal(t, http.StatusInternalServerError, w.Code)
	require.Equal(t, errTooLong.Error()+"\n", w.Body.String(), "the caller hears it too")
}

// Who writes another error finds out here that its text has to be looked at by everybody.
func TestEveryErrorHasARow(t *testing.T) {
	var rows []string
	for _, f := range failures {
		rows = append(rows, f.says)
	}
	said.Check(t, rows, nil)
}
