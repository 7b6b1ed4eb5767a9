// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/concordtx/concord/internal/faultproxy"
)

// fault is one thing that breaks, and heals. do returns when it has healed; an error says that the product did
// not do what it has to at this fault.
type fault struct {
	name   string
	domain string // faults of one domain do not overlap; alone: nothing overlaps
	weight int
	cells  []string // of the fault matrix
	do     func(*world, *rand.Rand, time.Duration) error
}

const (
	alone    = "alone"
	ofNodes  = "nodes"
	ofClient = "clients"
	ofAgent  = "agent"
)

var (
	hole = faultproxy.Fault{Drop: true}
	wait = faultproxy.Fault{Hold: true}
)

var faults = append([]fault{
	{"leader killed", ofNodes, 6, []string{"L01", "L02", "L03", "L04", "L05", "L07", "L08", "L09"}, leaderKilled},
	{"every new leader killed", ofNodes, 1, []string{"L11"}, newLeadersKilled},
	{"leader stopped", ofNodes, 3, []string{"L12", "L13"}, leaderStopped},
	{"leader stopped half of the time", ofNodes, 1, []string{"L14"}, leaderHalf},
	{"leader's disk full", ofNodes, 1, []string{"L17"}, diskFull},
	{"leader ended", ofNodes, 2, []string{"L19"}, leaderEnded},
	{"follower killed", ofNodes, 3, []string{"F01"}, followerKilled},
	{"both followers killed", ofNodes, 1, []string{"F02"}, followersKilled},
	{"all nodes killed", ofNodes, 2, []string{"F03"}, allKilled},
	{"killed again while it recovers", ofNodes, 1, []string{"F03", "R06"}, killedAgain},
	{"all nodes stopped", ofNodes, 1, []string{"T03"}, allStopped},
	{"follower's disk erased", ofNodes, 1, []string{"F05"}, erased},
	{"rolling restart", ofNodes, 1, []string{"F12"}, rolling},
	{"a member comes and goes", ofNodes, 1, []string{"members"}, memberComesAndGoes},
	{"leader isolated", ofNodes, 3, []string{"N01", "N09"}, leaderIsolated},
	{"leader does not reach one follower", ofNodes, 2, []string{"N02"}, oneWay},
	{"leader hears nobody", ofNodes, 2, []string{"N03"}, deafLeader},
	{"followers do not reach each other", ofNodes, 1, []string{"N04"}, bridge},
	{"links flap", ofNodes, 1, []string{"N08"}, flapping},
	{"links are slow", ofNodes, 1, []string{"N10"}, slow},
	{"bytes of old connections come late", ofNodes, 1, []string{"N11"}, lateBytes},
	{"agent killed", ofAgent, 4, []string{"A01", "A03", "A04", "A05", "A06", "A07"}, agentKilled},
	{"agent stopped", ofAgent, 1, []string{"A08"}, agentStopped},
	{"agent cut off", ofAgent, 2, []string{"N05"}, agentCut},
	{"client killed", ofClient, 6, []string{"K01", "K02"}, clientKilled},
	{"client stopped beyond its lease", ofClient, 1, []string{"lease"}, clientStopped},
	{"answers to clients lost", ofClient, 3, []string{"K03", "N07"}, answersLost},
	{"clients cut off", ofClient, 2, []string{"N07"}, clientsCut},
	{"ten times too much", ofClient, 1, []string{"K08"}, overload},
}, databaseFaults()...)

func databaseFaults() (all []fault) {
	for _, name := range sqlNames {
		domain := "database " + name
		all = append(all,
			fault{name + " killed", domain, 2, []string{"D01", "D02", "D03", "D04"}, databaseKilled(name)},
			fault{name + " stopped", domain, 1, []string{"D05"}, databasePaused(name)},
			fault{name + " cut off from nodes", domain, 1, []string{"N06"}, databaseCut(name, true)},
			fault{name + " cut off from clients", domain, 1, []string{"N06"}, databaseCut(name, false)})
	}
	return append(all,
		fault{"an administrator acts", alone, 3, []string{"H01", "H02", "H03", "H04", "H05", "D09", "D10"},
			administrator},
		fault{"no more prepared transactions in " + orders, "database " + orders, 1, []string{"D14"}, preparedFull})
}

// last is for how long something stays broken.
func last(d time.Duration) { time.Sleep(d) }

func leaderKilled(w *world, _ *rand.Rand, d time.Duration) error {
	leader, err := w.someLeader()
	if err != nil {
		return err
	}
	w.moment("leader killed")
	if err := w.kill(leader); err != nil {
		return err
	}
	last(d)
	return w.start(leader)
}

func newLeadersKilled(w *world, _ *rand.Rand, _ time.Duration) error {
	var down *node
	for range 5 {
		leader, err := w.someLeader()
		if err != nil {
			return err
		}
		w.moment("leader killed")
		if err := w.kill(leader); err != nil {
			return err
		}
		if down != nil {
			if err := w.start(down); err != nil {
				return err
			}
		}
		down = leader
	}
	return w.start(down)
}

func (w *world) stop(d time.Duration, nodes ...*node) error {
	for _, n := range nodes {
		if err := n.Signal(syscall.SIGSTOP); err != nil {
			return err
		}
	}
	last(d)
	for _, n := range nodes {
		if err := n.Signal(syscall.SIGCONT); err != nil {
			return err
		}
	}
	return nil
}

func leaderStopped(w *world, _ *rand.Rand, d time.Duration) error {
	leader, err := w.someLeader()
	if err != nil {
		return err
	}
	return w.stop(max(d, 2*time.Second), leader) // longer than it may be silent
}

func leaderHalf(w *world, _ *rand.Rand, d time.Duration) error {
	leader, err := w.someLeader()
	if err != nil {
		return err
	}
	for range max(3, d/(400*time.Millisecond)) {
		if err := w.stop(200*time.Millisecond, leader); err != nil {
			return err
		}
		last(200 * time.Millisecond)
	}
	return nil
}

func allStopped(w *world, _ *rand.Rand, d time.Duration) error { return w.stop(d, w.nodes...) }

// diskFull makes node 3 the leader and fills its disk.
func diskFull(w *world, _ *rand.Rand, d time.Duration) error {
	n := w.nodes[2]
	if n.small == "" {
		return errNotHere
	}
	if out, code := w.concord("member", "lead", "3"); code != 0 {
		w.say("node 3 does not lead: %s", out)
	}
	var fs syscall.Statfs_t
	if err := syscall.Statfs(n.small, &fs); err != nil {
		return err
	}
	free := int64(fs.Bavail) * fs.Bsize
	filler := filepath.Join(n.small, "filler")
	f, err := os.Create(filler)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := syscall.Fallocate(int(f.Fd()), 0, 0, free-reserve<<20/2); err != nil {
		return fmt.Errorf("fill the disk: %w", err)
	}
	last(max(d, 3*time.Second))
	if l := w.leader(); l == n {
		return fmt.Errorf("node 3 still leads with a full disk")
	}
	return os.Remove(filler)
}

func leaderEnded(w *world, _ *rand.Rand, d time.Duration) error {
	leader, err := w.someLeader()
	if err != nil {
		return err
	}
	if err := leader.End(syscall.SIGTERM, 20*time.Second); err != nil {
		return err
	}
	if leader.Err() != nil {
		return fmt.Errorf("node %d did not end in order: %w", leader.id, leader.Err())
	}
	last(d)
	return w.start(leader)
}

func (w *world) follower(r *rand.Rand) (*node, error) {
	leader, err := w.someLeader()
	if err != nil {
		return nil, err
	}
	return w.others(leader)[r.IntN(len(w.nodes)-1)], nil
}

func followerKilled(w *world, r *rand.Rand, d time.Duration) error {
	n, err := w.follower(r)
	if err != nil {
		return err
	}
	if err := w.kill(n); err != nil {
		return err
	}
	last(d)
	return w.start(n)
}

func (w *world) killed(d time.Duration, nodes ...*node) error {
	for _, n := range nodes {
		if !n.Alive() {
			return fmt.Errorf("node %d had ended by itself: %v", n.id, n.Err())
		}
		if err := n.Signal(syscall.SIGKILL); err != nil {
			return err
		}
	}
	for _, n := range nodes {
		if err := n.Await(patience); err != nil {
			return err
		}
	}
	last(d)
	for _, n := range nodes {
		if err := w.start(n); err != nil {
			return err
		}
	}
	return nil
}

func followersKilled(w *world, _ *rand.Rand, d time.Duration) error {
	leader, err := w.someLeader()
	if err != nil {
		return err
	}
	return w.killed(d, w.others(leader)...)
}

func allKilled(w *world, _ *rand.Rand, d time.Duration) error {
	w.moment("leader killed")
	return w.killed(d, w.nodes...)
}

func killedAgain(w *world, r *rand.Rand, _ time.Duration) error {
	for range 4 {
		if err := w.killed(0, w.nodes...); err != nil {
			return err
		}
		last(time.Duration(300+r.IntN(1200)) * time.Millisecond)
	}
	return nil
}

// erased takes the disk of a follower away. With a blank one it is kept out until somebody says so.
func erased(w *world, _ *rand.Rand, _ time.Duration) error {
	leader, err := w.someLeader()
	if err != nil {
		return err
	}
	n := w.nodes[0] // not the one with the small disk, which is a mount point
	if leader == n {
		n = w.nodes[1]
	}
	if err := w.kill(n); err != nil {
		return err
	}
	if err := os.RemoveAll(filepath.Join(n.dir, "data")); err != nil {
		return err
	}
	for try := 0; ; try++ {
		out, code := w.concord("member", "replace", strconv.Itoa(n.id), "--reason", "its disk burnt", "--yes")
		if code == 0 {
			break
		}
		if try == 10 {
			return fmt.Errorf("member replace %d: exit code %d: %s", n.id, code, out)
		}
		last(500 * time.Millisecond)
	}
	return w.start(n)
}

func rolling(w *world, _ *rand.Rand, _ time.Duration) error {
	for _, n := range w.nodes {
		if err := n.End(syscall.SIGTERM, 20*time.Second); err != nil {
			return err
		}
		if n.Err() != nil {
			return fmt.Errorf("node %d did not end in order: %w", n.id, n.Err())
		}
		if err := w.start(n); err != nil {
			return err
		}
		if err := w.ready(patience); err != nil {
			return err
		}
	}
	return nil
}

// memberComesAndGoes adds a voter and removes it.
func memberComesAndGoes(w *world, _ *rand.Rand, d time.Duration) error {
	w.mu.Lock()
	id := 4 + w.members
	w.members++
	w.mu.Unlock()
	n := w.newNode(id)
	if err := w.write(n); err != nil {
		return err
	}
	if err := w.start(n); err != nil {
		return err
	}
	defer func() { _ = n.End(syscall.SIGKILL, patience) }()
	if out, code := w.concord("member", "add", strconv.Itoa(id), "--peer", n.peer, "--api", n.api, "--timeout",
		"40s"); code != 0 {
		return fmt.Errorf("member add %d: exit code %d: %s%s", id, code, out, tail(n.log))
	}
	last(d)
	if out, code := w.concord("member", "remove", strconv.Itoa(id), "--timeout", "40s"); code != 0 {
		return fmt.Errorf("member remove %d: exit code %d: %s", id, code, out)
	}
	select {
	case <-n.Done():
		return nil
	case <-time.After(patience):
		return fmt.Errorf("node %d runs on after it was removed", id)
	}
}

// cut sets faults between nodes for as long as it lasts; what was lost on the way ends the connections.
func (w *world) cut(d time.Duration, set func(leader *node)) error {
	leader, err := w.someLeader()
	if err != nil {
		return err
	}
	set(leader)
	last(d)
	w.healNodes()
	return nil
}

func leaderIsolated(w *world, _ *rand.Rand, d time.Duration) error {
	w.moment("leader isolated")
	return w.cut(max(d, 1500*time.Millisecond), func(leader *node) {
		for _, n := range w.others(leader) {
			w.between(leader, n, hole)
		}
	})
}

func oneWay(w *world, r *rand.Rand, d time.Duration) error {
	return w.cut(d, func(leader *node) { w.way(leader, w.others(leader)[r.IntN(2)], hole) })
}

func deafLeader(w *world, _ *rand.Rand, d time.Duration) error {
	return w.cut(d, func(leader *node) {
		for _, n := range w.others(leader) {
			w.way(n, leader, hole)
		}
	})
}

func bridge(w *world, _ *rand.Rand, d time.Duration) error {
	return w.cut(d, func(leader *node) {
		others := w.others(leader)
		w.between(others[0], others[1], hole)
	})
}

func flapping(w *world, r *rand.Rand, d time.Duration) error {
	for range max(5, d/(400*time.Millisecond)) {
		a := w.nodes[r.IntN(3)]
		err := w.cut(200*time.Millisecond, func(*node) {
			for _, n := range w.others(a) {
				w.between(a, n, hole)
			}
		})
		if err != nil {
			return err
		}
		last(200 * time.Millisecond)
	}
	return nil
}

func slow(w *world, _ *rand.Rand, d time.Duration) error {
	return w.cut(d, func(leader *node) {
		for _, n := range w.others(leader) {
			w.between(leader, n, faultproxy.Fault{Delay: 20 * time.Millisecond, Rate: 256 << 10})
		}
	})
}

func lateBytes(w *world, r *rand.Rand, d time.Duration) error {
	a, b := w.nodes[r.IntN(3)], w.nodes[r.IntN(3)]
	if a == b {
		b = w.others(a)[0]
	}
	w.links[[2]int{a.id, b.id}].Freeze()
	w.links[[2]int{b.id, a.id}].Freeze()
	last(max(d, 2*time.Second))
	w.healNodes()
	return nil
}

func agentKilled(w *world, _ *rand.Rand, d time.Duration) error {
	if !w.agent.Alive() {
		return fmt.Errorf("the agent had ended by itself: %v", w.agent.Err())
	}
	if err := w.agent.End(syscall.SIGKILL, patience); err != nil {
		return err
	}
	last(d)
	return w.startAgent()
}

func agentStopped(w *world, _ *rand.Rand, d time.Duration) error {
	if err := w.agent.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	last(d)
	return w.agent.Signal(syscall.SIGCONT)
}

func agentCut(w *world, r *rand.Rand, d time.Duration) error {
	l := []*faultproxy.Link{w.agents, w.dbs[desk].clients}[r.IntN(2)]
	return broken(d, []faultproxy.Fault{hole, wait}[r.IntN(2)], r.IntN(2) == 0, l)
}

// broken breaks links in one direction or both, and resets their connections when they heal.
func broken(d time.Duration, f faultproxy.Fault, both bool, links ...*faultproxy.Link) error {
	for _, l := range links {
		l.Set(faultproxy.Backward, f)
		if both {
			l.Set(faultproxy.Forward, f)
		}
	}
	last(d)
	for _, l := range links {
		l.Heal()
	}
	return nil
}

// pick takes a client process out of the list, to do something to it.
func (w *world) pick(r *rand.Rand) *clientProcess {
	w.mu.Lock()
	defer w.mu.Unlock()
	i := r.IntN(len(w.clients))
	c := w.clients[i]
	w.clients = slices.Delete(w.clients, i, i+1)
	return c
}

func clientKilled(w *world, r *rand.Rand, d time.Duration) error {
	c := w.pick(r)
	if !c.Alive() {
		return fmt.Errorf("%s had ended by itself: %v: %s", c.name, c.Err(), tail(w.path(c.name+".log")))
	}
	if err := c.End(syscall.SIGKILL, patience); err != nil {
		return err
	}
	last(d / 4)
	return w.startClient(workersOfOne, "")
}

func clientStopped(w *world, r *rand.Rand, _ time.Duration) error {
	c := w.pick(r)
	if err := c.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	last(7 * time.Second) // its lease has 5
	w.mu.Lock()
	w.clients = append(w.clients, c)
	w.mu.Unlock()
	return c.Signal(syscall.SIGCONT)
}

// answersLost lets requests get to the nodes, and no answer back.
func answersLost(w *world, r *rand.Rand, d time.Duration) error {
	a := r.IntN(3)
	links := []*faultproxy.Link{w.apis[a], w.apis[(a+1)%3]}
	for _, l := range links {
		l.Set(faultproxy.Backward, wait)
	}
	last(d)
	for _, l := range links {
		l.Cut()
		l.Heal()
	}
	return nil
}

func clientsCut(w *world, r *rand.Rand, d time.Duration) error {
	return broken(d, hole, true, w.apis[r.IntN(3)])
}

func databaseKilled(name string) func(*world, *rand.Rand, time.Duration) error {
	return func(w *world, _ *rand.Rand, d time.Duration) error {
		s := w.dbs[name].server
		if err := s.Kill(); err != nil {
			return err
		}
		last(d / 2)
		return s.Start()
	}
}

func databasePaused(name string) func(*world, *rand.Rand, time.Duration) error {
	return func(w *world, _ *rand.Rand, d time.Duration) error {
		s := w.dbs[name].server
		if err := s.Pause(); err != nil {
			return err
		}
		last(d)
		return s.Resume()
	}
}

func databaseCut(name string, nodes bool) func(*world, *rand.Rand, time.Duration) error {
	return func(w *world, r *rand.Rand, d time.Duration) error {
		l := w.dbs[name].clients
		if nodes {
			l = w.dbs[name].nodes
		}
		return broken(d, []faultproxy.Fault{hole, wait}[r.IntN(2)], r.IntN(2) == 0, l)
	}
}
