// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"time"

	"github.com/concordtx/concord/coordinator/commit"
	"github.com/concordtx/concord/protocol/zab"
)

// figuresFor is how long what the leader said about itself is taken for the present. It says
// it every reportInterval.
const figuresFor = 3 * time.Second

// Known returns what the leader knows, or nil if that is unknown here: this node knows no leader,
// or has not heard of it for too long.
func (s *Snapshot) Known(now time.Time) *commit.Figures {
	if f := s.Figures; f != nil && s.Leader != 0 && s.CutOff(now) == 0 && now.Sub(f.At) <= figuresFor {
		return f
	}
	return nil
}

// ownFigures returns the figures of this node as the leader.
func (l *loop) ownFigures(now time.Time, resources []ResourceState) *commit.Figures {
	f := l.commits.Figures(now)
	for i := range f.Resources {
		f.Resources[i].Driver, f.Resources[i].Health = resources[i].Driver, resources[i].Health
	}
	return f
}

// heardFigures returns what a leader has reported of itself, nil if nothing lately.
func (l *loop) heardFigures(leader zab.NodeID, epoch zab.Epoch, now time.Time) *commit.Figures {
	r, ok := l.reports[leader]
	if !ok || r.Role != zab.Leading || !r.Established || r.Epoch != epoch || now.Sub(r.at) > figuresFor ||
		r.Figures == nil {
		return nil
	}
	f := *r.Figures // readers have the one before
	f.At = r.at
	return &f
}
