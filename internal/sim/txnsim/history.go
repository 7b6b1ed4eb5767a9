// SPDX-License-Identifier: Apache-2.0

package txnsim

import (
	"fmt"
	"math"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/concordtx/concord/internal/sim"
	"github.com/concordtx/concord/txn"
)

// history is what everybody asked and heard about decisions, for the check LIN: the
// decision of a gid is a register that is written once, and every question is answered
// as if all of them had been put one after the other.
type history struct {
	ops []*operation
	// pending has the first unanswered question of each kind: it may have taken effect at
	// any time since, and a second one of the same kind adds nothing to that.
	pending map[operationKey]bool
}

type operationKind int

const (
	askCommit  operationKind = iota // also an operator's
	askOutcome                      // aborts what is undecided; also an operator, and the orphan scan
	askView                         // changes nothing
)

type operationKey struct {
	id   txn.ID
	kind operationKind
}

// operation is one question. Its answer may never come.
type operation struct {
	operationKey
	call, end sim.Instant
	answered  bool
	decision  txn.Decision // of the answer; Undecided only from a view
}

func (h *history) ask(id txn.ID, kind operationKind, now sim.Instant) *operation {
	o := &operation{operationKey: operationKey{id, kind}, call: now}
	h.ops = append(h.ops, o)
	return o
}

func (o *operation) answer(d txn.Decision, now sim.Instant) {
	o.answered, o.decision, o.end = true, d, now
}

// checkPatience is what the checker may take. Histories of one register are small, so that
// it only runs out when something is wrong with the checker.
const checkPatience = 30 * time.Second

// register is the specification.
var register = porcupine.Model{
	Partition: func(all []porcupine.Operation) [][]porcupine.Operation {
		var parts [][]porcupine.Operation
		at := map[txn.ID]int{}
		for _, o := range all {
			id := o.Input.(*operation).id
			i, ok := at[id]
			if !ok {
				i = len(parts)
				at[id] = i
				parts = append(parts, nil)
			}
			parts[i] = append(parts[i], o)
		}
		return parts
	},
	Init: func() any { return txn.Undecided },
	Step: func(state, input, _ any) (bool, any) {
		now, o := state.(txn.Decision), input.(*operation)
		if now == txn.Undecided && o.kind == askCommit {
			now = txn.Commit
		}
		if now == txn.Undecided && o.kind == askOutcome {
			now = txn.Abort
		}
		return !o.answered || o.decision == now, now
	},
}

// check is LIN. The empty string says that the history is linearizable.
func (h *history) check() string {
	h.pending = map[operationKey]bool{}
	all := make([]porcupine.Operation, 0, len(h.ops))
	for _, o := range h.ops {
		end := int64(o.end)
		if !o.answered {
			if o.kind == askView || h.pending[o.operationKey] {
				continue
			}
			h.pending[o.operationKey] = true
			end = math.MaxInt64
		}
		all = append(all, porcupine.Operation{Input: o, Call: int64(o.call), Return: end})
	}
	if porcupine.CheckOperationsTimeout(register, all, checkPatience) == porcupine.Ok {
		return ""
	}
	for _, part := range register.Partition(all) {
		switch r := porcupine.CheckOperationsTimeout(register, part, checkPatience); r {
		case porcupine.Ok:
		default:
			return fmt.Sprintf("the answers about %v are %s:%s", part[0].Input.(*operation).id, r, tellAll(part))
		}
	}
	return "the checker gave up"
}

func tellAll(part []porcupine.Operation) string {
	s := ""
	for _, p := range part {
		s += "\n  " + p.Input.(*operation).String()
	}
	return s
}

// String is the question and its answer on one line.
func (o *operation) String() string {
	kind := [...]string{"commit?", "outcome?", "view?"}[o.kind]
	if !o.answered {
		return fmt.Sprintf("[%s, ...] %s no answer", o.call, kind)
	}
	return fmt.Sprintf("[%s, %s] %s %v", o.call, o.end, kind, o.decision)
}
