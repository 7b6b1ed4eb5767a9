// SPDX-License-Identifier: Apache-2.0

package api

import (
	"fmt"

	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/txn"
)

// MaxAgents is how many agents may hold branches of one transaction.
const MaxAgents = 64

// MaxAgentName and MaxAddr bound what a party is called and where it is, in bytes.
const MaxAgentName, MaxAddr = 64, 256

// PartyMessage is the inverse of ParseParty. The cluster is not set.
func PartyMessage(p txn.Party) *concordv1.Party {
	if p.IsWitness() {
		return nil
	}
	return &concordv1.Party{Agent: p.Agent, Journal: p.Journal.String(), Addr: p.Addr}
}

// PartyMessages is the inverse of ParseParties.
func PartyMessages(parties []txn.Party) []*concordv1.Party {
	messages := make([]*concordv1.Party, len(parties))
	for i, p := range parties {
		if messages[i] = PartyMessage(p); messages[i] == nil {
			messages[i] = &concordv1.Party{}
		}
	}
	return messages
}

// ParseParty validates a member of a transaction; not set, or empty, is the cluster. An agent may
// come without an address, where it is only named.
func ParseParty(field string, m *concordv1.Party) (p txn.Party, err error) {
	if m.GetAgent() == "" {
		if m.GetJournal() != "" || m.GetAddr() != "" {
			return p, invalid(field+".agent", "is empty, and the journal or the address is not: the cluster has neither")
		}
		return p, nil
	}
	if err := ParseText(field+".agent", m.GetAgent(), MaxAgentName); err != nil {
		return p, err
	}
	journal, ok := txn.ParseJournalID(m.GetJournal())
	if !ok || journal == (txn.JournalID{}) {
		return p, invalid(field+".journal", "%.40q is no journal id, want the 32 hex characters that Describe says", m.GetJournal())
	}
	if m.GetAddr() != "" {
		if !Dialable(m.GetAddr()) {
			return p, invalid(field+".addr", "%.40q is not host:port", m.GetAddr())
		}
		if err := ParseText(field+".addr", m.GetAddr(), MaxAddr); err != nil {
			return p, err
		}
	}
	return txn.Party{PartyID: txn.PartyID{Agent: m.GetAgent(), Journal: journal}, Addr: m.GetAddr()}, nil
}

// ParseParties validates a list of members: the cluster, first, and agents with their addresses, in
// the order of their names, each once.
func ParseParties(field string, messages []*concordv1.Party) ([]txn.Party, error) {
	if n := len(messages); n == 0 || n > MaxAgents+1 {
		return nil, invalid(field, "are %d, want the cluster and at most %d agents", n, MaxAgents)
	}
	parties := make([]txn.Party, len(messages))
	for i, m := range messages {
		at := fmt.Sprintf("%s[%d]", field, i)
		p, err := ParseParty(at, m)
		switch {
		case err != nil:
			return nil, err
		case p.IsWitness() != (i == 0):
			return nil, invalid(at, "the cluster comes first, and once")
		case i > 0 && p.Addr == "":
			return nil, invalid(at+".addr", "is empty, want where the agent is found")
		case i > 0 && parties[i-1].PartyID.Compare(p.PartyID) >= 0:
			return nil, invalid(at+".agent", "%q is out of order, or twice there", p.Agent)
		}
		parties[i] = p
	}
	return parties, nil
}

// ParseClaim validates what is claimed of the work in a branch.
func ParseClaim(field string, m interface {
	GetNo() uint32
	GetNumber() uint64
	GetDigest() []byte
}) (c txn.Claim, err error) {
	if c.No, err = ParseBranchNo(field+".no", m.GetNo()); err != nil {
		return c, err
	}
	if len(m.GetDigest()) != len(c.Digest) {
		return c, invalid(field+".digest", "has %d bytes, want the %d of the last answer", len(m.GetDigest()), len(c.Digest))
	}
	if c.Number = m.GetNumber(); c.Number == 0 {
		return c, invalid(field+".number", "is 0: a branch without work is not opened")
	}
	copy(c.Digest[:], m.GetDigest())
	return c, nil
}
