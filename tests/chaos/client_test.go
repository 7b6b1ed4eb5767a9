// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/adapters"
)

// clientEnv holds the order of a client process: the test binary, run again.
const clientEnv = "CONCORD_CHAOS_CLIENT"

// clientOrder says what a client process works with, and where it writes what it was told.
type clientOrder struct {
	Name    string
	Addrs   []string          // of the nodes
	DSNs    map[string]string // of the SQL databases
	Agent   string
	Diary   string
	Workers int
	Seed    uint64
	Kinds   string // the only kind of work; empty: all
}

// limit is the time limit of each transaction.
const limit = 8 * time.Second

// runClient works until its stdin ends, or until it is killed.
func runClient(text string) int {
	var order clientOrder
	err := json.Unmarshal([]byte(text), &order)
	if err == nil {
		err = order.run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func (o clientOrder) run() error {
	places, err := o.open()
	if err != nil {
		return err
	}
	d, err := openDiary(o.Diary)
	if err != nil {
		return err
	}
	over := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(over)
	}()
	var client *concord.Client
	for client == nil { // nodes may be down just now
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		client, err = concord.Dial(ctx, o.Addrs, concord.WithLogger(slog.New(slog.NewTextHandler(os.Stderr, nil))))
		cancel()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			select {
			case <-over:
				return nil
			case <-time.After(100 * time.Millisecond):
			}
		}
	}
	var group sync.WaitGroup
	for i := range o.Workers {
		w := &worker{name: fmt.Sprintf("%s.%d", o.Name, i), number: i, client: client, places: places, diary: d,
			over: over, rng: rand.New(rand.NewPCG(o.Seed, uint64(i))), only: o.Kinds}
		group.Go(w.work)
	}
	group.Wait()
	return client.Close()
}

func (o clientOrder) open() (map[string]place, error) {
	places := map[string]place{}
	for _, open := range []struct {
		name string
		open func(string, string) (place, error)
		at   string
	}{
		{orders, openPostgres, o.DSNs[orders]}, {billing, openMySQL, o.DSNs[billing]},
		{stock, openMySQL, o.DSNs[stock]},
		{desk, openAgent, o.Agent}, {ledger, openAgent, o.Agent},
	} {
		p, err := open.open(open.name, open.at)
		if err != nil {
			return nil, err
		}
		places[open.name] = p
	}
	return places, nil
}

// worker does one transaction after the other.
type worker struct {
	name   string
	number int
	client *concord.Client
	places map[string]place
	diary  *diary
	over   chan struct{}
	rng    *rand.Rand
	only   string
	past   []string // gids, the last ones
}

// kinds are what a worker does, by weight.
var kinds = []struct {
	name   string
	weight int
	do     func(*worker)
}{
	{"transfer", 34, (*worker).transfer},
	{"unique", 20, (*worker).unique},
	{"list", 14, (*worker).list},
	{"counter", 6, (*worker).counter},
	{"local", 5, (*worker).local},
	{"sum", 3, (*worker).sum},
	{"rollback", 5, (*worker).rollback},
	{"both", 3, (*worker).both},
	{"late", 2, (*worker).late},
	{"agents", 6, (*worker).agents},
	{"deadlock", 1, (*worker).deadlock},
	{"poll", 6, (*worker).poll},
	{"stranger", 1, (*worker).stranger},
}

func (w *worker) work() {
	total := 0
	for _, k := range kinds {
		total += k.weight
	}
	for {
		select {
		case <-w.over:
			return
		default:
		}
		n := w.rng.IntN(total)
		for _, k := range kinds {
			if n -= k.weight; w.only == "" && n < 0 || w.only == k.name {
				k.do(w)
				break
			}
		}
	}
}

// pause keeps a client that is refused from asking too fast.
func (w *worker) pause() {
	select {
	case <-w.over:
	case <-time.After(20 * time.Millisecond):
	}
}

// note writes a record. A client that cannot say what it does must not go on.
func (w *worker) note(r record) {
	if err := w.diary.write(r); err != nil {
		panic(err)
	}
}

// job is one transaction of a worker.
type job struct {
	*worker
	tx   *concord.Tx
	made record
}

// begin begins a transaction of a kind that writes a row of its own at some places; nil: it could not.
func (w *worker) begin(kind string, rows []string, opts ...concord.TxOption) *job {
	tx, err := w.client.Begin(context.Background(), append(opts, concord.WithTimeout(limit))...)
	if err != nil {
		fmt.Fprintln(os.Stderr, "begin:", err)
		w.pause()
		return nil
	}
	j := &job{worker: w, tx: tx, made: record{Op: begun, GID: tx.ID().String(), Kind: kind, Rows: rows,
		Payload: fmt.Sprintf("%s %x", w.name, w.rng.Uint64())}}
	w.note(j.made)
	w.past = append(w.past, j.made.GID)
	w.past = w.past[max(0, len(w.past)-20):]
	return j
}

// do does the work of a transaction, and its row, and commits.
func (j *job) do(work func(ctx context.Context) (record, error)) {
	ctx := concord.NewContext(context.Background(), j.tx)
	ctx, cancel := context.WithDeadline(ctx, j.tx.Deadline())
	defer cancel()
	r, err := work(ctx)
	for _, name := range j.made.Rows {
		if err == nil {
			err = j.row(ctx, name)
		}
	}
	if err != nil {
		j.undo(err)
		return
	}
	j.end(r, func() error { return j.tx.Commit(context.Background()) })
}

func nothing(context.Context) (record, error) { return record{}, nil }

// row writes the row of a transaction.
func (j *job) row(ctx context.Context, name string) error {
	if name == ledger {
		return j.places[name].exec(ctx, j.tx, "set ? ?", j.made.GID, j.made.Payload)
	}
	return j.places[name].exec(ctx, j.tx, "INSERT INTO uniq VALUES (?, ?)", j.made.GID, j.made.Payload)
}

// undo rolls back: whatever the rollback says, nobody commits any more.
func (j *job) undo(why error) {
	r := record{Op: told, GID: j.made.GID, Kind: j.made.Kind, Outcome: aborted, Error: why.Error()}
	var deadlock *concord.DeadlockError
	if errors.As(why, &deadlock) {
		r.Error = "deadlock: " + r.Error
	}
	if err := j.tx.Rollback(context.Background()); errors.Is(err, concord.ErrTorn) {
		r.Outcome, r.Error = wrong, err.Error()
	}
	j.note(r)
	j.pause()
}

// end asks for the commit and writes what was told.
func (j *job) end(r record, commit func() error) {
	j.note(record{Op: asked, GID: j.made.GID})
	since := time.Now().UnixNano()
	err := commit()
	r.Op, r.GID, r.Kind, r.Since, r.Outcome = told, j.made.GID, j.made.Kind, since, outcomeOf(err)
	if err != nil {
		r.Error, r.Lists, r.Sum = err.Error(), nil, nil
	}
	j.note(r)
	if err != nil {
		j.pause()
	}
}

// some are two or three of the SQL databases, in order.
func (w *worker) some() []string {
	if w.rng.IntN(3) == 0 {
		return sqlNames
	}
	left := w.rng.IntN(3)
	return append(append([]string{}, sqlNames[:left]...), sqlNames[left+1:]...)
}

// move changes one account in each of some databases, with the sum kept.
func (j *job) move(ctx context.Context, names []string) error {
	sum := 0
	for i, name := range names {
		amount := j.rng.IntN(41) - 20
		if i == len(names)-1 {
			amount = -sum
		}
		sum += amount
		err := j.places[name].exec(ctx, j.tx, "UPDATE account SET balance = balance + ? WHERE id = ?", amount,
			j.rng.IntN(accounts))
		if err != nil {
			return err
		}
	}
	return nil
}

func (w *worker) transfer() {
	names := w.some()
	if j := w.begin("transfer", names); j != nil {
		j.do(func(ctx context.Context) (record, error) { return record{}, j.move(ctx, names) })
	}
}

// deadlock is a transfer against the order in which everybody else goes.
func (w *worker) deadlock() {
	if j := w.begin("deadlock", nil); j != nil {
		j.do(func(ctx context.Context) (record, error) {
			return record{}, j.move(ctx, []string{stock, billing, orders})
		})
	}
}

// unique writes its row everywhere, or in a part of the places.
func (w *worker) unique() {
	rows := w.some()
	if w.only != "" || w.rng.IntN(3) == 0 {
		rows = allNames
	}
	if j := w.begin("unique", rows); j != nil {
		j.do(nothing)
	}
}

// local changes one database alone, which then decides by itself.
func (w *worker) local() {
	name := sqlNames[w.rng.IntN(3)]
	if j := w.begin("local", []string{name}); j != nil {
		j.do(func(ctx context.Context) (record, error) { return record{}, j.move(ctx, []string{name}) })
	}
}

// agents moves from one place behind the agent to the other.
func (w *worker) agents() {
	var opts []concord.TxOption
	if w.rng.IntN(3) == 0 {
		opts = append(opts, concord.WithProtocol(concord.ThreePhase))
	}
	if j := w.begin("agents", agentNames, opts...); j != nil {
		j.do(func(ctx context.Context) (record, error) {
			amount, id := w.rng.IntN(41)-20, w.rng.IntN(accounts)
			err := j.places[desk].exec(ctx, j.tx, "UPDATE account SET balance = balance - ? WHERE id = ?", amount, id)
			if err == nil {
				err = j.places[ledger].exec(ctx, j.tx, "add ? ?", fmt.Sprintf("account%d", id), amount)
			}
			return record{}, err
		})
	}
}

// sum reads every account of the SQL databases under locks.
func (w *worker) sum() {
	if j := w.begin("sum", nil); j != nil {
		j.do(func(ctx context.Context) (record, error) {
			var sum int64
			for _, name := range sqlNames {
				all, err := j.places[name].first(ctx, j.tx, "SELECT balance FROM account ORDER BY id FOR UPDATE")
				if err != nil {
					return record{}, err
				}
				n, err := sumOf(all)
				if err != nil {
					return record{}, err
				}
				sum += n
			}
			return record{Sum: &sum}, nil
		})
	}
}

// list appends to some lists and reads others, under locks.
func (w *worker) list() {
	if j := w.begin("list", nil); j != nil {
		j.do(func(ctx context.Context) (record, error) {
			var done []access
			for k := range lists {
				// in the order of the databases
				k = k/(lists/3) + k%(lists/3)*3
				if w.rng.IntN(lists) > 2 {
					continue
				}
				p := j.places[sqlNames[k%3]]
				if w.rng.IntN(2) == 0 {
					text, err := p.first(ctx, j.tx, "SELECT elems FROM list WHERE k = ? FOR UPDATE", k)
					if err != nil {
						return record{}, err
					}
					read, err := elements(text)
					if err != nil {
						return record{}, err
					}
					done = append(done, access{List: k, Read: read})
					continue
				}
				value := 1 + w.rng.IntN(1<<30)
				err := p.exec(ctx, j.tx, "UPDATE list SET elems = CONCAT(elems, CAST(? AS CHAR(12))) WHERE k = ?",
					fmt.Sprintf(" %d", value), k)
				if err != nil {
					return record{}, err
				}
				done = append(done, access{List: k, Append: value})
				// Also a value whose fate nobody is told belongs to somebody.
				j.note(record{Op: "appends", GID: j.made.GID, Lists: []access{{List: k, Append: value}}})
			}
			return record{Lists: done}, nil
		})
	}
}

// counter counts in every SQL database: the numbers that a transaction draws are the same in all.
func (w *worker) counter() {
	if j := w.begin("counter", nil); j != nil {
		j.do(func(ctx context.Context) (record, error) {
			for _, name := range sqlNames {
				p := j.places[name]
				if err := p.exec(ctx, j.tx, "UPDATE counter SET n = n + 1 WHERE id = 0"); err != nil {
					return record{}, err
				}
				if err := p.exec(ctx, j.tx, "INSERT INTO drawn SELECT n, ? FROM counter WHERE id = 0",
					j.made.GID); err != nil {
					return record{}, err
				}
			}
			return record{}, nil
		})
	}
}

var errChanged = errors.New("the application changed its mind")

func (w *worker) rollback() {
	if j := w.begin("rollback", w.some()); j != nil {
		j.do(func(ctx context.Context) (record, error) {
			for _, name := range j.made.Rows {
				if err := j.row(ctx, name); err != nil {
					return record{}, err
				}
			}
			return record{}, errChanged
		})
	}
}

// both asks for the commit and for the rollback at once.
func (w *worker) both() {
	j := w.begin("both", w.some())
	if j == nil {
		return
	}
	ctx, cancel := context.WithDeadline(context.Background(), j.tx.Deadline())
	defer cancel()
	for _, name := range j.made.Rows {
		if err := j.row(ctx, name); err != nil {
			j.undo(err)
			return
		}
	}
	j.end(record{}, func() error {
		other := make(chan error, 1)
		go func() { other <- j.tx.Rollback(context.Background()) }()
		err := j.tx.Commit(context.Background())
		undone := <-other
		switch {
		case err == nil && !errors.Is(undone, concord.ErrTxEnded):
			return fmt.Errorf("commit and rollback have both succeeded: %w, %v", errNoKind, undone)
		case !errors.Is(err, concord.ErrTxEnded):
			return err
		case errors.Is(undone, concord.ErrTxEnded):
			return fmt.Errorf("neither commit nor rollback has done anything: %w", errNoKind)
		}
		return &concord.AbortedError{GID: j.tx.ID(), Err: errors.New("the rollback was first")}
	})
}

var errNoKind = errors.New("this must not happen")

// late wants one more branch after the commit.
func (w *worker) late() {
	j := w.begin("late", []string{orders, billing})
	if j == nil {
		return
	}
	j.do(nothing)
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if _, err := j.tx.Enlist(ctx, j.places[stock].opener()); err == nil {
		j.note(record{Op: told, GID: j.made.GID, Kind: "late", Outcome: wrong,
			Error: "a branch joined after the commit"})
	}
}

// poll asks what became of a transaction. Outcome of one under way aborts it; Lookup changes nothing.
func (w *worker) poll() {
	if len(w.past) == 0 {
		return
	}
	gid := w.past[w.rng.IntN(len(w.past))]
	id, err := concord.ParseID(gid)
	if err != nil {
		panic(err)
	}
	ask := w.client.Lookup
	if w.rng.IntN(10) == 0 {
		ask = w.client.Outcome
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	since := time.Now().UnixNano()
	outcome, err := ask(ctx, id)
	if err != nil {
		w.pause()
		return
	}
	w.note(record{Op: polled, GID: gid, Outcome: outcome.String(), Since: since})
}

// stranger has somebody else ask for the outcome of a transaction of which the cluster has not heard: that
// abort has to hold.
func (w *worker) stranger() {
	j := w.begin("stranger", w.some(), concord.Recorded())
	if j == nil {
		return
	}
	j.do(func(ctx context.Context) (record, error) {
		since := time.Now().UnixNano()
		outcome, err := w.client.Outcome(ctx, j.tx.ID())
		if err == nil {
			w.note(record{Op: polled, GID: j.made.GID, Outcome: outcome.String(), Since: since})
		}
		return record{}, err
	})
}

var _ adapters.Global = (*concord.Tx)(nil)
