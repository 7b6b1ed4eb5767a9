// SPDX-License-Identifier: Apache-2.0

package zab

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/stretchr/testify/require"
)

// TestTraces runs the stories in testdata. Commands, with n1 for a node, n1->n2 for a
// direction, and everything that the nodes do in return printed:
//
//	cluster voters=3 observers=1     a new cluster, all nodes started, nothing sent yet; with
//	                                 window=, batch= and uncommitted= in bytes
//	tick n1 3                        time for one node, or for "all"
//	deliver [n1->n2 [k]]             messages arrive: all there are, of one wire, or k of them
//	persist n1 [k], apply n1         the oldest writes become durable; deliveries are applied
//	settle, run 5                    everything arrives; that after each of 5 ticks. Prints no messages
//	drop n1->n2 [k], cut n1 n2, heal messages are lost without notice, once or from now on
//	lost n1 n2                       n1 is told that its connection to n2 is gone
//	stall n1                         its disk does nothing until heal
//	pause n1, resume n1              a process that is stopped: no ticks, messages wait
//	resign n1                        it should not lead any more
//	crash n1, start n1               what was not persisted is gone
//	propose n1 voters=12             a change of the members; "voters=12 observers=3" in quotes
//	learn n1 n2                      n1 hears of the members that are in force at n2
//	transfer n1 n2                   n1 hands over to n2
//	keep n1->n2 [k], replay          the first messages of a wire arrive a second time, later
//	propose n1 x, read n1 [7], status, disk n1 (a read with an ID of the caller's choice)
//	compact n1 1.3 [1.2]             the driver would like to cut up to 1.3, and must up to 1.2
//	take n1, stage n1 [1.3]          the snapshot that n1 fetches is taken; is there (one of 1.3)
//	fail n1, moved n1 n2             it is not; bytes of it went between n1 and n2
//	promise n1 8                     the disk of a node that is down: Accepted, promised to itself
//	wipe n1                          the disk of a node that is down is replaced by a blank one
//	begin 4.7                        the disks of all nodes, which are down, hold a snapshot of 4.7
//	skip 1.9                         all nodes are there: everything up to 1.9 is applied and cut
//
// Traces that the exhaustive search prints have an oracle in place of the election:
//
//	cluster ballots=0 started=0      ballots of the nodes go nowhere; all nodes are down
//	cluster sync=1 init=2            SyncTicks and InitTicks
//	elect n1, follow n2 n1           forged ballots make n1 lead, and n2 follow it
//	crash n1 2, start n1 anew        two writes got as far as the disk; nothing is applied
//	replay now                       what was kept arrives before what is on the wire
//
// The ghost watches every story: a trace that breaks an invariant fails, whatever its text
// says.
func TestTraces(t *testing.T) {
	datadriven.Walk(t, "testdata/traces", func(t *testing.T, path string) {
		s := &story{}
		datadriven.RunTest(t, path, s.run)
	})
}

// Scenarios have numbers, in the names of their files; a scenario that needs several has
// letters behind the number. Stories without a number are extra.
func TestEveryScenarioHasATraceThatSaysWhatItIs(t *testing.T) {
	const scenarios = 26
	paths, err := filepath.Glob("testdata/traces/*.txt")
	require.NoError(t, err)
	told := map[int]bool{}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		require.True(t, strings.HasPrefix(string(text), "# "), "%s begins with what happens", path)
		var number int
		if _, err := fmt.Sscanf(filepath.Base(path), "%02d", &number); err == nil {
			told[number] = true
		}
	}
	for number := 1; number <= scenarios; number++ {
		require.True(t, told[number], "scenario %02d has no trace", number)
	}
	require.Len(t, told, scenarios)
}

const all = 1 << 20

type story struct {
	*cluster
	*ghost
	out   strings.Builder
	quiet bool
	kept  []wireMessage
	// asked are the reads under way of each ID, which a caller may use twice: how much was
	// committed when they were asked for.
	asked map[asking][]int

	mute   bool // ballots go nowhere
	forged map[NodeID]uint64
}

// forge gives a host a ballot that nobody sent.
func (s *story) forge(h, from *host, state Role, leader *host) {
	n := s.forged[h.cfg.ID] << 40
	s.step(h, Received{Message{From: from.cfg.ID, To: h.cfg.ID, Body: Ballot{
		Seq: n, Round: n, State: state, Vote: Vote{Leader: leader.cfg.ID},
	}}})
}

func (s *story) run(t *testing.T, d *datadriven.TestData) string {
	s.out.Reset()
	s.quiet = d.Cmd == "run" || d.Cmd == "settle"
	var args []string
	for _, a := range d.CmdArgs {
		args = append(args, a.String())
	}
	if err := s.command(d.Cmd, args); err != nil {
		d.Fatalf(t, "%v", err)
	}
	s.survey()
	if len(s.errs) > 0 {
		d.Fatalf(t, "%s", strings.Join(s.errs, "\n"))
	}
	if s.out.Len() == 0 {
		return "nothing\n"
	}
	return s.out.String()
}

func (s *story) command(cmd string, args []string) error {
	arg := func(i int) string {
		if i < len(args) {
			return args[i]
		}
		return ""
	}
	count := func(i, otherwise int) int {
		if k, err := strconv.Atoi(arg(i)); err == nil {
			return k
		}
		return otherwise
	}
	switch cmd {
	case "cluster":
		return s.create(args)
	case "settle":
		s.settle()
		return nil
	case "run":
		s.cluster.run(count(0, 1))
		return nil
	case "deliver":
		s.arrive(arg(0), count(1, all))
		return nil
	case "drop":
		from, to := wireOf(arg(0))
		k := min(count(1, all), len(s.wires[from][to]))
		s.wires[from][to] = s.wires[from][to][k:]
		fmt.Fprintf(&s.out, "%d lost\n", k)
		return nil
	case "heal":
		for i, h := range s.hosts {
			clear(s.cut[i])
			h.stalled = false
		}
		return nil
	case "keep":
		from, to := wireOf(arg(0))
		for _, bytes := range s.wires[from][to][:min(count(1, 1), len(s.wires[from][to]))] {
			s.kept = append(s.kept, wireMessage{from, to, bytes})
		}
		return nil
	case "replay":
		if arg(0) == "now" {
			last := s.kept[len(s.kept)-1]
			m, err := DecodeMessage(last.bytes)
			s.step(s.hosts[last.to], Received{m})
			return err
		}
		for _, m := range s.kept {
			s.wires[m.from][m.to] = append(s.wires[m.from][m.to], m.bytes)
		}
		s.kept = nil
		return nil
	case "begin":
		s.begin(zxidOf(arg(0)))
		return nil
	case "skip":
		s.skip(zxidOf(arg(0)))
		return nil
	case "status":
		for _, h := range s.hosts {
			if h.core == nil {
				fmt.Fprintf(&s.out, "n%d is down\n", h.cfg.ID)
				continue
			}
			fmt.Fprintln(&s.out, h.core)
		}
		return nil
	case "tick":
		for _, h := range s.hosts {
			if arg(0) == "all" || h == s.host(arg(0)) {
				for range count(1, 1) {
					s.step(h, Tick{})
				}
			}
		}
		return nil
	}
	return s.commandAt(cmd, s.host(arg(0)), arg(1), arg(2), count(1, all))
}

// commandAt runs a command whose first argument is a node.
func (s *story) commandAt(cmd string, h *host, arg, last string, k int) error {
	switch cmd {
	case "persist":
		s.persist(h, k)
	case "apply":
		for s.apply(h) {
			continue
		}
	case "cut":
		i, j := h.cfg.ID-1, s.host(arg).cfg.ID-1
		s.cut[i][j], s.cut[j][i] = true, true
		s.wires[i][j], s.wires[j][i] = nil, nil
	case "stall":
		h.stalled = true
	case "pause", "resume":
		h.paused = cmd == "pause"
	case "wipe":
		h.disk = &disk{}
	case "resign":
		s.step(h, Resigned{Reason: "asked to"})
	case "lost":
		s.step(h, PeerLost{s.host(arg).cfg.ID})
	case "elect":
		s.forged[h.cfg.ID]++
		for _, o := range s.hosts {
			if o != h {
				s.forge(h, o, Looking, h)
			}
		}
	case "follow":
		s.forged[h.cfg.ID]++
		s.forge(h, s.host(arg), Leading, s.host(arg))
	case "crash":
		for _, w := range h.writes[:min(k%all, len(h.writes))] {
			h.disk.do(w)
			h.writes = h.writes[1:]
		}
		fmt.Fprintf(&s.out, "n%d loses %d writes\n", h.cfg.ID, len(h.writes))
		s.crash(h)
	case "start":
		if arg == "anew" {
			h.disk.applied = Zxid{}
		}
		s.forged[h.cfg.ID] = 0
		return s.start(h)
	case "learn":
		s.step(h, Learned{Set: s.host(arg).core.Status().Set})
	case "transfer":
		s.step(h, Transfer{To: s.host(arg).cfg.ID})
	case "propose":
		s.propose(h, arg)
	case "read":
		h.asked++
		id := h.asked
		if arg != "" {
			id, _ = strconv.ParseUint(arg, 10, 64)
		}
		s.ask(h, id)
	case "compact":
		ev := Compact{Upto: zxidOf(arg), Must: zxidOf(last)}
		s.step(h, ev)
	case "take":
		s.take(h)
	case "stage":
		if f := h.fetch; arg != "" && f != nil {
			f.taken = &Snapshot{Zxid: zxidOf(arg)}
		}
		s.stage(h)
	case "fail":
		s.failFetch(h, "the connection broke")
	case "moved":
		o := s.host(arg)
		for _, x := range []*host{h, o} {
			for _, f := range []*fetch{h.fetch, o.fetch} {
				if f != nil {
					s.step(x, SnapshotMoved{Peer: h.cfg.ID + o.cfg.ID - x.cfg.ID, Session: f.session})
				}
			}
		}
	case "promise":
		h.disk.hard.Accepted, h.disk.hard.AcceptedFrom = Epoch(k), h.cfg.ID
	case "disk":
		fmt.Fprintf(&s.out, "n%d promised %d current %d", h.cfg.ID, h.disk.hard.Accepted, h.disk.hard.Current)
		if !h.disk.base.IsZero() {
			fmt.Fprintf(&s.out, " base %s", h.disk.base)
		}
		fmt.Fprintf(&s.out, " log%s\n", zxids(h.disk.log))
	default:
		return fmt.Errorf("no command %q", cmd)
	}
	return nil
}

func (s *story) create(args []string) error {
	voters, observers, ballots, started := 3, 0, 1, 1
	var window, batch, uncommitted, syncTicks, initTicks int
	settings := map[string]*int{
		"voters": &voters, "observers": &observers, "ballots": &ballots, "started": &started,
		"window": &window, "batch": &batch, "uncommitted": &uncommitted, "sync": &syncTicks, "init": &initTicks,
	}
	for _, a := range args {
		name, value, _ := strings.Cut(a, "=")
		k, err := strconv.Atoi(value)
		if err != nil || settings[name] == nil {
			return fmt.Errorf("no setting %q", a)
		}
		*settings[name] = k
	}
	s.cluster = newCluster(voters, observers, func(c *Config) {
		c.WindowBytes, c.MaxBatchBytes, c.MaxUncommittedBytes = window, batch, uncommitted
		c.SyncTicks, c.InitTicks = syncTicks, initTicks
	})
	s.mute, s.forged = ballots == 0, map[NodeID]uint64{}
	s.ghost, s.asked, s.kept = watch(s.cluster), map[asking][]int{}, nil
	s.observe = s.see
	for _, h := range s.hosts {
		if started == 0 {
			break
		}
		if err := s.start(h); err != nil {
			return err
		}
	}
	return nil
}

// see shows an effect to the ghost, and prints it.
func (s *story) see(h *host, e Effect) {
	var id uint64
	switch e := e.(type) {
	case ReadReady:
		id = e.ID
	case ReadFailed:
		id = e.ID
	}
	if k := (asking{h.cfg.ID, id}); id != 0 && len(s.asked[k]) > 0 { // answered in order
		s.atAsk[k] = s.asked[k][0]
		s.asked[k] = s.asked[k][1:]
	}
	s.look(h)
	s.effect(h, e)
	s.print(h, e)
}

func (s *story) ask(h *host, id uint64) {
	k := asking{h.cfg.ID, id}
	s.asked[k] = append(s.asked[k], len(s.global))
	s.step(h, ReadAsked{id})
}

// begin lets the committed history of all nodes begin after a snapshot of z.
func (s *story) begin(z Zxid) {
	s.global, s.by, s.place[z] = []Entry{{Zxid: z}}, []Epoch{z.Epoch}, 1
	for _, h := range s.hosts {
		h.disk.hard = HardState{Accepted: z.Epoch, AcceptedFrom: 1, Current: z.Epoch}
		h.disk.base, h.disk.applied = z, z
	}
}

// skip moves a quiet cluster to where so many entries that they cannot be proposed one by
// one would have brought it.
func (s *story) skip(z Zxid) {
	s.global, s.by, s.place[z] = []Entry{{Zxid: z}}, []Epoch{z.Epoch}, 1
	for _, h := range s.hosts {
		n := h.core
		h.disk.base, h.disk.applied, h.disk.log = z, z, nil
		h.from, h.machine = z, nil
		n.base, n.history = z, history{after: z}
		n.stable, n.commit, n.delivered, n.applied = z, z, z, z
		if n.follow != nil {
			n.follow.acked, n.follow.commit = z, z
		}
		if n.lead != nil {
			for i := range n.lead.peers {
				p := &n.lead.peers[i]
				p.start, p.sent, p.end, p.acked, p.match = z, z, z, z, z
			}
		}
	}
}

func (s *story) host(name string) *host {
	k, err := strconv.Atoi(strings.TrimPrefix(name, "n"))
	if err != nil || k < 1 || k > len(s.hosts) {
		panic("no node " + name)
	}
	return s.hosts[k-1]
}

// zxidOf reads "1.3"; nothing is the zero zxid.
func zxidOf(text string) (z Zxid) {
	if _, err := fmt.Sscanf(text, "%d.%d", &z.Epoch, &z.Counter); err != nil && text != "" {
		panic("no zxid " + text)
	}
	return z
}

func wireOf(text string) (from, to int) {
	if _, err := fmt.Sscanf(text, "n%d->n%d", &from, &to); err != nil {
		panic("no wire " + text)
	}
	return from - 1, to - 1
}

// arrive delivers what is on the wires now, not the answers to it.
func (s *story) arrive(wire string, k int) {
	lengths := map[[2]int]int{}
	for i := range s.hosts {
		for j := range s.hosts {
			lengths[[2]int{i, j}] = len(s.wires[i][j])
		}
	}
	for i := range s.hosts {
		for j := range s.hosts {
			if wire != "" {
				if from, to := wireOf(wire); from != i || to != j {
					continue
				}
			}
			for range min(k, lengths[[2]int{i, j}]) {
				s.deliver(i, j)
			}
		}
	}
}

func (s *story) print(h *host, e Effect) {
	if m, ok := e.(Send); ok {
		if _, ballot := m.Message.Body.(Ballot); ballot && s.mute {
			wire := &s.wires[m.Message.From-1][m.Message.To-1]
			if n := len(*wire); s.hosts[m.Message.To-1].core != nil {
				*wire = (*wire)[:n-1]
			}
			return
		}
		if s.quiet {
			return
		}
	}
	if _, ok := e.(Write); ok && s.quiet {
		return
	}
	fmt.Fprintf(&s.out, "n%d %s\n", h.cfg.ID, effectText(e))
}

func effectText(e Effect) string {
	switch e := e.(type) {
	case Send:
		return fmt.Sprintf("-> n%d %s", e.Message.To, bodyText(e.Message))
	case Write:
		return "writes" + writeText(e)
	case Deliver:
		return "delivers" + zxids(e.Entries)
	case Restored:
		return fmt.Sprintf("begins anew from a snapshot of %s", e.Snapshot.Zxid)
	case SendSnapshot:
		return fmt.Sprintf("lets n%d fetch a snapshot in session %x", e.To, e.Session)
	case FetchSnapshot:
		return fmt.Sprintf("fetches a snapshot from n%d in session %x", e.From, e.Session)
	case RoleChanged:
		text := fmt.Sprintf("is %s", e.Role)
		if e.Leader != 0 {
			text += fmt.Sprintf(" n%d epoch %d, %s", e.Leader, e.Epoch, e.Phase)
		}
		if e.Established {
			text += ", established"
		}
		return text + ": " + e.Reason
	case Accepted:
		return fmt.Sprintf("accepts %s", e.Zxid)
	case Refused:
		return fmt.Sprintf("refuses: %v", e.Err)
	case Dropped:
		return fmt.Sprintf("does not know the fate of its entries after %s", e.After)
	case ReadReady:
		return fmt.Sprintf("serves read %d at %s", e.ID, e.Index)
	case ReadFailed:
		return fmt.Sprintf("fails read %d", e.ID)
	case Note:
		return "notes: " + e.Text
	}
	return fmt.Sprintf("%T", e)
}

func bodyText(m Message) string {
	switch b := m.Body.(type) {
	case Ballot:
		return fmt.Sprintf("Ballot round %d %s for n%d (%d, %s)", b.Round, b.State, b.Vote.Leader, b.Vote.Epoch,
			b.Vote.Last)
	case Propose:
		return fmt.Sprintf("Propose%s commit %s", zxids(b.Entries), b.Commit)
	case Inform:
		return "Inform" + zxids(b.Entries)
	case FollowerInfo:
		return fmt.Sprintf("FollowerInfo %+v session %x", b, m.Session)
	}
	return strings.TrimPrefix(fmt.Sprintf("%T %+v epoch %d", m.Body, m.Body, m.Epoch), "zab.")
}

func writeText(w Write) string {
	text := fmt.Sprintf(" #%d", w.ID)
	if w.TruncateAfter != nil {
		text += fmt.Sprintf(" truncate after %s", *w.TruncateAfter)
	}
	if len(w.Entries) > 0 {
		text += " append" + zxids(w.Entries)
	}
	if w.Cut != nil {
		text += fmt.Sprintf(" cut up to %s", *w.Cut)
	}
	if w.Install != nil {
		text += fmt.Sprintf(" install the snapshot of %s", w.Install.Zxid)
	}
	if w.Hard != nil {
		text += fmt.Sprintf(" promised %d to n%d, current %d", w.Hard.Accepted, w.Hard.AcceptedFrom, w.Hard.Current)
	}
	return text
}

func zxids(entries []Entry) string {
	var b strings.Builder
	for _, e := range entries {
		fmt.Fprintf(&b, " %s", e.Zxid)
		if len(e.Data) > 0 {
			fmt.Fprintf(&b, "(%s)", e.Data)
		}
	}
	return b.String()
}
