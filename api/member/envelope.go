// SPDX-License-Identifier: Apache-2.0

package member

import (
	"fmt"

	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/protocol/threepc"
	"github.com/concordtx/concord/txn"
)

const (
	// MaxMessages is how many one request brings at most.
	MaxMessages = 1000
)

// Envelope is a message about a transaction, from one member to another.
type Envelope struct {
	ID      txn.ID
	From    txn.Party
	To      txn.PartyID
	Message threepc.Message
}

// Request makes the request that delivers envelopes to members of a cluster.
func Request(cluster txn.ClusterID, envelopes []Envelope) *concordv1.DeliverRequest {
	r := &concordv1.DeliverRequest{Cluster: cluster.String(),
		Messages: make([]*concordv1.MemberMessage, len(envelopes))}
	for i, e := range envelopes {
		r.Messages[i] = message(e)
	}
	return r
}

// Parse validates a request. The error wraps txn.ErrInvalid.
func Parse(r *concordv1.DeliverRequest) (txn.ClusterID, []Envelope, error) {
	cluster, err := api.ParseCluster("cluster", r.GetCluster())
	if err != nil {
		return 0, nil, err
	}
	if n := len(r.GetMessages()); n > MaxMessages {
		return 0, nil, invalid("messages", "are %d, at most %d are allowed", n, MaxMessages)
	}
	envelopes := make([]Envelope, len(r.GetMessages()))
	for i, m := range r.GetMessages() {
		p := parser{}
		e := p.envelope(fmt.Sprintf("messages[%d]", i), m)
		if p.err != nil {
			return 0, nil, p.err
		}
		envelopes[i] = e
	}
	return cluster, envelopes, nil
}

func invalid(field, format string, args ...any) error {
	return &api.FieldError{Field: field, Detail: fmt.Sprintf(format, args...)}
}

func message(e Envelope) *concordv1.MemberMessage {
	m := &concordv1.MemberMessage{Gid: e.ID.String(), From: api.PartyMessage(e.From),
		To: api.PartyMessage(txn.Party{PartyID: e.To})}
	switch k := e.Message.(type) {
	case threepc.CanCommit:
		m.Kind = &concordv1.MemberMessage_CanCommit{CanCommit: &concordv1.CanCommit{
			Members: api.PartyMessages(k.Members), Epoch: k.Epoch, Claims: claims(k.Claims)}}
	case threepc.Vote:
		m.Kind = &concordv1.MemberMessage_Vote{Vote: &concordv1.CastVote{
			Vote: k.Vote.String(), List: k.List[:], Branches: api.BranchMessages(k.Branches), Reason: k.Reason}}
	case threepc.PreCommit:
		m.Kind = &concordv1.MemberMessage_PreCommit{PreCommit: &concordv1.PreCommit{
			Election: election(k.Election), Members: api.PartyMessages(k.Members)}}
	case threepc.PreAbort:
		m.Kind = &concordv1.MemberMessage_PreAbort{PreAbort: &concordv1.PreAbort{Election: election(k.Election)}}
	case threepc.Ack:
		m.Kind = &concordv1.MemberMessage_Ack{Ack: &concordv1.Ack{Election: election(k.Election),
			Kind: k.Kind.String()}}
	case threepc.Refused:
		m.Kind = &concordv1.MemberMessage_Refused{Refused: &concordv1.ElectionRefused{
			Election: election(k.Election), LastElected: election(k.LastElected)}}
	case threepc.Elect:
		m.Kind = &concordv1.MemberMessage_Elect{Elect: &concordv1.Elect{
			Election: election(k.Election), Members: api.PartyMessages(k.List.Members), Short: k.List.Short}}
	case threepc.Answer:
		m.Kind = &concordv1.MemberMessage_Answer{Answer: &concordv1.ElectionAnswer{
			Election: election(k.Election), State: k.State.String(), LastAttempt: election(k.LastAttempt),
			Short: api.PartyMessages(k.Short)}}
	case threepc.Decided:
		m.Kind = &concordv1.MemberMessage_Decided{Decided: &concordv1.Decided{Decision: k.Decision.String()}}
	case threepc.Finished:
		m.Kind = &concordv1.MemberMessage_Finished{Finished: &concordv1.MemberFinished{No: uint32(k.No),
			Finish: k.Finish.String()}}
	case threepc.Inquire:
		m.Kind = &concordv1.MemberMessage_Inquire{Inquire: &concordv1.Inquire{}}
	case threepc.Underway:
		m.Kind = &concordv1.MemberMessage_Underway{Underway: &concordv1.Underway{Open: k.Open}}
	case threepc.NotMember:
		m.Kind = &concordv1.MemberMessage_NotMember{NotMember: &concordv1.NotMember{Election: election(k.Election)}}
	default:
		panic(fmt.Sprintf("member: %T is not a message of a member", k))
	}
	return m
}

// election leaves none unset.
func election(e txn.Election) *concordv1.Election {
	if e == (txn.Election{}) {
		return nil
	}
	return &concordv1.Election{N: e.N, By: api.PartyMessage(txn.Party{PartyID: e.By})}
}

func claims(list []txn.Claim) []*concordv1.BranchClaim {
	messages := make([]*concordv1.BranchClaim, len(list))
	for i, c := range list {
		messages[i] = &concordv1.BranchClaim{No: uint32(c.No), Number: c.Number, Digest: c.Digest[:]}
	}
	return messages
}

// parser keeps the first error.
type parser struct{ err error }

func (p *parser) fail(err error) {
	if p.err == nil {
		p.err = err
	}
}

func parsed[T any](p *parser, v T, err error) T {
	if err != nil {
		p.fail(err)
	}
	return v
}

func (p *parser) envelope(at string, m *concordv1.MemberMessage) Envelope {
	var e Envelope
	id, err := api.ParseID(at+".gid", m.GetGid())
	e.ID = parsed(p, id, err)
	if e.ID.Class() != txn.ThreePhase && err == nil {
		p.fail(invalid(at+".gid", "%v is of the class %v, whose transactions have no members", e.ID, e.ID.Class()))
	}
	e.From = p.party(at+".from", m.GetFrom())
	e.To = p.party(at+".to", m.GetTo()).PartyID
	if e.From.PartyID == e.To {
		p.fail(invalid(at+".to", "%v talks to itself", e.To))
	}
	switch k := m.GetKind().(type) {
	case *concordv1.MemberMessage_CanCommit:
		e.Message = threepc.CanCommit{Members: p.members(at, k.CanCommit.GetMembers()), Epoch: k.CanCommit.GetEpoch(),
			Claims: p.claims(at, k.CanCommit.GetClaims())}
	case *concordv1.MemberMessage_Vote:
		e.Message = p.vote(at, k.Vote)
	case *concordv1.MemberMessage_PreCommit:
		e.Message = threepc.PreCommit{Election: p.real(at, k.PreCommit.GetElection()),
			Members: p.members(at, k.PreCommit.GetMembers())}
	case *concordv1.MemberMessage_PreAbort:
		e.Message = threepc.PreAbort{Election: p.real(at, k.PreAbort.GetElection())}
	case *concordv1.MemberMessage_Ack:
		kind, err := api.ParseDecision(at+".kind", k.Ack.GetKind())
		e.Message = threepc.Ack{Election: p.real(at, k.Ack.GetElection()), Kind: parsed(p, kind, err)}
	case *concordv1.MemberMessage_Refused:
		e.Message = threepc.Refused{Election: p.real(at, k.Refused.GetElection()),
			LastElected: p.real(at, k.Refused.GetLastElected())}
	case *concordv1.MemberMessage_Elect:
		e.Message = threepc.Elect{Election: p.real(at, k.Elect.GetElection()),
			List: threepc.List{Members: p.members(at, k.Elect.GetMembers()), Short: k.Elect.GetShort()}}
	case *concordv1.MemberMessage_Answer:
		e.Message = p.answer(at, k.Answer)
	case *concordv1.MemberMessage_Decided:
		d, err := api.ParseDecision(at+".decision", k.Decided.GetDecision())
		e.Message = threepc.Decided{Decision: parsed(p, d, err)}
	case *concordv1.MemberMessage_Finished:
		no, err := api.ParseBranchNo(at+".no", k.Finished.GetNo())
		f, ferr := api.ParseFinish(at+".finish", k.Finished.GetFinish())
		e.Message = threepc.Finished{No: parsed(p, no, err), Finish: parsed(p, f, ferr)}
	case *concordv1.MemberMessage_Inquire:
		e.Message = threepc.Inquire{}
	case *concordv1.MemberMessage_Underway:
		e.Message = threepc.Underway{Open: k.Underway.GetOpen()}
	case *concordv1.MemberMessage_NotMember:
		e.Message = threepc.NotMember{Election: p.election(at+".election", k.NotMember.GetElection())}
	default:
		p.fail(invalid(at, "says nothing that this version knows"))
	}
	return e
}

func (p *parser) vote(at string, m *concordv1.CastVote) threepc.Vote {
	vote, err := api.ParseVote(at+".vote", m.GetVote())
	v := threepc.Vote{Vote: parsed(p, vote, err), Reason: m.GetReason()}
	if len(m.GetList()) != len(v.List) {
		p.fail(invalid(at+".list", "has %d bytes, want %d", len(m.GetList()), len(v.List)))
	}
	copy(v.List[:], m.GetList())
	if err := api.ParseText(at+".reason", v.Reason, txn.MaxReason); err != nil {
		p.fail(err)
	}
	branches, err := api.ParseBranches(at+".branches", m.GetBranches())
	if v.Branches = parsed(p, branches, err); len(v.Branches) == 0 {
		v.Branches = nil
	}
	if (v.Vote == txn.VoteYes) != (len(v.Branches) > 0) {
		p.fail(invalid(at+".branches", "are %d with the vote %v: an agent that votes yes names its prepared "+
			"branches, and no other has any", len(v.Branches), v.Vote))
	}
	return v
}

func (p *parser) answer(at string, m *concordv1.ElectionAnswer) threepc.Answer {
	a := threepc.Answer{Election: p.real(at, m.GetElection()),
		LastAttempt: p.election(at+".last_attempt", m.GetLastAttempt())}
	for _, s := range []threepc.State{threepc.Wait, threepc.PreCommitted, threepc.PreAborted} {
		if s.String() == m.GetState() {
			a.State = s
		}
	}
	if a.State == threepc.Nothing {
		p.fail(invalid(at+".state", "is %.20q, want wait, pre-committed or pre-aborted", m.GetState()))
	}
	if len(m.GetShort()) > 0 {
		a.Short = p.members(at, m.GetShort())
	}
	return a
}

func (p *parser) party(at string, m *concordv1.Party) txn.Party {
	party, err := api.ParseParty(at, m)
	return parsed(p, party, err)
}

// members are at least one agent and the cluster.
func (p *parser) members(at string, messages []*concordv1.Party) []txn.Party {
	members, err := api.ParseParties(at+".members", messages)
	return parsed(p, members, err)
}

// real is an election that there has been.
func (p *parser) real(at string, m *concordv1.Election) txn.Election {
	e := p.election(at+".election", m)
	if e.N == 0 {
		p.fail(invalid(at+".election", "is missing or 0: elections are numbered from 1"))
	}
	return e
}

func (p *parser) election(at string, m *concordv1.Election) txn.Election {
	if m == nil {
		return txn.Election{}
	}
	if m.GetN() > MaxElection {
		p.fail(invalid(at+".n", "is %d: nobody has got beyond %d by counting", m.GetN(), MaxElection))
	}
	return txn.Election{N: m.GetN(), By: p.party(at+".by", m.GetBy()).PartyID}
}

// MaxElection is a number that no honest member comes to: whoever followed another one beyond it
// would be at the end of the numbers soon.
const MaxElection = 1 << 30

func (p *parser) claims(at string, messages []*concordv1.BranchClaim) (list []txn.Claim) {
	if len(messages) > txn.MaxBranches {
		p.fail(invalid(at+".claims", "are %d, at most %d are allowed", len(messages), txn.MaxBranches))
		return nil
	}
	for _, m := range messages {
		c, err := api.ParseClaim(at+".claims", m)
		list = append(list, parsed(p, c, err))
	}
	return list
}
