// SPDX-License-Identifier: Apache-2.0

package txn

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
)

// AgentRecord says that an agent has voted, with this journal and in the life of this epoch: it will
// remember what it promised there. From LevelAgents on.
type AgentRecord struct {
	PartyID
	Epoch uint64
}

func (AgentRecord) kind() recordKind { return kindAgent }

func (r AgentRecord) append(b []byte) []byte {
	return binary.AppendUvarint(appendPartyID(b, r.PartyID), r.Epoch)
}

// MaxAgents are known of; votes of further ones are taken, and their lives not noted.
const MaxAgents = 10_000

// Agents are the lives of agents, one for each name, in the order of names. It is replaced as a
// whole, never changed.
type Agents []AgentRecord

func (a Agents) find(name string) (int, bool) {
	return slices.BinarySearchFunc(a, name, func(r AgentRecord, name string) int {
		return strings.Compare(r.Agent,
			name)
	})
}

// Last returns the last life of an agent that has voted.
func (a Agents) Last(name string) (AgentRecord, bool) {
	i, known := a.find(name)
	if !known {
		return AgentRecord{}, false
	}
	return a[i], true
}

// News reports whether a life is later than what is known of its agent.
func (a Agents) News(r AgentRecord) bool {
	last, known := a.Last(r.Agent)
	return !known && len(a) < MaxAgents || known && last.Journal == r.Journal && last.Epoch < r.Epoch
}

// with folds a record: the first journal of a name counts, and its epochs only grow.
func (a Agents) with(r AgentRecord) Agents {
	if !a.News(r) {
		return a
	}
	i, known := a.find(r.Agent)
	a = slices.Clone(a)
	if known {
		a[i] = r
		return a
	}
	return slices.Insert(a, i, r)
}

// AppendBinary implements encoding.BinaryAppender; it has no way to fail.
func (a Agents) AppendBinary(b []byte) ([]byte, error) {
	for _, r := range a {
		b = r.append(b)
	}
	return b, nil
}

// UnmarshalBinary is the inverse.
func (a *Agents) UnmarshalBinary(b []byte) error {
	*a = nil
	for d := (decoder{b: b}); len(d.b) > 0; {
		r := d.agent()
		if n := len(*a); d.err || n > 0 && (*a)[n-1].Agent >= r.Agent {
			return fmt.Errorf("lives of the agents: %w", ErrBadTxn)
		}
		*a = append(*a, r)
	}
	return nil
}

func (d *decoder) agent() AgentRecord { return AgentRecord{PartyID: d.partyID(), Epoch: d.uvarint()} }
