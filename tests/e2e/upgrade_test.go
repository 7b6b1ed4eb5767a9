// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/txn"
)

// firstCompatible is the first revision whose nodes can share a cluster with later ones. Once
// there are releases, the last tag takes its place.
const firstCompatible = "90ca25835c2699a75713e8cba69394313e645c98"

// earlierRelease builds the last release, or the first revision that a cluster can be upgraded
// from.
func earlierRelease(t *testing.T) string {
	t.Helper()
	git := func(args ...string) (string, error) {
		out, err := exec.Command("git", append([]string{"-C", "../.."}, args...)...).CombinedOutput()
		return strings.TrimSpace(string(out)), err
	}
	revision, err := git("describe", "--tags", "--abbrev=0", "HEAD^")
	if err != nil { // no tag yet
		revision = firstCompatible
	}
	dir := t.TempDir()
	archive := filepath.Join(dir, "source.tar")
	out, err := git("archive", "--output", archive, revision)
	require.NoError(t, err, "the source of revision %s is needed, in a clone with its history: %s", revision, out)
	unpacked, err := exec.Command("tar", "-x", "-f", archive, "-C", dir).CombinedOutput()
	require.NoError(t, err, "%s", unpacked)
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "concord"), "./cmd/concord")
	build.Dir = dir
	built, err := build.CombinedOutput()
	require.NoError(t, err, "%s", built)
	return filepath.Join(dir, "concord")
}

// upgrade restarts a node with another binary, as a rolling upgrade does: one node at a time,
// the next one when all are in step again.
func (c *cluster) upgrade(n *node, to string) {
	c.Helper()
	require.NoError(c, n.process.End(syscall.SIGTERM, patience))
	n.binary = to
	c.start(n)
	c.ready()
}

// hold writes feature_level into the configuration of every node, or removes it with 0.
func (c *cluster) hold(level txn.FeatureLevel) {
	c.Helper()
	for _, n := range c.nodes {
		text, err := os.ReadFile(n.config)
		require.NoError(c, err)
		var kept []string
		for line := range strings.Lines(string(text)) {
			if !strings.HasPrefix(line, "feature_level:") {
				kept = append(kept, line)
			}
		}
		if level > 0 {
			kept = append(kept, fmt.Sprintf("feature_level: %d\n", level))
		}
		require.NoError(c, os.WriteFile(n.config, []byte(strings.Join(kept, "")), 0o600))
	}
}

// A cluster goes from one release to the next, back, and forward again, node by node and
// under load. No client sees an error.
func TestUpgradeNodeByNode(t *testing.T) {
	old := earlierRelease(t)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	b := newBank(t)
	c := newCluster(t, settings{resources: b.resources()})
	for _, n := range c.nodes {
		n.binary = old
		c.start(n)
	}
	c.ready()
	var over atomic.Bool
	l := startLoad(ctx, b, c.dial(), 4, func(int) bool { return over.Load() })
	progress := func(what string) {
		t.Helper()
		from := l.sofar()
		eventually(t, "transfers commit "+what, func() bool { return l.sofar() >= from+50 })
	}
	progress("on the earlier release")
	c.hold(txn.LevelBase) // the way back stays open
	for _, n := range c.nodes {
		c.upgrade(n, "")
		progress("on a mixed cluster")
	}
	for _, n := range c.nodes {
		c.upgrade(n, old)
		progress("on the way back")
	}
	c.hold(0)
	for _, n := range c.nodes {
		c.upgrade(n, "")
		progress("on the way forward")
	}
	if txn.Newest > txn.LevelBase {
		c.switchedOn()
		progress("with what the release adds")
		tooLate := c.node(2)
		require.NoError(t, tooLate.process.End(syscall.SIGTERM, patience))
		refused := exec.Command(old, "serve", "--config", tooLate.config)
		said, err := refused.CombinedOutput()
		require.Error(t, err)
		require.Equal(t, 2, refused.ProcessState.ExitCode(), "%s", said)
		require.Contains(t, string(said), "run the release that the other nodes run")
		c.start(tooLate)
		c.ready()
	}
	over.Store(true)
	l.wait(t, c)
	require.Zero(t, l.unknown)
	for id, outcome := range l.answers {
		require.NotEqual(t, "aborted", outcome.String(), "%v", id)
	}
}
