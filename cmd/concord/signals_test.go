// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/cmd/internal/config"
)

func loadNode(t *testing.T, text string) (*config.Node, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "concord.yaml")
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	return config.LoadNode(file, pflag.NewFlagSet("", pflag.ContinueOnError))
}

func TestReloadSetsTheLogLevelAndNamesTheRest(t *testing.T) {
	var said bytes.Buffer
	log, level, err := newLogger(&said, "info", "text")
	require.NoError(t, err)
	running, err := loadNode(t, config.NodeExample)
	require.NoError(t, err)
	doors, err := running.Doors().Open(log)
	require.NoError(t, err)
	load := func(old, new string) func() (*config.Node, error) {
		return func() (*config.Node, error) { return loadNode(t, strings.Replace(config.NodeExample, old, new, 1)) }
	}
	mayDrop := func(names ...string) error {
		if len(names) > 0 {
			return fmt.Errorf("%s is needed", names)
		}
		return nil
	}
	log.Debug("whispered")
	running = reload(running, load("node: 1", "node: 1\nlog: {level: debug}"), level, doors, mayDrop, log)
	log.Debug("heard")
	require.NotContains(t, said.String(), "whispered")
	require.Contains(t, said.String(), "heard")
	require.Contains(t, said.String(), "changes_that_need_a_restart=none")
	said.Reset()
	running = reload(running, load("data_dir: /var", "data_dir: /other"), level, doors, mayDrop, log)
	require.Contains(t, said.String(), "changes_that_need_a_restart=data_dir")
	require.Equal(t, "/var/lib/concord", running.DataDir, "it is not in force")
	said.Reset()
	fewer := func() (*config.Node, error) {
		c, err := loadNode(t, config.NodeExample)
		c.Resources, c.Log.Level = c.Resources[1:], "debug"
		return c, err
	}
	require.NoError(t, setLevel(level, "info"))
	same := reload(running, fewer, level, doors, mayDrop, log)
	require.Equal(t, running, same)
	require.Contains(t, said.String(), "[orders] is needed")
	require.Equal(t, slog.LevelInfo, level.Level(), "nothing of it is in force")
	said.Reset()
	running = reload(running, load("node: 1", "node: ["), level, doors, mayDrop, log)
	require.Contains(t, said.String(), "is wrong")
	running = reload(running, load("node: 1", "node: 1\nlog: {level: loud}"), level, doors, mayDrop, log)
	require.Equal(t, slog.LevelInfo, level.Level())
	require.Contains(t, doors.Warnings(1)[0], "node 1: its configuration was read again and is wrong, so it "+
		"continues with the one it has: ")

	// A node that listens to everybody says so when its file says that it does not.
	said.Reset()
	running = reload(running, load("node: 1", "node: 1\ncerts_dir: /etc/concord/certs"), level, doors, mayDrop, log)
	const protects = "protects this process only when it is started again, and until then it asks " +
		"nobody for their identity: " +
		"restart it now"
	require.Contains(t, said.String(), protects)
	require.Contains(t, doors.Warnings(1)[0], protects)
	require.Empty(t, running.CertsDir, "it is not in force")
	running = reload(running, load("listen: 127.0.0.1:7420", "listen: 127.0.0.1:7430"), level, doors, mayDrop, log)
	require.Equal(t, []string{"node 1: changes of its configuration wait until it is started again: api"},
		doors.Warnings(1))
	reload(running, load("", ""), level, doors, mayDrop, log)
	require.Empty(t, doors.Warnings(1))
}
