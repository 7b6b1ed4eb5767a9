// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"
)

// run sends one statement alone, as COMMIT PREPARED must be, and returns its tag.
func run(ctx context.Context, pg *pgconn.PgConn, text string) (string, error) {
	results, err := pg.Exec(ctx, text).ReadAll()
	if err != nil {
		return "", err
	}
	if len(results) != 1 {
		return "", fmt.Errorf("%d answers to one statement", len(results))
	}
	return results[0].CommandTag.String(), nil
}

// runEach sends statements that have to be alone, such as COMMIT PREPARED, one behind the other without waiting, and
// returns the tag of each; empty: the server refused it. Where the connection breaks, the tags end.
func runEach(ctx context.Context, pg *pgconn.PgConn, texts []string) (tags []string, err error) {
	p := pg.StartPipeline(ctx)
	for _, text := range texts {
		p.SendQueryParams(text, nil, nil, nil, nil)
		p.SendPipelineSync()
	}
	if err = p.Flush(); err == nil {
		tags, err = readTags(p, len(texts))
	}
	if closing := p.Close(); err == nil {
		err = closing
	}
	return tags, err
}

func readTags(p *pgconn.Pipeline, n int) (tags []string, err error) {
	for tag := ""; len(tags) < n; {
		got, err := p.GetResults()
		switch got := got.(type) {
		case nil:
			if sqlState(err) == "" { // not an answer: nothing follows
				return tags, lost(err, nil)
			}
		case *pgconn.ResultReader:
			result := got.Read()
			if result.Err == nil {
				tag = result.CommandTag.String()
			} else if sqlState(result.Err) == "" {
				return tags, result.Err
			}
		case *pgconn.PipelineSync:
			tags, tag = append(tags, tag), ""
		}
	}
	return tags, nil
}

// askNumber returns the number of the transaction, empty if it has none, and the role.
func askNumber(ctx context.Context, pg *pgconn.PgConn, m mark) (number, role string, err error) {
	return readNumber(pg.ExecParams(ctx, m.numberText(), nil, nil, nil, nil).Read())
}

// askReader returns the number of the transaction, empty if it has none, and its isolation.
func askReader(ctx context.Context, pg *pgconn.PgConn, m mark) (number, isolation string, err error) {
	return readNumber(pg.ExecParams(ctx, m.readerText(), nil, nil, nil, nil).Read())
}

func readNumber(result *pgconn.Result) (number, role string, err error) {
	if result.Err != nil {
		return "", "", result.Err
	}
	if len(result.Rows) != 1 || len(result.Rows[0]) != 3 {
		return "", "", fmt.Errorf("%d rows instead of a transaction number", len(result.Rows))
	}
	return string(result.Rows[0][0]), string(result.Rows[0][1]), nil
}

// ending is what was learned while a transaction ended; number and role may be known
// although the rest was lost.
type ending struct {
	number, role string
	tag          string
	early        bool // the server answered an error, a FATAL one perhaps, before it came to the end
}

// prepareBranch asks a question of the transaction and prepares it, in one round trip.
func prepareBranch(ctx context.Context, pg *pgconn.PgConn, q question, text string) (ending, error) {
	p := pg.StartPipeline(ctx)
	if q.known != nil { // the server need not parse it again
		p.SendQueryStatement(q.known, q.params, nil, nil)
	} else {
		p.SendQueryParams(q.text, q.params, nil, nil, nil)
	}
	p.SendQueryParams(text, nil, nil, nil, nil)
	end, err := readEnding(p)
	if closing := p.Close(); err == nil {
		err = closing
	}
	return end, err
}

// commitBranch asks for the transaction's number and commits it, in one round trip. The
// flush between the two makes the server send the number before it begins to commit, so
// that it is known even if the answer to the commit is lost: nobody else could tell.
func commitBranch(ctx context.Context, pg *pgconn.PgConn, m mark) (ending, error) {
	p := pg.StartPipeline(ctx)
	p.SendQueryParams(m.numberText(), nil, nil, nil, nil)
	p.SendFlushRequest()
	p.SendQueryParams("commit", nil, nil, nil, nil)
	end, err := readEnding(p)
	if closing := p.Close(); err == nil {
		err = closing
	}
	return end, err
}

func readEnding(p *pgconn.Pipeline) (ending, error) {
	var end ending
	if err := p.Sync(); err != nil {
		return end, err
	}
	var failure error
	for answers := 0; ; {
		got, err := p.GetResults()
		if err != nil {
			if sqlState(err) == "" { // not an answer: nothing follows
				return end, lost(err, failure)
			}
			failure, end.early = err, answers == 0
			answers++
			continue
		}
		reader, isResult := got.(*pgconn.ResultReader)
		if got == nil {
			return end, failure
		}
		if !isResult {
			continue // a sync
		}
		result := reader.Read()
		answers++
		switch {
		case result.Err != nil:
			failure, end.early = result.Err, answers == 1 && sqlState(result.Err) != ""
			if sqlState(result.Err) == "" {
				return end, result.Err
			}
		case answers == 1:
			if end.number, end.role, err = readNumber(result); err != nil {
				failure = err
			}
		default:
			end.tag = result.CommandTag.String()
		}
	}
}

// lost prefers the last words of the server to the broken connection that they explain.
func lost(err, answer error) error {
	if answer != nil && !refused(answer) {
		return answer
	}
	return err
}
