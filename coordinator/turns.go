// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/concordtx/concord/coordinator/commit"
	"github.com/concordtx/concord/coordinator/replica"
)

const (
	// slowTurn is how long a turn of the loop may take. Nobody gets an answer meanwhile, so
	// what the core does in one turn has a bound, and one that takes longer is told of.
	slowTurn = 20 * time.Millisecond
	// slowTurnInterval is how soon another such turn is logged.
	slowTurnInterval = 10 * time.Second
)

// turnBounds are up to how long a turn took, for counting.
var turnBounds = [...]time.Duration{50 * time.Microsecond, 100 * time.Microsecond, 250 * time.Microsecond,
	500 * time.Microsecond,
	time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond, slowTurn,
	50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond, time.Second}

// Turns is how long the turns of the loop took since the node started.
type Turns struct {
	Count uint64
	Sum   time.Duration
	// Upto counts those that took no longer than the duration.
	Upto map[time.Duration]uint64
}

// turns counts the turns of a loop.
type turns struct {
	buckets [len(turnBounds) + 1]uint64 // each without those before it
	sum     time.Duration

	logged   time.Time // when a slow turn was last logged
	unlogged int       // slow turns since
}

// read is a picture of the counts.
func (t *turns) read() Turns {
	x := Turns{Sum: t.sum, Upto: make(map[time.Duration]uint64, len(turnBounds))}
	for i, bound := range turnBounds {
		x.Count += t.buckets[i]
		x.Upto[bound] = x.Count
	}
	x.Count += t.buckets[len(turnBounds)]
	return x
}

// turn is what one turn held.
type turn struct {
	began, stepped time.Time // stepped: when the core had handled its events
	ended          time.Time
	events         []replica.Event
	log            *replica.Effects
	commits        *commit.Effects
}

// count counts a turn, and logs one that took too long: one line in slowTurnInterval.
func (t *turns) count(log *slog.Logger, x turn) {
	took := x.ended.Sub(x.began)
	i, _ := slices.BinarySearch(turnBounds[:], took)
	t.buckets[i]++
	t.sum += took
	if took <= slowTurn {
		return
	}
	t.unlogged++
	if !t.logged.IsZero() && x.ended.Sub(t.logged) < slowTurnInterval {
		return
	}
	log.Warn("a turn of the loop took long, and nobody got an answer in the meantime: if it happens again and the "+
		"machine is not short of CPU, report it with this line",
		"took", took.String(), "core", x.stepped.Sub(x.began).String(), "events", len(x.events), "kinds",
		kinds(x.events),
		"writes", len(x.log.Write), "sends", len(x.log.Send), "replies", len(x.log.Reply)+len(x.commits.Reply), "tasks",
		len(x.commits.Finish), "notes", len(x.log.Notes),
		"slow_turns", t.unlogged)
	t.logged, t.unlogged = x.ended, 0
}

// kinds says for people what events there are.
func kinds(events []replica.Event) string {
	count := map[string]int{}
	for _, e := range events {
		name := fmt.Sprintf("%T", e)
		if p, ok := e.(replica.Peer); ok {
			name = fmt.Sprintf("%T", p.Event)
		}
		count[name[strings.LastIndexByte(name, '.')+1:]]++
	}
	var words []string
	for _, name := range slices.Sorted(maps.Keys(count)) {
		words = append(words, fmt.Sprintf("%d %s", count[name], name))
	}
	return strings.Join(words, ", ")
}
