// SPDX-License-Identifier: Apache-2.0

package service

import (
	"fmt"
	"strconv"

	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/participant"
	"github.com/concordtx/concord/participant/statement"
	"github.com/concordtx/concord/txn"
)

// MaxArguments is how many arguments a statement may have.
const MaxArguments = 1000

func invalid(field, format string, args ...any) error {
	return &api.FieldError{Field: field, Detail: fmt.Sprintf(format, args...)}
}

// parseAddress validates where a request goes. A life that is not named is the zero one.
func parseAddress(m *concordv1.BranchAddress) (b participant.Branch, l participant.Life, err error) {
	if m == nil {
		return b, l, invalid("branch", "is missing: say which branch of which transaction is meant")
	}
	if b.XID, err = api.ParseBranchName("branch", m); err != nil {
		return b, l, err
	}
	if b.Resource = m.GetResource(); b.Resource == "" {
		return b, l, invalid("branch.resource", "is empty, want the name of a resource that the agent hosts")
	}
	if err := api.ParseText("branch.resource", b.Resource, txn.MaxResourceName); err != nil {
		return b, l, err
	}
	if m.GetJournal() != "" {
		var ok bool
		if l.Journal, ok = txn.ParseJournalID(m.GetJournal()); !ok {
			return b, l, invalid("branch.journal",
				"%.40q is not a journal id, want the 32 hex characters that Describe returns", m.GetJournal())
		}
	}
	l.Epoch = participant.Epoch(m.GetEpoch())
	return b, l, nil
}

// parseLife is for requests that mean one life only.
func parseLife(m *concordv1.BranchAddress) (participant.Branch, participant.Life, error) {
	b, l, err := parseAddress(m)
	switch {
	case err != nil:
	case m.GetJournal() == "":
		err = invalid("branch.journal", "is empty, want what Describe returns")
	case m.GetEpoch() == 0:
		err = invalid("branch.epoch", "is 0, want what Describe returns")
	}
	return b, l, err
}

// parseDigest takes none as that of a branch without work.
func parseDigest(b []byte) (d participant.Digest, err error) {
	if len(b) != 0 && len(b) != len(d) {
		return d, invalid("digest", "has %d bytes, want the %d of the last answer", len(b), len(d))
	}
	copy(d[:], b)
	return d, nil
}

func parseNumber(n uint64) error {
	if n == 0 {
		return invalid("number", "is 0: the requests of a branch are numbered from 1")
	}
	return nil
}

func parseValues(messages []*concordv1.Value) (list []statement.Value, err error) {
	if len(messages) > MaxArguments {
		return nil, invalid("arguments", "are %d, at most %d are allowed", len(messages), MaxArguments)
	}
	for i, m := range messages {
		v := parseValue(m)
		if err := v.Check(); err != nil {
			return nil, invalid(fmt.Sprintf("arguments[%d]", i), "%v", err)
		}
		list = append(list, v)
	}
	return list, nil
}

func parseValue(m *concordv1.Value) statement.Value {
	switch k := m.GetKind().(type) {
	case *concordv1.Value_Bool:
		return statement.OfBool(k.Bool)
	case *concordv1.Value_Int:
		return statement.OfInt(k.Int)
	case *concordv1.Value_Uint:
		return statement.OfUint(k.Uint)
	case *concordv1.Value_Float:
		return statement.OfFloat(k.Float)
	case *concordv1.Value_Decimal:
		return statement.Value{Kind: statement.Decimal, Text: k.Decimal}
	case *concordv1.Value_Text:
		return statement.OfText(k.Text)
	case *concordv1.Value_Bytes:
		return statement.OfBytes(k.Bytes)
	case *concordv1.Value_Time:
		return statement.Value{Kind: statement.Time, Text: k.Time}
	case *concordv1.Value_Json:
		return statement.Value{Kind: statement.JSON, Text: k.Json}
	}
	return statement.Value{}
}

// valueMessage is the inverse. A text that is not UTF-8 goes as bytes: messages cannot hold it.
func valueMessage(v statement.Value) *concordv1.Value {
	if v.Kind != statement.Bytes && v.Check() != nil {
		v.Kind = statement.Text
	}
	if v.Kind == statement.Text && v.Check() != nil {
		v.Kind = statement.Bytes
	}
	switch v.Kind {
	case statement.Bool:
		return &concordv1.Value{Kind: &concordv1.Value_Bool{Bool: v.Text == "true"}}
	case statement.Int:
		n, _ := strconv.ParseInt(v.Text, 10, 64) // checked
		return &concordv1.Value{Kind: &concordv1.Value_Int{Int: n}}
	case statement.Uint:
		n, _ := strconv.ParseUint(v.Text, 10, 64)
		return &concordv1.Value{Kind: &concordv1.Value_Uint{Uint: n}}
	case statement.Float:
		f, _ := strconv.ParseFloat(v.Text, 64)
		return &concordv1.Value{Kind: &concordv1.Value_Float{Float: f}}
	case statement.Decimal:
		return &concordv1.Value{Kind: &concordv1.Value_Decimal{Decimal: v.Text}}
	case statement.Text:
		return &concordv1.Value{Kind: &concordv1.Value_Text{Text: v.Text}}
	case statement.Bytes:
		return &concordv1.Value{Kind: &concordv1.Value_Bytes{Bytes: []byte(v.Text)}}
	case statement.Time:
		return &concordv1.Value{Kind: &concordv1.Value_Time{Time: v.Text}}
	case statement.JSON:
		return &concordv1.Value{Kind: &concordv1.Value_Json{Json: v.Text}}
	}
	return &concordv1.Value{}
}

func answerMessage(a participant.Answer) *concordv1.ExecuteResponse {
	m := &concordv1.ExecuteResponse{Number: a.Number, Digest: a.Digest[:], Error: a.Failed, NotSent: a.NotSent}
	for _, c := range a.Result.Columns {
		m.Columns = append(m.Columns, &concordv1.Column{Name: c.Name, Type: c.Type})
	}
	for _, row := range a.Result.Rows {
		r := &concordv1.Row{}
		for _, v := range row {
			r.Values = append(r.Values, valueMessage(v))
		}
		m.Rows = append(m.Rows, r)
	}
	if a.Failed == "" && a.Result.Affected >= 0 {
		m.Affected = &a.Result.Affected
	}
	return m
}

func branchMessage(b txn.Branch) *concordv1.Branch {
	return api.BranchMessages([]txn.Branch{b})[0]
}

func stateMessage(s participant.State) *concordv1.AgentBranch {
	m := &concordv1.AgentBranch{
		Cluster: s.Branch.XID.Cluster.String(), Gid: s.Branch.XID.ID.String(), No: uint32(s.Branch.XID.Branch),
		Resource: s.Branch.Resource,
		Phase:    s.Phase, Reason: s.Reason, Partial: s.Partial,
	}
	if s.Decision != txn.Undecided {
		m.Decision = s.Decision.String()
	}
	if s.Finish != 0 {
		m.Finish = s.Finish.String()
	}
	for _, w := range s.Redo {
		m.Work = append(m.Work, w.String())
	}
	return m
}
