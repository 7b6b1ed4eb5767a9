// SPDX-License-Identifier: Apache-2.0

package txnsim

import (
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/coordinator/commit"
	"github.com/concordtx/concord/internal/sim"
	"github.com/concordtx/concord/participant"
	"github.com/concordtx/concord/protocol/threepc"
	"github.com/concordtx/concord/txn"
)

// Some seeds have agents, each with a database that nobody else reaches. Their cores are the ones of
// the product; journal, database and network are here. An agent may be killed at any time, which
// keeps what its journal has on the disk and what its database has prepared, and may be cut off
// from others and from the whole cluster, so that agents elect among themselves.

// agent is one agent, over all its lives.
type agent struct {
	w        *world
	i        int
	name     string
	resource string
	core     *participant.Core
	boot     int // counts its lives, and its deaths
	up       bool
	journal  map[txn.ID]participant.Entry
	waiting  []participant.Write // for the disk
	syncing  bool
	database map[txn.XID]*holding
	cut      map[int]sim.Instant // until when it hears nothing of an agent; -1 is the cluster
	call     participant.Call
	calls    map[participant.Call]func(participant.Effect)
}

// holding is a branch in the database of an agent.
type holding struct {
	xid       txn.XID
	state     state
	failed    bool // a statement failed
	preparing bool
}

const cluster = -1

// agentRules are short, so that elections happen within a run.
var agentRules = participant.Rules{InquireAfter: 500 * time.Millisecond, ElectAfter: time.Second,
	InquireMost: 4 * time.Second}

// agentNames are those of agents; the database of each has its name and "-db".
var agentNames = []string{"east", "west", "north"}

// openAgents gives some seeds agents. They draw from a generator of their own.
func (w *world) openAgents(seed uint64) {
	if seed%5 != 0 {
		return
	}
	w.fate = rand.New(rand.NewPCG(seed, 0x6167656e))
	w.quirks.Retention = 0 // of what the log has forgotten it tells nobody
	for i, name := range agentNames[:min(3, 1+w.fate.IntN(5))] {
		w.agents = append(w.agents, &agent{w: w, i: i, name: name, resource: name + "-db",
			journal:  map[txn.ID]participant.Entry{},
			database: map[txn.XID]*holding{}, cut: map[int]sim.Instant{}})
	}
}

// names are those of all resources.
func (w *world) names() []string {
	names := slices.Clone(resources)
	for _, a := range w.agents {
		names = append(names, a.resource)
	}
	if w.vault != nil {
		names = append(names, vaultName)
	}
	return names
}

// hosted returns the agent that holds the branches of a resource, nil if none does.
func (w *world) hosted(resource string) *agent {
	i := slices.IndexFunc(w.agents, func(a *agent) bool { return a.resource == resource })
	if i < 0 {
		return nil
	}
	return w.agents[i]
}

// startAgents lets agents, their applications and their faults begin.
func (w *world) startAgents() {
	for _, a := range w.agents {
		w.After(w.draw(100*sim.Millisecond), a.start)
	}
	if len(w.agents) == 0 {
		return
	}
	for range 1 + w.fate.IntN(4) {
		d := &driver{w: w}
		w.drivers = append(w.drivers, d)
		w.After(w.draw(sim.Second), d.begin)
	}
	if w.Swarm.Quiet {
		return
	}
	w.often(w.draw(3*sim.Second)+sim.Second/2, func() { w.anyAgent().kill() })
	w.often(w.draw(3*sim.Second)+sim.Second/2, func() { // two agents, or one and the cluster
		a, other := w.anyAgent(), w.fate.IntN(len(w.agents)+1)-1
		until := w.Now + w.draw(2*sim.Second)
		a.cut[other] = until
		if other != cluster {
			w.agents[other].cut[a.i] = until
		}
	})
	w.often(w.draw(20*sim.Second)+sim.Second, w.loseCluster)
}

// loseCluster cuts all agents off from the cluster.
func (w *world) loseCluster() {
	w.hit(ClusterLostToAgents)
	until := w.Now + w.draw(6*sim.Second)
	for _, a := range w.agents {
		a.cut[cluster] = until
	}
}

func (w *world) anyAgent() *agent { return w.agents[w.fate.IntN(len(w.agents))] }

// draw is roll for agents.
func (w *world) draw(mean sim.Instant) sim.Instant {
	return sim.Instant(min(w.fate.ExpFloat64(), 10)*float64(mean)) + 1
}

func (w *world) drawn(p float64) bool { return p > 0 && w.fate.Float64() < p }

func (a *agent) party() txn.Party {
	return txn.Party{PartyID: txn.PartyID{Agent: a.name, Journal: txn.JournalID{byte(a.i + 1)}}, Addr: a.name + ":7430"}
}

func (a *agent) life() participant.Life {
	return participant.Life{Journal: a.party().Journal, Epoch: participant.Epoch(a.boot)}
}

// later does something in this life.
func (a *agent) later(mean sim.Instant, do func()) {
	boot := a.boot
	a.w.After(a.w.draw(mean), func() {
		if a.up && a.boot == boot {
			do()
		}
	})
}

func (a *agent) start() {
	if a.up {
		return
	}
	if a.w.formed == 0 {
		a.w.After(200*sim.Millisecond, a.start)
		return
	}
	a.boot++
	a.up, a.syncing, a.waiting, a.calls = true, false, nil, map[participant.Call]func(participant.Effect){}
	var entries []participant.Entry
	for _, e := range a.journal {
		entries = append(entries, e)
	}
	slices.SortFunc(entries, func(x, y participant.Entry) int { return x.ID.Compare(y.ID) })
	a.core = participant.NewCore(a.name, agentRules, a.life(), a.w.formed, []string{a.resource}, entries)
	a.step(participant.Tick{Now: a.w.clock()})
	a.step(participant.Joined{Cluster: a.w.formed, MaxAge: rules.MaxTransaction})
	a.tick()
	a.scan()
}

func (a *agent) tick() {
	boot := a.boot
	a.w.After(100*sim.Millisecond, func() {
		if a.up && a.boot == boot {
			a.step(participant.Tick{Now: a.w.clock()})
			a.tick()
		}
	})
}

func (a *agent) scan() {
	a.later(500*sim.Millisecond, func() {
		l := participant.Listing{Resource: a.resource}
		for _, h := range a.listed() {
			l.XIDs = append(l.XIDs, h.xid)
		}
		a.step(l)
		a.scan()
	})
}

// listed is what the database shows as prepared.
func (a *agent) listed() (list []*holding) {
	for _, h := range a.database {
		if h.state == prepared {
			list = append(list, h)
		}
	}
	slices.SortFunc(list, func(x, y *holding) int { return x.xid.Compare(y.xid) })
	return list
}

// kill is kill -9 of the agent. What it had not prepared its database rolls back, but for a PREPARE
// that is on its way, which may be executed before the database notices.
func (a *agent) kill() {
	if !a.up {
		return
	}
	a.w.hit(AgentKilled)
	a.up = false
	a.boot++ // nobody hears of what is under way
	for _, h := range a.active() {
		if !h.preparing || a.w.drawn(0.5) {
			a.move(h, rolledBack)
		}
	}
	a.w.After(a.w.draw(2*sim.Second), a.start)
}

func (a *agent) active() (list []*holding) {
	for _, h := range a.database {
		if h.state == active {
			list = append(list, h)
		}
	}
	slices.SortFunc(list, func(x, y *holding) int { return x.xid.Compare(y.xid) })
	return list
}

func (a *agent) step(e participant.Event) {
	if !a.up {
		return
	}
	for _, f := range a.core.Step(e) {
		a.carry(f)
	}
}

// carry carries out what the core asked for, at once: it withholds what is not safe.
func (a *agent) carry(f participant.Effect) {
	switch f := f.(type) {
	case participant.Run:
		a.later(5*sim.Millisecond, func() { a.run(f) })
	case participant.Prepare:
		a.prepare(f)
	case participant.Finish:
		a.later(10*sim.Millisecond, func() { a.finish(f) })
	case participant.Write:
		a.waiting = append(a.waiting, f)
		a.sync()
	case participant.Say:
		a.say(f)
	case participant.Note:
		if f.Alarm {
			a.w.check.Fail("T3", "%s about %v: %s", a.name, f.ID, f.Text)
		}
	case participant.Answer:
		a.reply(f.Call, f)
	case participant.Ended:
		a.reply(f.Call, f)
	case participant.Refuse:
		a.reply(f.Call, f)
	}
}

// sync has the disk write what waits, all of it at once.
func (a *agent) sync() {
	if a.syncing || len(a.waiting) == 0 {
		return
	}
	a.syncing = true
	batch := a.waiting
	a.waiting = nil
	boot := a.boot
	keep := a.w.drawn(0.5) // of a batch that is under way when the agent dies
	a.w.After(a.w.draw(3*sim.Millisecond), func() {
		died := a.boot != boot
		if died && (a.up || a.boot > boot+1 || !keep) {
			return // it was not on the disk when the agent started again
		}
		var turn uint64
		for _, f := range batch {
			turn = max(turn, f.Turn)
			if len(f.Entry.Branches) == 0 {
				delete(a.journal, f.Entry.ID)
			} else {
				a.journal[f.Entry.ID] = f.Entry
			}
		}
		if !died {
			a.syncing = false
			a.sync()
			a.step(participant.Written{Turn: turn})
		}
	})
}

// move changes a branch in the database, and lets the checker look.
func (a *agent) move(h *holding, s state) {
	h.state = s
	t := a.w.check.threes[h.xid.ID]
	switch s {
	case committed:
		if t.decision == txn.Undecided && a.w.Now < a.cut[cluster] {
			a.w.hit(AgentsCommittedAlone)
		}
		a.w.check.noted(t, txn.Commit, a.name)
	case rolledBack:
		a.w.check.noted(t, txn.Abort, a.name)
	}
}

func (a *agent) run(f participant.Run) {
	h := a.database[f.Branch.XID]
	if f.Open && h == nil {
		h = &holding{xid: f.Branch.XID, state: active}
		a.database[h.xid] = h
	}
	done := participant.WorkDone{XID: f.Branch.XID, Number: f.Number}
	if h == nil || h.state != active || a.w.drawn(0.05) {
		done.Failed = "it failed"
		if h != nil {
			h.failed = true
		}
	}
	a.step(done)
}

// prepare is executed by the database even if the agent dies meanwhile.
func (a *agent) prepare(f participant.Prepare) {
	h, boot := a.database[f.Branch.XID], a.boot
	if h != nil {
		h.preparing = true
	}
	a.w.After(a.w.draw(10*sim.Millisecond), func() {
		v := participant.Voted{XID: f.Branch.XID, Reason: "there is no work"}
		if h != nil && h.state == active {
			if h.failed {
				a.move(h, rolledBack)
			} else {
				h.state = prepared
				v.Vote, v.Branch = txn.VoteYes,
					txn.Branch{No: f.Branch.XID.Branch, Resource: a.resource, Evidence: "evidence"}
			}
		}
		if a.up && a.boot == boot {
			a.step(v)
		}
	})
}

func (a *agent) finish(f participant.Finish) {
	if a.w.drawn(a.w.loss) {
		a.step(participant.FinishFailed{XID: f.Branch.XID, Why: "connection refused"})
		return
	}
	h := a.database[f.Branch.XID]
	found := txn.AlreadyDone
	switch {
	case f.Decision == txn.Commit && (h == nil || h.state != prepared && h.state != committed):
		a.w.check.Fail("T6", "%s wants to commit %v, which is not prepared", a.name, f.Branch.XID)
	case f.Decision == txn.Commit && h.state == prepared:
		a.move(h, committed)
		found = txn.Done
	case f.Decision == txn.Abort && h != nil && h.state == committed:
		a.w.check.Fail("T1", "%s wants to roll back %v, which is committed", a.name, f.Branch.XID)
	case f.Decision == txn.Abort && h != nil && !h.state.final():
		a.move(h, rolledBack)
		found = txn.Done
	}
	a.step(participant.Finished{XID: f.Branch.XID, Finish: found})
}

// hears reports whether something of an agent, or of the cluster, gets here now.
func (a *agent) hears(from int) bool { return a.w.Now >= a.cut[from] && !a.w.drawn(a.w.loss) }

// say brings a message to another member, once, or twice, or never.
func (a *agent) say(f participant.Say) {
	w := a.w
	for range 1 + w.fate.IntN(8)/7 {
		w.After(w.draw(w.Swarm.Latency), func() {
			if f.To.IsWitness() {
				if a.hears(cluster) { // what is cut is cut both ways
					w.Event(w.leaderOrAny(), asked{event: commit.Said{ID: f.ID, From: a.party(), Message: f.Message}})
				}
				return
			}
			w.letter(a, f.To.PartyID, f.ID, f.Message)
		})
	}
}

// letter brings a message to an agent, of another one or, with nil, of the cluster.
func (w *world) letter(from *agent, to txn.PartyID, id txn.ID, m threepc.Message) {
	i := slices.IndexFunc(w.agents, func(a *agent) bool { return a.party().PartyID == to })
	h := participant.Heard{Cluster: w.formed, ID: id, To: to, Message: m}
	of := cluster
	if from != nil {
		h.From, of = from.party(), from.i
	}
	if a := w.agents[i]; a.hears(of) {
		a.step(h)
	}
	if _, ok := m.(threepc.PreCommit); ok && from == nil && !w.Swarm.Quiet && !w.Healed && w.drawn(0.03) {
		w.loseCluster() // now, when it matters
	}
}

// request asks an agent something; one of hear and over is called, unless the answer is late.
func (w *world) ask(a *agent, event func(participant.Call) participant.Event, hear func(participant.Effect),
	over func()) {
	answered, gone := false, false
	w.After(w.draw(w.Swarm.Latency), func() {
		if !a.up || w.drawn(w.loss) {
			return
		}
		a.call++
		a.calls[a.call] = func(f participant.Effect) {
			w.After(w.draw(w.Swarm.Latency), func() {
				if !gone && !w.drawn(w.loss) {
					answered = true
					hear(f)
				}
			})
		}
		a.step(event(a.call))
	})
	w.After(400*sim.Millisecond, func() {
		if gone = true; !answered {
			over()
		}
	})
}

func (a *agent) reply(call participant.Call, f participant.Effect) {
	if hear := a.calls[call]; hear != nil {
		delete(a.calls, call)
		hear(f)
	}
}

var errAgent = errors.New("the agent does not answer")

// finishAtAgent is a recovery worker of a node.
func (w *world) finishAtAgent(a *agent, t commit.Task, post func(commit.Finished), fail func(error)) {
	w.ask(a, func(call participant.Call) participant.Event {
		return participant.Decided{Call: call, Branch: participant.Branch{XID: t.XID, Resource: a.resource},
			Decision: t.Decision, Record: t.Branch}
	}, func(f participant.Effect) {
		e, ended := f.(participant.Ended)
		if !ended {
			fail(f.(participant.Refuse).Err)
			return
		}
		post(commit.Finished{XID: t.XID, Finish: e.Finish, By: txn.FromCluster, Who: a.resource,
			Why: "said by its agent"})
	}, func() { fail(errAgent) })
}

// listAtAgent is a scan of a node.
func (w *world) listAtAgent(a *agent) commit.Listed {
	if !a.up || !a.hears(cluster) {
		return commit.Listed{Resource: a.resource, Err: errAgent}
	}
	l := commit.Listed{Resource: a.resource}
	seen := map[txn.XID]bool{}
	for _, s := range a.core.States(txn.ID{}) {
		if s.Phase == "in-doubt" || s.Phase == "listed" {
			seen[s.Branch.XID] = true
			l.Listing = append(l.Listing, adapters.Prepared{XID: s.Branch.XID})
		}
	}
	for _, h := range a.listed() {
		if !seen[h.xid] {
			l.Listing = append(l.Listing, adapters.Prepared{XID: h.xid})
		}
	}
	return l
}

// healAgents ends all faults of agents, and unfinished says what they have left.
func (w *world) healAgents() {
	for _, a := range w.agents {
		clear(a.cut)
		a.start()
	}
}

func (w *world) unfinished() string {
	for _, s := range w.services {
		for _, p := range s.inOrder() {
			return "a service takes part in " + p.ghost.id.String()
		}
	}
	for _, d := range w.drivers {
		if d.busy {
			return "an application waits for " + d.t.id.String()
		}
	}
	for _, a := range w.agents {
		if !a.up {
			return a.name + " is down"
		}
		for _, list := range [][]*holding{a.listed(), a.active()} {
			if len(list) > 0 {
				return a.name + " holds " + list[0].xid.String() + " in state " + []string{"absent", "active",
					"prepared"}[list[0].state] + ": " + a.core.String()
			}
		}
		for _, s := range a.core.States(txn.ID{}) {
			if s.Phase != "ended" {
				return a.name + " has " + s.Branch.XID.String() + " " + s.Phase
			}
		}
	}
	return ""
}
