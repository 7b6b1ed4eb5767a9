// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"

	concordv1 "github.com/concordtx/concord/api/concord/v1"
)

// Branch is what the application works with: the branch of one global transaction in one database of
// the agent. It is used by one goroutine at a time, and is over when its global transaction commits
// or rolls back. The error of a statement dooms the branch, unless it wraps ErrNotSent or a savepoint
// from before it is rolled back to.
type Branch struct{ session *session }

// Statement is one statement of the database: with $1 for PostgreSQL, ? for MySQL and MariaDB; for an
// embedded store a command: get KEY, set KEY VALUE, add KEY NUMBER, delete KEY, each operand a word
// or ?.
type Statement struct {
	Text string
	// Args are nil, bool, numbers, string, []byte, time.Time, Decimal, Time or json.RawMessage.
	Args []any
	// MaxRows is how many rows the answer may hold; 0: as many as the agent allows, which is also
	// the most.
	MaxRows int
}

// Result is the answer to a statement.
type Result struct {
	Columns []string
	// Rows hold nil, bool, int64, uint64, float64, Decimal, string, []byte, Time or json.RawMessage.
	Rows [][]any
	// Affected is how many rows were changed; -1 if the database does not say.
	Affected int64
}

// Execute runs a statement. When ctx ends first it may be done all the same, and the branch is doomed.
func (b *Branch) Execute(ctx context.Context, s Statement) (Result, error) {
	r := &concordv1.ExecuteRequest{Statement: s.Text, MaxRows: uint32(max(0, s.MaxRows))}
	for _, a := range s.Args {
		v, err := toValue(a)
		if err != nil {
			return Result{}, &notSent{err}
		}
		r.Arguments = append(r.Arguments, v)
	}
	m, err := b.ExecuteMessage(ctx, r)
	if err != nil {
		return Result{}, err
	}
	result := Result{Affected: -1}
	if m.Affected != nil {
		result.Affected = m.GetAffected()
	}
	for _, c := range m.GetColumns() {
		result.Columns = append(result.Columns, c.GetName())
	}
	for _, row := range m.GetRows() {
		var values []any
		for _, v := range row.GetValues() {
			values = append(values, fromValue(v))
		}
		result.Rows = append(result.Rows, values)
	}
	return result, nil
}

// ExecuteMessage is Execute in words of the API: of r it takes the statement, its arguments and its
// limits.
func (b *Branch) ExecuteMessage(ctx context.Context, r *concordv1.ExecuteRequest) (*concordv1.ExecuteResponse, error) {
	return b.session.work(ctx, "execute",
		func(ctx context.Context, at *concordv1.BranchAddress, number uint64) (*concordv1.ExecuteResponse, error) {
			r.Branch, r.Number = at, number
			return b.session.client.execute(ctx,
				&concordv1.NumberedWork{Call: &concordv1.NumberedWork_Execute{Execute: r}})
		})
}

// Savepoint marks the work done so far. A name has 1 to 32 letters, digits and underscores, a
// letter first.
func (b *Branch) Savepoint(ctx context.Context, name string) error {
	_, err := b.session.work(ctx, "savepoint",
		func(ctx context.Context, at *concordv1.BranchAddress, number uint64) (*concordv1.ExecuteResponse, error) {
			return b.session.client.execute(ctx, &concordv1.NumberedWork{Call: &concordv1.NumberedWork_Savepoint{
				Savepoint: &concordv1.SavepointRequest{Branch: at, Number: number, Name: name}}})
		})
	return err
}

// RollbackTo undoes the work done since a savepoint, and heals a branch whose statement failed behind
// it. The savepoint stays.
func (b *Branch) RollbackTo(ctx context.Context, name string) error {
	_, err := b.session.work(ctx, "roll back to a savepoint",
		func(ctx context.Context, at *concordv1.BranchAddress, number uint64) (*concordv1.ExecuteResponse, error) {
			return b.session.client.execute(ctx, &concordv1.NumberedWork{Call: &concordv1.NumberedWork_RollbackTo{
				RollbackTo: &concordv1.RollbackToRequest{Branch: at, Number: number, Name: name}}})
		})
	return err
}
