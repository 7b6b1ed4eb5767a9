// SPDX-License-Identifier: Apache-2.0

package api

import (
	"fmt"
	"slices"

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
			return p, invalid(field+".agent",
				"is empty, but the journal or the address is not: the cluster has neither")
		}
		return p, nil
	}
	if err := ParseText(field+".agent", m.GetAgent(), MaxAgentName); err != nil {
		return p, err
	}
	journal, ok := txn.ParseJournalID(m.GetJournal())
	if !ok || journal == (txn.JournalID{}) {
		return p, invalid(field+".journal", "%.40q is not a journal id, want the 32 hex characters that Describe "+
			"returns",
			m.GetJournal())
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
			return nil, invalid(at+".addr", "is empty, want the address of the agent")
		case i > 0 && parties[i-1].PartyID.Compare(p.PartyID) >= 0:
			return nil, invalid(at+".agent", "%q is out of order, or listed twice", p.Agent)
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
		return c, invalid(field+".digest", "has %d bytes, want the %d of the last answer", len(m.GetDigest()),
			len(c.Digest))
	}
	if c.Number = m.GetNumber(); c.Number == 0 {
		return c, invalid(field+".number", "is 0: a branch without work is not opened")
	}
	copy(c.Digest[:], m.GetDigest())
	return c, nil
}

// ParseAgents validates who holds the branches of a three-phase transaction, and sorts agents by
// name, and their branches by number.
func ParseAgents(field string, messages []*concordv1.AgentBranches) (agents []txn.Agent, err error) {
	if len(messages) > MaxAgents {
		return nil, invalid(field, "are %d, at most %d are allowed", len(messages), MaxAgents)
	}
	numbers, resources, names := map[txn.BranchNo]bool{}, map[string]bool{}, map[string]bool{}
	for i, m := range messages {
		at := fmt.Sprintf("%s[%d]", field, i)
		a := txn.Agent{Epoch: m.GetEpoch()}
		if a.Party, err = ParseParty(at+".agent", m.GetAgent()); err != nil {
			return nil, err
		}
		switch {
		case a.IsWitness() || a.Addr == "":
			return nil, invalid(at+".agent",
				"has no name or no address, want the name and the address of the agent that holds the branches")
		case names[a.Agent]:
			return nil, invalid(at+".agent", "%q is listed twice: name all its branches together", a.Agent)
		case len(m.GetBranches()) == 0:
			return nil, invalid(at+".branches",
				"are missing: an agent without a branch of the transaction has nothing to vote on")
		}
		names[a.Agent] = true
		for j, b := range m.GetBranches() {
			at := fmt.Sprintf("%s.branches[%d]", at, j)
			branch, err := parseBranch(at, &concordv1.Branch{No: b.GetNo(), Resource: b.GetResource()})
			if err != nil {
				return nil, err
			}
			claim, err := ParseClaim(at, b)
			switch {
			case err != nil:
				return nil, err
			case numbers[branch.No]:
				return nil, invalid(at+".no", "branch %d is listed twice", branch.No)
			case resources[branch.Resource]:
				return nil, invalid(at+".resource", "%q is listed twice: a transaction has one branch per resource",
					branch.Resource)
			}
			numbers[branch.No], resources[branch.Resource] = true, true
			a.Branches, a.Claims = append(a.Branches, branch), append(a.Claims, claim)
		}
		slices.SortFunc(a.Branches, func(a, b txn.Branch) int { return int(a.No) - int(b.No) })
		slices.SortFunc(a.Claims, func(a, b txn.Claim) int { return int(a.No) - int(b.No) })
		agents = append(agents, a)
	}
	slices.SortFunc(agents, func(a, b txn.Agent) int { return a.PartyID.Compare(b.PartyID) })
	return agents, nil
}

// agentMessages is the inverse of ParseAgents.
func agentMessages(agents []txn.Agent) []*concordv1.AgentBranches {
	var messages []*concordv1.AgentBranches
	for _, a := range agents {
		m := &concordv1.AgentBranches{Agent: PartyMessage(a.Party), Epoch: a.Epoch}
		for i, b := range a.Branches {
			c := a.Claims[i]
			m.Branches = append(m.Branches,
				&concordv1.ClaimedBranch{No: uint32(b.No), Resource: b.Resource, Number: c.Number, Digest: c.Digest[:]})
		}
		messages = append(messages, m)
	}
	return messages
}
