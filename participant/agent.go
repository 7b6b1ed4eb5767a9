// SPDX-License-Identifier: Apache-2.0

package participant

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/api/member"
	"github.com/concordtx/concord/participant/statement"
	"github.com/concordtx/concord/txn"
)

// Cluster is what an agent needs of the coordinators.
type Cluster interface {
	// Identify asks which cluster it is, and how old a transaction may become there before its
	// prepared branches count as orphans.
	Identify(ctx context.Context) (txn.ClusterID, time.Duration, error)
	// Decision asks what a transaction was decided to become, and which branches its record has.
	// Without settle the question changes nothing, and the answer may be Undecided; with it a
	// transaction that nobody has decided is aborted. A cluster that is not of refuses.
	Decision(ctx context.Context, of txn.ClusterID, id txn.ID, settle bool) (txn.Decision, []txn.Branch, error)
	// Finished reports a branch that was finished.
	Finished(ctx context.Context, x txn.XID, f txn.Finish) error
}

// Config is what an agent is told. Rules, Scan and Logger have defaults.
type Config struct {
	Name      string
	DataDir   string // of the journal
	Databases []statement.Database
	Cluster   Cluster
	// Addr is where coordinators and other agents find this one, host:port.
	Addr string
	// Deliver carries messages to other members of three-phase transactions; to the cluster where
	// the address is empty.
	Deliver member.Deliver
	Rules   Rules
	// Scan is the interval at which the databases are asked for prepared branches. Default 5 s.
	Scan   time.Duration
	Logger *slog.Logger
}

const (
	tickInterval = 100 * time.Millisecond
	// DefaultTimeout and MaxTimeout bound one piece of work.
	DefaultTimeout, MaxTimeout = 10 * time.Second, 5 * time.Minute
	// voteTime, finishTime, listTime and askTime bound one attempt of each.
	voteTime, finishTime, listTime, askTime = 30 * time.Second, 30 * time.Second, 30 * time.Second, 10 * time.Second
	// stopTime is how long the end of an agent may take, to roll back what is open.
	stopTime = 10 * time.Second
	// letGoTime is how long it may then take to end the sessions that are left.
	letGoTime = 3 * time.Second
	// maxEvents wait for the loop; who brings one more waits.
	maxEvents = 1024
	// maxQuestions to the cluster are under way; one more is asked later, or a report is lost.
	maxQuestions = 64
	defaultScan  = 5 * time.Second
)

// Agent hosts databases. Run owns the core; all other methods may be called concurrently while it
// runs.
type Agent struct {
	conf    Config
	log     *slog.Logger
	journal *Journal
	life    Life
	hosted  map[string]statement.Database

	core       *Core // owned by loop
	events     chan Event
	queries    chan func(*Core)
	closed     chan struct{} // once the loop has ended
	questions  chan struct{} // a token for each question to the cluster
	workers    sync.WaitGroup
	working    context.Context // of workers; ends with the loop
	endWorkers context.CancelFunc
	sender     *member.Sender
	cluster    atomic.Uint32 // txn.ClusterID; 0: not known yet
	calls      atomic.Uint64

	mu       sync.Mutex // guards what follows; a leaf
	waiting  map[Call]chan Effect
	sessions map[txn.XID]*slot
}

// slot is the place of a session, from the moment when the core asks for it.
type slot struct {
	ready    chan struct{} // closed when the session was begun, or was not
	session  statement.Session
	prepared bool // it voted yes, and no abort was tried; known to its workers, one at a time, and when they have ended
}

// Open opens the journal, and with it the next life of the agent. It asks no database and no
// coordinator. The errors are those of OpenJournal.
func Open(conf Config) (*Agent, error) {
	if conf.Logger == nil {
		conf.Logger = slog.Default()
	}
	if conf.Scan <= 0 {
		conf.Scan = defaultScan
	}
	journal, err := OpenJournal(conf.DataDir, conf.Name, JournalOptions{Logger: conf.Logger})
	if err != nil {
		return nil, err
	}
	entries, err := journal.Entries()
	if err != nil {
		return nil, errors.Join(err, journal.Close())
	}
	a := &Agent{
		conf: conf, log: conf.Logger, journal: journal, life: Life{journal.ID(), journal.Epoch()},
		hosted: map[string]statement.Database{}, events: make(chan Event, maxEvents), queries: make(chan func(*Core)),
		closed: make(chan struct{}), questions: make(chan struct{}, maxQuestions),
		waiting: map[Call]chan Effect{}, sessions: map[txn.XID]*slot{},
	}
	var names []string
	for _, d := range conf.Databases {
		a.hosted[d.Name()] = d
		names = append(names, d.Name())
	}
	for _, e := range entries {
		for _, v := range e.Branches {
			if a.hosted[v.Branch.Resource] == nil {
				return nil, errors.Join(fmt.Errorf("journal %s: transaction %v has a branch in resource %q, which "+
					"is not among \"resources\": put it back until \"concord tx ls\" shows the transaction as finished",
					conf.DataDir, e.ID, v.Branch.Resource), journal.Close())
			}
		}
	}
	a.working, a.endWorkers = context.WithCancel(context.Background())
	a.core = NewCore(conf.Name, conf.Rules, a.life, journal.Cluster(), names, entries)
	a.cluster.Store(uint32(journal.Cluster()))
	a.sender = member.NewSender(conf.Deliver, conf.Logger)
	return a, nil
}

// Life says which life of which agent this is.
func (a *Agent) Life() Life { return a.life }

// Name is the name of the agent.
func (a *Agent) Name() string { return a.conf.Name }

// Rules are those in force.
func (a *Agent) Rules() Rules { return a.conf.Rules.withDefaults() }

// Databases are those that the agent hosts.
func (a *Agent) Databases() []statement.Database { return a.conf.Databases }

// Run works until ctx ends: then it rolls back what is not prepared, lets go of the sessions of what
// is, and closes the journal. It returns an error if the agent cannot go on.
func (a *Agent) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	writes, wrote := make(chan []Write, 1), make(chan uint64, 1)
	g.Go(func() error {
		defer close(writes)
		return a.loop(ctx, writes, wrote)
	})
	g.Go(func() error { return a.write(writes, wrote) })
	g.Go(func() error { return a.join(ctx) })
	for _, d := range a.conf.Databases {
		g.Go(func() error { a.scan(ctx, d); return nil })
	}
	err := g.Wait()
	a.workers.Wait()
	a.letGo()
	a.sender.Close()
	return errors.Join(err, a.journal.Close())
}

// loop owns the core. It ends some time after ctx.
func (a *Agent) loop(ctx context.Context, writes chan<- []Write, wrote <-chan uint64) error {
	defer a.close()
	ticker := time.NewTicker(tickInterval)
	defer ticker.Stop()
	var next []Write // wait for the journal
	var busy bool    // the journal has others
	var over <-chan time.Time
	done := ctx.Done()
	step := func(e Event) { next = append(next, a.carry(a.core.Step(e))...) }
	step(Tick{Now: time.Now()})
	for {
		var out chan<- []Write
		if !busy && len(next) > 0 {
			out = writes
		}
		select {
		case e := <-a.events:
			step(e)
			for n := len(a.events); n > 0; n-- { // what waits shares a force
				step(<-a.events)
			}
		case q := <-a.queries:
			q(a.core)
		case now := <-ticker.C:
			step(Tick{Now: now})
		case out <- next:
			next, busy = nil, true
		case turn := <-wrote:
			busy = false
			if turn > 0 {
				step(Written{Turn: turn})
			}
		case <-done:
			done, over = nil, time.After(stopTime)
			step(Stop{})
		case <-over:
			a.log.Warn("the agent ends with branches that could not be rolled back in time; it tries once more")
			return nil
		}
		if over != nil && !busy && len(next) == 0 && a.core.Quiet() {
			return nil
		}
	}
}

// write is the goroutine of the journal. All writes that came while it wrote share the next force. It
// answers each list with its last turn.
func (a *Agent) write(lists <-chan []Write, wrote chan<- uint64) error {
	for list := range lists {
		if err := a.journal.Apply(list); err != nil {
			return fmt.Errorf("write the journal: %w; check the disk, then start the agent again", err)
		}
		var turn uint64
		for _, w := range list {
			turn = max(turn, w.Turn)
		}
		wrote <- turn // has room: the loop gives no other before it has taken this
	}
	return nil
}

// close answers everybody who still waits, and cuts the workers short.
func (a *Agent) close() {
	close(a.closed)
	a.endWorkers()
}

// letGo ends the sessions, when nobody uses them any more: a branch that voted yes stays prepared, and all others are
// rolled back. Databases are not closed while they have lent a connection.
func (a *Agent) letGo() {
	ctx, cancel := context.WithTimeout(context.Background(), letGoTime)
	defer cancel()
	a.mu.Lock()
	left := maps.Clone(a.sessions)
	a.mu.Unlock()
	var ending sync.WaitGroup
	for x, s := range left {
		switch {
		case s.session == nil:
		case s.prepared:
			s.session.Abandon()
		default:
			ending.Go(func() {
				if err := s.session.Rollback(ctx); !adapters.Ended(err) {
					a.log.Warn("a branch could not be rolled back at the end of the agent; its database does it when "+
						"the connection is closed", "gid", x.ID.String(), "err", err)
				}
			})
		}
	}
	ending.Wait()
}

// join finds out which cluster it is, and whether it still is the one that the journal knows.
func (a *Agent) join(ctx context.Context) error {
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		asking, cancel := context.WithTimeout(ctx, askTime)
		id, maxAge, err := a.conf.Cluster.Identify(asking)
		cancel()
		if err == nil {
			if err := a.journal.Join(id); err != nil {
				return err
			}
			a.log.Info("the agent belongs to a cluster", "cluster", id.String())
			a.cluster.Store(uint32(id))
			a.send(Joined{Cluster: id, MaxAge: maxAge})
			return nil
		}
		a.log.Debug("the coordinators do not say which cluster they are", "err", err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil
		}
	}
}

// scan lists the prepared branches of a database, now and then.
func (a *Agent) scan(ctx context.Context, d statement.Database) {
	ticker := time.NewTicker(a.conf.Scan)
	defer ticker.Stop()
	for {
		listing, cancel := context.WithTimeout(ctx, listTime)
		list, err := d.Recover(listing)
		cancel()
		if err != nil && ctx.Err() == nil {
			a.log.Warn("could not list the prepared branches of a database; it will be tried "+
				"again", "resource", d.Name(),
				"err", err)
		}
		if err == nil {
			l := Listing{Resource: d.Name()}
			for _, p := range list {
				l.XIDs = append(l.XIDs, p.XID)
			}
			a.send(l)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// send gives the loop an event, unless it has ended.
func (a *Agent) send(e Event) {
	select {
	case a.events <- e:
	case <-a.closed:
	}
}
