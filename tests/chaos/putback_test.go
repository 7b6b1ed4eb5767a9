// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"context"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/stretchr/testify/require"

	concordv1 "github.com/concordtx/concord/api/concord/v1"
)

// putBackOne puts a database back to a copy of its files, under load and with the leader killed meanwhile. What
// the clients were told is committed and is not there any more has to be what the cluster reports as missing.
// It comes last: afterwards nothing adds up.
func (w *world) putBackOne(r *rand.Rand) {
	w.Helper()
	name := sqlNames[r.IntN(len(sqlNames))]
	d := w.dbs[name]
	before := len(w.history.records)
	for range processes {
		require.NoError(w, w.startClient(workersOfOne, "unique"))
	}
	caller := w.caller()
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
	defer cancel()
	over := make(chan struct{})
	watched := make(chan struct{})
	go func() { w.watch(over); close(watched) }()
	require.True(w, w.goesOn())
	w.say("%s: a copy is made", name)
	require.NoError(w, d.server.Stop())
	saved, err := d.server.Save()
	require.NoError(w, err)
	require.NoError(w, d.server.Start())
	require.True(w, w.goesOn())
	w.raised(ctx, name)
	require.True(w, w.goesOn())
	require.NoError(w, d.server.Stop())
	w.say("%s: the copy is put back", name)
	require.NoError(w, saved.PutBack())
	require.NoError(w, leaderKilled(w, r, 500*time.Millisecond))
	require.NoError(w, d.server.Start())
	var report *concordv1.ReportResourceResponse
	require.NoError(w, until(ctx, name+" is quarantined", func() bool {
		report, err = caller.ReportResource(ctx, &concordv1.ReportResourceRequest{Name: name})
		return err == nil && report.GetQuarantine() != nil
	}))
	w.stopClients()
	close(over)
	<-watched
	require.NoError(w, w.history.poll())
	require.NoError(w, w.ready(patience))
	// Others may still be on their way to where they can end.
	require.NoError(w, until(ctx, "the report is complete", func() bool {
		report, err = caller.ReportResource(ctx, &concordv1.ReportResourceRequest{Name: name})
		return err == nil && report.GetQuarantine() != nil && w.openElsewhere(ctx, name) == 0
	}))
	lost, there := w.lost(d, w.history.records[before:])
	fates := map[string]string{}
	for _, b := range report.GetBranches() {
		fates[b.GetGid()] = b.GetFate()
	}
	for _, gid := range lost {
		if fates[gid] != "missing" && fates[gid] != "unknown" && fates[gid] != "prepared-again" {
			w.Errorf("D11: %s was told committed, is not in %s any more, and the report says %q", gid, name, fates[gid])
		}
	}
	for _, gid := range there {
		if fates[gid] == "missing" {
			w.Errorf("D11: %s is reported as missing, and is in %s", gid, name)
		}
	}
	w.Logf("%s was put back: %d transactions that were told committed are gone, %d are there; %d are reported as "+
		"missing, %d as unknown, %d as prepared again", name, len(lost), len(there), report.GetMissing(),
		report.GetUnknown(), report.GetPreparedAgain())
	require.NotEmpty(w, lost, "the copy was not older than anything")
	_, err = caller.AcceptResource(ctx, &concordv1.AcceptResourceRequest{Name: name, Who: "chaos", Reason: "to go on"})
	require.NoError(w, err)
	require.NoError(w, w.startClient(workersOfOne, "unique"))
	over, watched = make(chan struct{}), make(chan struct{})
	go func() { w.watch(over); close(watched) }()
	require.True(w, w.goesOn(), "it takes part again")
	w.stopClients()
	close(over)
	<-watched
	if _, left := w.settled(settleLimit); len(left) > 0 {
		w.Errorf("AC5: left over after %s was accepted: %v", name, left)
	}
	w.putBack++
}

// raised waits until the log remembers more of a database than it does now.
func (w *world) raised(ctx context.Context, name string) {
	w.Helper()
	first := w.highWater(name)
	require.NoError(w, until(ctx, "the high-water row of "+name+" is raised twice", func() bool {
		now := w.highWater(name)
		return first != "" && now != "" && now != first
	}))
}

// highWater is what the log remembers of a database.
func (w *world) highWater(name string) string {
	for _, n := range w.nodes {
		if s := w.ask(n); s != nil {
			for _, r := range s.GetResources() {
				if r.GetName() == name && r.GetHighWater() != "" {
					return r.GetHighWater()
				}
			}
		}
	}
	return ""
}

// openElsewhere counts the branches that are prepared in other databases.
func (w *world) openElsewhere(ctx context.Context, than string) (n int) {
	for name, d := range w.dbs {
		if name == than {
			continue
		}
		ours, err := w.prepared(ctx, d)
		if n += len(ours); err != nil {
			n++
		}
	}
	return n
}

// lost are the transactions that somebody was told are committed, by whether their row is in a database.
func (w *world) lost(d *database, records []record) (lost, there []string) {
	w.Helper()
	rows := map[string]bool{}
	for _, gid := range w.texts(d, "SELECT gid FROM uniq") {
		rows[gid] = true
	}
	written := map[string]bool{}
	for _, r := range records {
		if r.Op == begun {
			written[r.GID] = slices.Contains(r.Rows, d.name)
		}
		if r.Op != told || r.Outcome != committed || !written[r.GID] {
			continue
		}
		if rows[r.GID] {
			there = append(there, r.GID)
		} else {
			lost = append(lost, r.GID)
		}
	}
	return lost, there
}

// stopClients lets the client processes end what they do, and waits for them.
func (w *world) stopClients() {
	w.Helper()
	for _, c := range w.clients {
		_ = c.stdin.Close()
	}
	for _, c := range w.clients {
		if err := c.Await(patience); err != nil {
			w.Errorf("%s: %v", c.name, err)
		} else if c.Err() != nil {
			w.Errorf("%s ended with %v: %s", c.name, c.Err(), tail(w.path(c.name+".log")))
		}
	}
	w.clients = nil
}
