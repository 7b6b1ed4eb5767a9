// SPDX-License-Identifier: Apache-2.0

package zab

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/internal/said"
)

func startedCluster(t *testing.T, voters, observers int) *cluster {
	t.Helper()
	c := newCluster(voters, observers, nil)
	for _, h := range c.hosts {
		require.NoError(t, c.start(h))
	}
	return c
}

func TestClusterElectsBroadcastsAndSurvivesItsLeader(t *testing.T) {
	for _, voters := range []int{1, 2, 3, 5} {
		c := startedCluster(t, voters, 1)
		c.run(10)
		leader := c.leader()
		require.NotNil(t, leader, "%d voters", voters)
		for i := range 10 {
			c.propose(leader, string(rune('a'+i)))
		}
		c.run(3)
		for _, h := range c.hosts {
			require.Len(t, h.machine, 10, "%d voters: %s", voters, h.core)
			require.True(t, h.core.Status().Established, "%s", h.core)
		}
		if voters < 3 {
			continue
		}
		c.crash(leader)
		for _, h := range c.hosts {
			c.step(h, PeerLost{leader.cfg.ID})
		}
		c.run(2)
		next := c.leader()
		require.NotNil(t, next, "%d voters", voters)
		require.NotEqual(t, leader, next)
		c.propose(next, "after")
		require.NoError(t, c.start(leader))
		c.run(10)
		for _, h := range c.hosts {
			s := h.core.Status()
			require.True(t, s.Established, "%s", h.core)
			require.Equal(t, next.core.Status().Commit, s.Applied, "%s", h.core)
		}
	}
}

func TestKilledLeaderIsReplacedSoon(t *testing.T) {
	tests := []struct {
		name  string
		told  bool // whether the followers see the connection break
		ticks int
	}{
		{"connection broke", true, 2},
		{"machine went silent", false, 28}, // SyncTicks, then the election; 1.4 s by default
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := startedCluster(t, 3, 0)
			c.run(10)
			old := c.leader()
			require.NotNil(t, old)
			c.crash(old)
			for _, h := range c.hosts {
				if tt.told {
					c.step(h, PeerLost{old.cfg.ID})
				}
			}
			ticks := 0
			for ; c.leader() == nil && ticks < 200; ticks++ {
				c.run(1)
			}
			require.LessOrEqual(t, ticks, tt.ticks)
		})
	}
}

func TestNewRefusesWhatCannotWork(t *testing.T) {
	three := []Member{{ID: 1}, {ID: 2}, {ID: 3}}
	tests := []struct {
		name string
		cfg  Config
		disk disk
		want string
	}{
		{"no members", Config{ID: 1}, disk{}, "voter"},
		{"not a member", Config{ID: 4, Members: three}, disk{}, "own id 4"},
		{"twice", Config{ID: 1, Members: []Member{{ID: 1}, {ID: 2}, {ID: 1}}}, disk{}, "id 1 is there twice"},
		{"nobody", Config{ID: 1, Members: []Member{{ID: 1}, {ID: 0}}}, disk{}, "id 0"},
		{"observers only", Config{ID: 1, Members: []Member{{ID: 1, Observer: true}}}, disk{}, "voter"},
		{"too many", Config{ID: 1, Members: make([]Member, maxMembers+1)}, disk{}, "33"},
		{"promises", Config{ID: 1, Members: three}, disk{hard: HardState{Accepted: 1, Current: 2}}, "above accepted"},
		{"applied", Config{ID: 1, Members: three}, disk{applied: Zxid{1, 1}}, "applied 1.1"},
		{"base", Config{ID: 1, Members: three}, disk{base: Zxid{1, 1}}, "base 1.1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := New(tt.cfg, &tt.disk)
			require.ErrorContains(t, err, tt.want)
		})
	}
	_, err := New(Config{ID: 1, Members: three}, &disk{
		hard: HardState{Accepted: 5, Current: 2},
		log:  chain(Zxid{}, Zxid{1, 1}, Zxid{4, 1}),
	})
	require.NoError(t, err, "a log that ends above Current is what a crash may leave")
}

// cutLog starts three nodes whose logs were cut at 3.7, with one entry after it.
func cutLog(t *testing.T) *cluster {
	t.Helper()
	c := newCluster(3, 1, nil)
	base := Zxid{3, 7}
	for _, h := range c.hosts {
		h.disk.base, h.disk.applied = base, base
		h.disk.hard = HardState{Accepted: 3, AcceptedFrom: 1, Current: 3}
		h.disk.log = chain(base, Zxid{3, 8})
	}
	return c
}

func TestLogThatDoesNotBeginAtZero(t *testing.T) {
	c := cutLog(t)
	c.hosts[1].disk.log = nil // ends at the base
	c.hosts[3].disk.log = nil
	for _, h := range c.hosts {
		require.NoError(t, c.start(h))
	}
	c.run(10)
	require.NotNil(t, c.leader())
	c.propose(c.leader(), "x")
	c.run(3)
	for _, h := range c.hosts {
		require.Equal(t, chain(Zxid{3, 7}, Zxid{3, 8})[0], h.machine[0], "%s", h.core)
		require.Equal(t, Zxid{4, 1}, h.core.Status().Applied, "%s", h.core)
	}
}

func TestNodesBehindTheBaseComeBackBySnapshot(t *testing.T) {
	c := cutLog(t)
	c.hosts[0].disk, c.hosts[3].disk = &disk{}, &disk{} // a voter and the observer
	restored := map[NodeID]Zxid{}
	c.observe = func(h *host, e Effect) {
		if r, ok := e.(Restored); ok {
			restored[h.cfg.ID] = r.Snapshot.Zxid
		}
	}
	for _, h := range c.hosts {
		require.NoError(t, c.start(h))
	}
	c.run(10)
	require.NotNil(t, c.leader())
	require.Len(t, restored, 2)
	c.propose(c.leader(), "x")
	c.run(3)
	for _, h := range c.hosts {
		s := h.core.Status()
		require.True(t, s.Established, "%s", h.core)
		require.Equal(t, Zxid{4, 1}, s.Applied, "%s", h.core)
		if z, ok := restored[h.cfg.ID]; ok {
			require.Equal(t, z, s.Base)
			require.Equal(t, z, h.from)
		}
	}
}

func TestDivergedFollowerIsNeverTruncatedBelowWhatItApplied(t *testing.T) {
	c := newCluster(3, 0, nil)
	for i, h := range c.hosts {
		z := Zxid{1, 1}
		if i == 0 {
			z = Zxid{2, 1} // applied, but nobody else has it: a disk was replaced by hand
		}
		h.disk.log = chain(Zxid{}, z)
		h.disk.applied = z
		h.disk.hard = HardState{Accepted: 3, Current: 3}
	}
	alarms := 0
	c.observe = func(_ *host, e Effect) {
		if n, ok := e.(Note); ok && strings.HasPrefix(n.Text, "ALARM") {
			alarms++
		}
	}
	for _, h := range c.hosts[1:] {
		require.NoError(t, c.start(h))
	}
	c.run(10)
	require.NoError(t, c.start(c.hosts[0]))
	c.run(50)
	require.Positive(t, alarms)
	require.True(t, c.hosts[0].disk.holds(Zxid{2, 1}))
}

func TestProposalsBeyondTheBoundAreRefused(t *testing.T) {
	c := newCluster(3, 0, func(c *Config) { c.MaxUncommittedBytes = 100 })
	var refused []error
	c.observe = func(_ *host, e Effect) {
		if r, ok := e.(Refused); ok {
			refused = append(refused, r.Err)
		}
	}
	for _, h := range c.hosts {
		require.NoError(t, c.start(h))
	}
	c.run(10)
	for range 3 {
		c.propose(c.leader(), "0123456789")
	}
	require.Equal(t, []error{ErrBusy}, refused)
	c.settle()
	c.propose(c.leader(), "0123456789")
	require.Len(t, refused, 1, "there is room again")
	for _, h := range c.hosts {
		if h != c.leader() {
			c.propose(h, "x")
		}
	}
	require.Equal(t, []error{ErrBusy, ErrNotLeader, ErrNotLeader}, refused)
}

func TestLongBacklogComesInBatchesWithinTheWindow(t *testing.T) {
	c := newCluster(3, 0, func(c *Config) { c.MaxBatchBytes, c.WindowBytes = 1000, 4000 })
	largest, inFlight := 0, 0
	c.observe = func(h *host, e Effect) {
		if s, ok := e.(Send); ok && s.Message.To == 1 {
			if p, ok := s.Message.Body.(Propose); ok {
				largest = max(largest, sizeOf(p.Entries))
				inFlight = max(inFlight, h.core.lead.peers[0].inFlight)
			}
		}
	}
	for _, h := range c.hosts[1:] {
		require.NoError(t, c.start(h))
	}
	c.run(10)
	for range 500 {
		c.propose(c.leader(), strings.Repeat("x", 100))
		c.settle()
	}
	require.NoError(t, c.start(c.hosts[0]))
	c.run(10)
	require.Len(t, c.hosts[0].machine, 500)
	require.LessOrEqual(t, largest, 1000+132)
	require.Greater(t, largest, 500, "entries share messages")
	require.LessOrEqual(t, inFlight, 4000+1132)
}

func TestCloneGoesItsOwnWay(t *testing.T) {
	c := startedCluster(t, 3, 0)
	c.run(10)
	leader := c.leader()
	c.propose(leader, "a")
	d := *leader.disk
	twin := leader.core.Clone(&d)
	require.Equal(t, leader.core.Fingerprint(), twin.Fingerprint())
	require.Equal(t, leader.core.String(), twin.String())

	before := leader.core.Fingerprint()
	twin.Step(Proposed{ID: 1, Data: []byte("b")})
	require.Equal(t, before, leader.core.Fingerprint(), "the original does not notice")
	require.NotEqual(t, before, twin.Fingerprint())
	leader.core.Step(Proposed{ID: 1, Data: []byte("b")})
	require.Equal(t, leader.core.Fingerprint(), twin.Fingerprint(), "the same event, the same state")
}

func TestFollowerRefusesALeaderOfAnOlderEpoch(t *testing.T) {
	c := startedCluster(t, 3, 0)
	c.run(10)
	h := c.hosts[0]
	c.step(h, PeerLost{c.leader().cfg.ID})
	c.run(1)
	f := h.core.follow
	require.NotNil(t, f)
	h.core.hard.Accepted, h.core.durable.Accepted = 7, 7
	h.core.openSession(f.leader, 0)
	var got []Message
	c.observe = func(_ *host, e Effect) {
		if s, ok := e.(Send); ok {
			got = append(got, s.Message)
		}
	}
	c.step(h, Received{Message{From: f.leader, To: 1, Epoch: 6, Session: h.core.follow.session, Body: LeaderInfo{}}})
	require.Equal(t, Reject{Reason: StaleEpoch, Accepted: 7}, got[0].Body)
	require.Equal(t, Looking, h.core.Status().Role)
}

// Every row of the decision table: the leader's log is 2.2 (base), 2.3, 2.4, 4.1, all
// committed, and a follower comes with one of these.
func TestEachRowOfTheDecisionTable(t *testing.T) {
	base := Zxid{2, 2}
	tests := []struct {
		name     string
		base     Zxid
		log      []Entry
		applied  Zxid
		decision string
		stays    bool // the follower never gets on
	}{
		{"z is the last", base, chain(base, Zxid{2, 3}, Zxid{2, 4}, Zxid{4, 1}), base,
			"DIFF: z 4.1 p 4.1 base 2.2 last 4.1", false},
		{"z is in the log", base, chain(base, Zxid{2, 3}), base, "DIFF: z 2.3 p 2.3 base 2.2 last 4.1", false},
		{"z is the base", base, nil, base, "DIFF: z 2.2 p 2.2 base 2.2 last 4.1", false},
		{"z is behind the last of its epoch", base, chain(base, Zxid{2, 3}, Zxid{2, 4}, Zxid{2, 5}), base,
			"TRUNC: z 2.5 p 2.4 base 2.2 last 4.1", false},
		{"z is of an epoch that the leader does not know", base, chain(base, Zxid{2, 3}, Zxid{2, 4}, Zxid{3, 1}), base,
			"TRUNC: z 3.1 p 2.4 base 2.2 last 4.1", false},
		{"z is of a later epoch than the last", base, chain(base, Zxid{2, 3}, Zxid{2, 4}, Zxid{4, 1}, Zxid{4, 2}), base,
			"TRUNC: z 4.2 p 4.1 base 2.2 last 4.1", false},
		{"z is before the base", Zxid{}, chain(Zxid{}, Zxid{2, 1}), Zxid{2, 1},
			"SNAP: z 2.1 applied there 2.1 base 2.2 applied 4.1 last 4.1", false},
		{"z is before the base and divergent", Zxid{}, chain(Zxid{}, Zxid{1, 1}, Zxid{1, 2}), Zxid{},
			"SNAP: z 1.2 applied there 0.0 base 2.2 applied 4.1 last 4.1", false},
		{"nothing at all", Zxid{}, nil, Zxid{}, "SNAP: z 0.0 applied there 0.0 base 2.2 applied 4.1 last 4.1", false},
		{"what was applied is not in the leader's log", base, chain(base, Zxid{2, 3}, Zxid{2, 4}, Zxid{3, 1}),
			Zxid{3, 1}, "histories diverged: z 3.1 p 2.4 applied 3.1 base 2.2 last 4.1", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := newCluster(3, 0, nil)
			for _, h := range c.hosts[1:] {
				h.disk.base, h.disk.applied, h.disk.hard = base, Zxid{4, 1},
					HardState{Accepted: 4, AcceptedFrom: 3, Current: 4}
				h.disk.log = chain(base, Zxid{2, 3}, Zxid{2, 4}, Zxid{4, 1})
				require.NoError(t, c.start(h))
			}
			c.run(10)
			require.NotNil(t, c.leader())
			var decisions []string
			c.observe = func(_ *host, e Effect) {
				if n, ok := e.(Note); ok && strings.Contains(n.Text, "sync node 1: ") && !strings.Contains(n.Text,
					"has installed") {
					decisions = append(decisions, n.Text)
				}
			}
			late := c.hosts[0]
			late.disk.base, late.disk.log, late.disk.applied = tt.base, tt.log, tt.applied
			require.NoError(t, c.start(late))
			c.run(10)
			require.NotEmpty(t, decisions)
			require.Contains(t, decisions[0], tt.decision)
			require.Contains(t, decisions[0], "epoch 5")
			require.Equal(t, !tt.stays, late.core.Status().Established, "%s", late.core)
			if !tt.stays {
				require.Len(t, decisions, 1)
				require.Equal(t, Zxid{4, 1}, late.core.Status().Applied)
			}
		})
	}
}

// Who writes another error finds out here that its text has to be looked at by everybody. People meet few of these:
// whoever serves requests says what they mean in words of his own.
func TestEveryErrorHasARow(t *testing.T) {
	var rows []string
	for says, list := range map[string][]Member{
		"there must be a voter": nil,
		"id 0 means nobody":     {{}},
		"id 1 is there twice":   {{ID: 1}, {ID: 1}},
	} {
		_, err := ordered(list)
		require.EqualError(t, err, says)
		rows = append(rows, says)
	}
	said.Check(t, rows, withoutRow)
}

// Why a text has no row.
const (
	between = "between nodes: the connection is dropped, and the log has it"
	before  = "cannot be met: whoever reads the configuration, or opens the store, has said so before"
	inWords = "whoever asks hears it in words of the coordinator"
)

// withoutRow are the texts that no row of the table has.
var withoutRow = map[string]string{
	"not a message of this version": between, "decode message of %d bytes: version: %w": between,
	"decode message of %d bytes, kind %d: %w":                      between,
	"the members cannot be changed like that":                      inWords,
	"%d, at most %d are possible":                                  before,
	"not the established leader: ask the leader that Status names": inWords,
	"too many proposals in flight: try again later":                inWords,
	"members: %w":                          before,
	"members: own id %d is not among them": before,
	"stored state: current epoch %d is above accepted epoch %d":   before,
	"stored state: log ends at %s, before its base %s":            before,
	"stored state: applied %s is not between base %s and last %s": before,
}
