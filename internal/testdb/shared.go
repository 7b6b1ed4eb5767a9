// SPDX-License-Identifier: Apache-2.0

package testdb

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"
)

// Shared is a server of all tests of a package. The first test that needs it starts it, and TestMain closes it. The
// zero value has no flavor.
type Shared struct {
	Flavor  string
	Options []Option
	once    sync.Once
	server  *Server
	err     error
}

// Get returns the server, or skips the test.
func (s *Shared) Get(t testing.TB) *Server {
	t.Helper()
	s.once.Do(func() { s.server, s.err = Start(s.Flavor, "", s.Options...) })
	require(t, s.Flavor, s.err)
	return s.server
}

// Close ends the server if it was started. Nobody is left whom an error could fail: it is printed.
func (s *Shared) Close() {
	if s.server == nil {
		return
	}
	if err := s.server.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
}

// require skips a test whose server is not installed, and fails it if there has to be one.
func require(t testing.TB, flavor string, err error) {
	t.Helper()
	switch {
	case err == nil:
	case errors.Is(err, ErrNotInstalled) && !Required(flavor):
		t.Skip(NotRun(flavor, err))
	case errors.Is(err, ErrNotInstalled):
		t.Fatal(NotRun(flavor, err))
	default:
		t.Fatal(err)
	}
}
