// SPDX-License-Identifier: Apache-2.0

package server

import (
	"slices"
	"time"

	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/coordinator"
	"github.com/concordtx/concord/coordinator/commit"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

func statusMessage(s *coordinator.Snapshot, now time.Time) *concordv1.StatusResponse {
	m := &concordv1.StatusResponse{
		Node: uint64(s.Node), Leader: uint64(s.Leader), Epoch: uint32(s.Epoch), Resources: resourceMessages(s, now),
		Committed: s.Committed, Aborted: s.Aborted, Warnings: s.Warnings, Zxid: s.Zxid.String(),
	}
	if f := s.Known(now); f != nil {
		m.Known, m.KnownAgeMs, m.Incomplete = true, f.Age(f.Clock, now).Milliseconds(), f.Incomplete()
		m.InDoubt, m.Heuristic, m.OldestMs = uint64(f.InDoubt), uint64(f.Heuristic), ageOf(f, f.Oldest, now)
	}
	if d := s.CutOff(now); d > 0 {
		m.Leader, m.CutOffMs = 0, d.Milliseconds()
	}
	if s.Cluster != 0 {
		m.Cluster = s.Cluster.String()
	}
	for _, n := range s.Nodes {
		m.Nodes = append(m.Nodes, &concordv1.Node{Id: uint64(n.ID), Role: n.Role(), State: n.State,
			Epoch: uint32(n.Epoch),
			Zxid:  n.Zxid.String(), Lag: n.Lag, Reachable: n.Reachable, Api: n.API, Peer: n.Peer})
	}
	return m
}

// resourceMessages shows the resources as the leader knows them, and those that it has not told of
// as this node does.
func resourceMessages(s *coordinator.Snapshot, now time.Time) (out []*concordv1.ResourceStatus) {
	var told []commit.ResourceFigures
	f := s.Known(now)
	if f != nil {
		told = f.Resources
	}
	for _, own := range s.Resources {
		m := &concordv1.ResourceStatus{Name: own.Name, Driver: own.Driver, Ok: own.OK, Error: own.Err,
			Identity: own.Identity, Quarantine: quarantineMessage(own.Remembered)}
		if at := own.Remembered.At; at != (zab.Zxid{}) {
			m.HighWater = at.String()
		}
		if own.Asked && !own.OK && s.Leader != s.Node {
			m.OwnError = own.Err
		}
		if i := slices.IndexFunc(told, func(r commit.ResourceFigures) bool { return r.Name == own.Name }); i >= 0 {
			fillResource(m, f, told[i], now)
		}
		if m.Quarantine != nil { // the log knows better
			m.Ok, m.Error = false, txn.Quarantined(own.Name)
		}
		out = append(out, m)
	}
	for _, r := range told { // the configurations differ while they are being changed
		if !slices.ContainsFunc(s.Resources, func(own coordinator.ResourceState) bool { return own.Name == r.Name }) {
			m := &concordv1.ResourceStatus{Name: r.Name,
				OwnError: "this node's configuration does not have it: use the same \"resources\" on all nodes"}
			fillResource(m, f, r, now)
			out = append(out, m)
		}
	}
	return out
}

// quarantineMessage is nil unless the database is quarantined.
func quarantineMessage(r txn.Remembered) *concordv1.Quarantine {
	if r.Quarantine == nil {
		return nil
	}
	m := &concordv1.Quarantine{Remembered: r.At.String(), SinceMs: r.Quarantine.Since.UnixMilli()}
	if !r.Quarantine.Has.IsZero() {
		m.Has = r.Quarantine.Has.At.String()
	}
	return m
}

// fillResource puts in what the leader knows. While it has not asked the database yet, health and
// identity stay this node's own.
func fillResource(m *concordv1.ResourceStatus, f *commit.Figures, r commit.ResourceFigures, now time.Time) {
	m.Known, m.Driver, m.InDoubt, m.Foreign, m.OldestMs = true, r.Driver, uint64(r.InDoubt), uint64(r.Foreign),
		ageOf(f, r.Oldest, now)
	if r.Asked {
		m.Ok, m.Error = r.OK, r.Err
	}
	if r.Identity != "" {
		m.Identity = r.Identity
	}
	if !r.Listed.IsZero() {
		m.Listed, m.ListedAgeMs = true, f.Age(r.Listed, now).Milliseconds()
	}
}

// ageOf returns an age in milliseconds, 0 if there is nothing that has one.
func ageOf(f *commit.Figures, t, now time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return max(1, f.Age(t, now).Milliseconds())
}
