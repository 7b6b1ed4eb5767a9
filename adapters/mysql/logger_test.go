// SPDX-License-Identifier: Apache-2.0

package mysql

import (
	"bytes"
	"log/slog"
	"sync"
	"testing"

	sqldriver "github.com/go-sql-driver/mysql"
	"github.com/stretchr/testify/require"
)

// notes is a buffer that several may write to.
type notes struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (n *notes) Write(p []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.text.Write(p)
}

func (n *notes) String() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.text.String()
}

func TestTheDriverLogsToWhomItIsTold(t *testing.T) {
	var byDefault notes
	was := sqldriver.NewConfig().Logger
	require.NoError(t, sqldriver.SetLogger(Logger(slog.New(slog.NewTextHandler(&byDefault, nil))))) // in the place of standard error
	t.Cleanup(func() { require.NoError(t, sqldriver.SetLogger(was)) })
	onEach(t, func(t *testing.T, w *world) {
		var told notes
		for _, chosen := range []sqldriver.Logger{nil, Logger(slog.New(slog.NewTextHandler(&told, nil)))} {
			cfg, err := sqldriver.ParseDSN(w.DSN(database))
			require.NoError(t, err)
			if chosen != nil {
				cfg.Logger = chosen
			}
			c, err := NewConnector(cfg)
			require.NoError(t, err)
			r := New("bank", c)
			s := w.work(r, newXID(), "logged")
			w.kill(s)
			require.Error(t, write(w.ctx, s, "logged", 2))
			require.NoError(t, s.Rollback(w.ctx))
			require.NoError(t, r.Close())
		}
		require.Empty(t, byDefault.String())
		require.Contains(t, told.String(), `level=WARN msg="the MySQL driver: `)
	})
}
