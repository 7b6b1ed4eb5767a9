// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/security"
)

func TestANodeThatAsksNobodySaysSo(t *testing.T) {
	var log bytes.Buffer
	opened, err := Doors{insecure: true}.Open(slog.New(slog.NewTextHandler(&log, nil)))
	require.NoError(t, err)
	require.True(t, opened.Guard.Insecure())
	require.Equal(t, []string{`node 3 asks nobody who he is: make certificates with "concord cert", and start it ` +
		`without --insecure`}, opened.Warnings(3))
	require.Contains(t, log.String(), "level=WARN")
	opened, err = Doors{}.Open(slog.New(slog.NewTextHandler(&log, nil)))
	require.NoError(t, err)
	require.False(t, opened.Guard.Insecure(), "it serves its own machine alone")
	require.Empty(t, opened.Warnings(3))
}

func TestACertificateThatEndsSoonIsAWarning(t *testing.T) {
	dir := security.Dir(filepath.Join(t.TempDir(), "certs"))
	a, err := security.NewAuthority(dir, filepath.Join(t.TempDir(), "ca.key"), "shop", security.AuthorityLifetime,
		false)
	require.NoError(t, err)
	doors := Doors{certsDir: string(dir), own: func(d security.Dir) security.Files { return d.Node(1) }}
	for life, warned := range map[time.Duration]bool{24 * time.Hour: true, security.CertificateLifetime: false} {
		_, err = a.Issue(dir, security.Node, "1", []string{"localhost"}, life, true)
		require.NoError(t, err)
		opened, err := doors.Open(slog.New(slog.DiscardHandler))
		require.NoError(t, err)
		require.Equal(t, warned, len(opened.Warnings(1)) > 0)
		if warned {
			require.Contains(t, opened.Warnings(1)[0], "node 1: its certificate ends at ")
		}
	}
}

// What of this machine is reached from elsewhere.
func TestWhatIsLoopback(t *testing.T) {
	for addr, want := range map[string]bool{"127.0.0.1:1": true, "[::1]:1": true, "localhost:1": true,
		"127.9.9.9:1": true,
		":1":          false, "0.0.0.0:1": false, "[::]:1": false, "10.0.0.1:1": false, "db.example:1": false,
		"127.0.0.1": false} {
		require.Equal(t, want, loopback(addr), addr)
	}
}
