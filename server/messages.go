// SPDX-License-Identifier: Apache-2.0

package server

import (
	"time"

	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/coordinator"
)

func statusMessage(s *coordinator.Snapshot, now time.Time) *concordv1.StatusResponse {
	m := &concordv1.StatusResponse{
		Node: uint64(s.Node), Leader: uint64(s.Leader), Epoch: uint32(s.Epoch), Resources: resourceMessages(s, now),
		InDoubt: uint64(s.InDoubt), Committed: s.Committed, Aborted: s.Aborted, Heuristic: uint64(s.Heuristic), Warnings: s.Warnings,
		Zxid: s.Zxid.String(),
	}
	if d := s.CutOff(now); d > 0 {
		m.Leader, m.CutOffMs = 0, d.Milliseconds()
	}
	if s.Cluster != 0 {
		m.Cluster = s.Cluster.String()
	}
	for _, n := range s.Nodes {
		m.Nodes = append(m.Nodes, &concordv1.Node{Id: uint64(n.ID), Role: n.Role(), State: n.State, Epoch: uint32(n.Epoch),
			Zxid: n.Zxid.String(), Lag: n.Lag, Reachable: n.Reachable, Api: n.API, Peer: n.Peer})
	}
	return m
}

func resourceMessages(s *coordinator.Snapshot, now time.Time) []*concordv1.ResourceStatus {
	var out []*concordv1.ResourceStatus
	for _, r := range s.Resources {
		m := &concordv1.ResourceStatus{Name: r.Name, Driver: r.Driver, Ok: r.OK, Error: r.Err, Identity: r.Identity,
			InDoubt: uint64(r.Scan.InDoubt), Foreign: uint64(r.Scan.Foreign)}
		if !r.Scan.Oldest.IsZero() {
			m.OldestMs = max(0, now.Sub(r.Scan.Oldest).Milliseconds())
		}
		out = append(out, m)
	}
	return out
}
