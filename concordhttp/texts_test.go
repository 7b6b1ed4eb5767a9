// SPDX-License-Identifier: Apache-2.0

package concordhttp_test

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/internal/said"
	"github.com/concordtx/concord/txn"
)

// teller is whoever began a transaction that billing takes part in.
type teller struct {
	*chain
	secret  txn.Secret
	p       api.Propagation
	service concord.Peer
	life    string // of billing
}

// begin makes up a transaction, which the cluster does not know.
func (s *chain) begin() *teller {
	var p api.Propagation
	require.NoError(s, s.client.Run(s.Context(), func(ctx context.Context, tx *concord.Tx) error {
		call, err := tx.Call(ctx, "nobody", nil)
		require.NoError(s, err)
		p, err = api.ParsePropagation(call.Header())
		call.NotSent()
		return err
	}))
	t := &teller{chain: s, secret: txn.NewSecret(), p: p, service: s.other.JoinService()}
	t.p.Capability = t.secret.Capability()
	t.p.ID = txn.NewID(time.Now()).WithCapability(t.p.Capability)
	return t
}

// join makes a call.
func (t *teller) join() (*concord.Join, error) {
	header, err := api.Text(t.p.Message())
	require.NoError(t, err)
	return t.other.Join(t.Context(), header)
}

// work makes a call, which does this, and returns what it says at its end.
func (t *teller) work(do func(ctx context.Context, tx *concord.Tx) error) api.Participation {
	j, err := t.join()
	require.NoError(t, err)
	tx, _ := concord.FromContext(j.Context())
	p, err := api.ParseParticipation(j.Leave(do(j.Context(), tx), ""))
	require.NoError(t, err)
	t.life = p.Instance
	return p
}

func (t *teller) vote(heard uint32, proof txn.Proof) (string, error) {
	m, err := t.service.Vote(t.Context(), &concordv1.VoteRequest{Gid: t.p.ID.String(), Instance: t.life, Proof: proof,
		Calls: heard, Sum: (t.p.Call * api.CallName(heard)).String(), Branches: []uint32{7}})
	if err != nil {
		return "", api.FromStatus(err)
	}
	return m.GetVotes()[0].GetReason(), nil
}

func (t *teller) abort() error {
	_, err := t.service.Conclude(t.Context(), &concordv1.ConcludeRequest{Gid: t.p.ID.String(), Instance: t.life,
		Decision: txn.Abort.String(), Proof: t.secret.Proof(txn.Abort)})
	return api.FromStatus(err)
}

func nothing(context.Context, *concord.Tx) error { return nil }

// refused is what a call that cannot join hears.
func refused(change func(t *teller)) func(*chain) error {
	return func(s *chain) error {
		t := s.begin()
		change(t)
		_, err := t.join()
		return err
	}
}

// handled is what is wrong with what a handler of billing does.
func handled(change func(t *teller), do func(ctx context.Context, tx *concord.Tx) error) func(*chain) error {
	return func(s *chain) error {
		t := s.begin()
		change(t)
		p := t.work(do)
		if err := t.abort(); err != nil {
			return err
		}
		return errors.New(p.Failed)
	}
}

func callOnward(ctx context.Context, tx *concord.Tx) error {
	_, err := tx.Call(ctx, "stock", nil)
	return err
}

// quack answers for a service.
type quack struct {
	votes []*concordv1.JoinedVote
	err   error
	torn  string
}

func (q quack) Vote(context.Context, *concordv1.VoteRequest) (*concordv1.VoteResponse, error) {
	return &concordv1.VoteResponse{Votes: q.votes}, q.err
}

func (q quack) Conclude(context.Context, *concordv1.ConcludeRequest) (*concordv1.ConcludeResponse, error) {
	return &concordv1.ConcludeResponse{Torn: q.torn}, nil
}

// answered is what Run says when a service has answered so.
func answered(peer concord.Peer, dial error, answer func(api.Participation) string, own ...string) func(*chain) error {
	return func(s *chain) error {
		return s.client.Run(s.Context(), func(ctx context.Context, tx *concord.Tx) error {
			if len(own) > 0 {
				require.NoError(s, s.order(ctx, tx)) // in branch 0
			}
			call, err := tx.Call(ctx, "stock:80", func(string) (concord.Peer, error) { return peer, dial })
			require.NoError(s, err)
			p, err := api.ParsePropagation(call.Header())
			require.NoError(s, err)
			_ = call.Answered(answer(api.Participation{Call: p.Call, Instance: strings.Repeat("0a", 16),
				Branches: []api.OpenedBranch{{No: p.First, Resource: "stock", Driver: "memory"}}}))
			return nil
		})
	}
}

func text(p api.Participation) string {
	s, err := api.Text(p.Message())
	if err != nil {
		return err.Error()
	}
	return s
}

var joinedTexts = []struct {
	name string
	meet func(*chain) error
	says string
	is   error // beside what it always is
}{
	{"a call behind its deadline", refused(func(t *teller) { t.p.Deadline = time.Now().Add(-time.Hour) }),
		"join a transaction: the time limit of the call's transaction is over: allow more (WithTimeout), or do less " +
			"in one transaction", txn.ErrRefused},
	{"another cluster", refused(func(t *teller) { t.p.Cluster = 0xc0ffee01 }),
		"join a transaction: the transaction is one of cluster c0ffee01, and this service uses CLUSTER: let both " +
			"use the same cluster", txn.ErrRefused},
	{"a stranger", refused(func(t *teller) { t.p.Capability[0]++ }),
		"join a transaction: who calls does not take part in the transaction: call with the context that Run gives " +
			"to its function, through concordhttp or concordgrpc", txn.ErrDenied},
	{"three phases", refused(func(t *teller) { t.p.ID = t.p.ID.WithClass(txn.ThreePhase) }),
		"join a transaction: a transaction of three phases cannot be joined by another service: begin it without " +
			"WithProtocol(ThreePhase)", txn.ErrRefused},
	{"a call that comes twice", refused(func(t *teller) { t.work(nothing) }),
		"join a transaction: this very call was made before, and is not done twice; its answer was lost, so the " +
			"transaction has to be begun again", txn.ErrRefused},
	{"a late call", refused(func(t *teller) { t.work(nothing); require.NoError(t, t.abort()) }),
		"join a transaction: the call has outlived its transaction, which has ended: begin another one, and make " +
			"the call in that", txn.ErrRefused},
	{"a circle", refused(func(t *teller) { t.work(nothing); t.p.Path = append(t.p.Path, t.life) }),
		"join a transaction: the transaction came through this very process, which would wait for its own locks: do " +
			"the work before the other service is called, or answer it what it needs to do the work", txn.ErrRefused},
	{"two callers", refused(func(t *teller) { t.work(nothing); t.p.Path = nil }),
		"join a transaction: another service has called this one in the same transaction, and each would have to " +
			"know what the other one has done: let one of them make all calls of this service in a transaction",
		txn.ErrRefused},

	{"a handler that commits", handled(func(*teller) {}, func(ctx context.Context,
		tx *concord.Tx) error {
		return tx.Commit(ctx)
	}), "a part of the transaction failed: the transaction was begun by another service, which commits it: return " +
		"from the handler", nil},
	{"handed on too often", handled(func(t *teller) {
		t.p.Path = slices.Repeat([]string{strings.Repeat("0b", 16)},
			api.MaxPath)
	}, callOnward), "a part of the transaction failed: call stock in transaction GID: the transaction has come " +
		"through 16 services, and no more may hand it on: let one of them make this call, or call with a context of " +
		"concord.NewContext(ctx, nil)", nil},
	{"no numbers left", handled(func(t *teller) { t.p.Branches = 1 }, callOnward),
		"a part of the transaction failed: call stock in transaction GID: 0 calls are under way and there are 0 " +
			"branches, and all numbers of branches are given out: make fewer calls at a time, or hand the " +
			"transaction on to fewer services", nil},
	{"no branches left", func(s *chain) error {
		t := s.begin()
		t.p.Branches = 0
		p := t.work(func(ctx context.Context, tx *concord.Tx) error { _, err := s.ledger.Tx(ctx, tx); return err })
		return errors.Join(errors.New(p.Failed), t.abort())
	}, "a part of the transaction failed: enlist ledger: a call of another service may open no more branches here, " +
		"there are 0: use fewer databases in one transaction, or let fewer services hand it on", nil},
	{"a handler that leaves a call behind", handled(func(*teller) {}, func(ctx context.Context, tx *concord.Tx) error {
		_ = callOnward(ctx, tx)
		return nil
	}), "a part of the transaction failed: a call of another service is under way: wait for its answer before the " +
		"handler returns", nil},
	{"who began it is gone", func(s *chain) error {
		t := s.begin()
		t.p.ID = t.p.ID.WithLease(4711)
		j, err := t.join()
		require.NoError(t, err)
		<-j.Context().Done()
		j.Leave(nil, "")
		return context.Cause(j.Context())
	}, "who began the transaction is gone, or has ended it", nil},
	{"who began it has ended it", func(s *chain) error {
		t := s.begin()
		_, err := s.client.Outcome(s.Context(), t.p.ID)
		require.NoError(t, err)
		j, err := t.join()
		require.NoError(t, err)
		<-j.Context().Done()
		j.Leave(nil, "")
		return context.Cause(j.Context())
	}, "who began the transaction is gone, or has ended it: the decision is to abort, without this service", nil},

	{"votes of another life", func(s *chain) error { _, err := s.begin().vote(1, nil); return err },
		"this process takes no part in transaction GID: it has started since, or another one is meant",
		txn.ErrNotFound},
	{"votes for a stranger", func(s *chain) error {
		t := s.begin()
		t.work(nothing)
		_, err := t.vote(1, txn.Proof(t.p.Capability[:]))
		return errors.Join(err, t.abort())
	}, "who asks has not begun the transaction: let only who has begun it ask for votes, and tell decisions",
		txn.ErrDenied},
	{"votes of what has ended", func(s *chain) error {
		t := s.begin()
		t.work(nothing)
		require.NoError(t, t.abort())
		_, err := t.vote(1, t.secret.Proof(txn.Undecided))
		return err
	}, "transaction GID has ended here: begin another one", txn.ErrRefused},
	{"votes while a call is under way", voted(0, func(t *teller) { _, err := t.join(); require.NoError(t, err) }),
		"a part of the transaction failed: 1 calls are still under way here: wait for their answers before the " +
			"transaction is committed", nil},
	{"votes after an answer was lost", voted(0, func(*teller) {}),
		"a part of the transaction failed: 1 calls were made here, and who began the transaction has the answers to " +
			"0, or to others: an answer was lost, so begin the transaction again", nil},
	{"votes for a branch that nobody knows", func(s *chain) error {
		t := s.begin()
		t.work(func(ctx context.Context, tx *concord.Tx) error { _, err := s.ledger.Tx(ctx, tx); return err })
		why, err := t.vote(1, t.secret.Proof(txn.Undecided))
		return errors.Join(errors.New(why), err)
	}, "a part of the transaction failed: branch NO was opened in ledger after the call had been answered: do all " +
		"work before the handler returns", nil},

	{"a commit that does not wait for an answer", func(s *chain) error {
		return s.client.Run(s.Context(), func(ctx context.Context, tx *concord.Tx) error {
			return quiet(callOnward(ctx,
				tx))
		})
	}, "transaction GID was aborted: a call of another service is under way: wait for its answer before the " +
		"transaction is committed", concord.ErrAborted},
	{"no answer", func(s *chain) error {
		return s.client.Run(s.Context(), func(ctx context.Context, tx *concord.Tx) error {
			call, err := tx.Call(ctx, "stock:80", nil)
			call.Failed(errors.New("connection reset"))
			return err
		})
	}, "transaction GID was aborted: a part of the transaction failed: no answer came from the service at stock:80: " +
		"connection reset", concord.ErrAborted},
	{"an answer of a service that does not join", answered(quack{}, nil, func(api.Participation) string { return "" }),
		"transaction GID was aborted: a part of the transaction failed: the answer of stock:80 does not say what " +
			"was done there in the transaction: let the service join (concordhttp.Middleware, " +
			"concordgrpc.UnaryServerInterceptor), or call one that has no part in it by another client",
		concord.ErrAborted},
	{"an answer that is none", answered(quack{}, nil, func(api.Participation) string { return "x" }),
		"transaction GID was aborted: a part of the transaction failed: the answer of stock:80 is none of a service " +
			"that joins transactions: concord-participation: is not JSON of this message", concord.ErrAborted},
	{"an answer to another call", answered(quack{}, nil, func(p api.Participation) string { p.Call++; return text(p) }),
		"transaction GID was aborted: a part of the transaction failed: the answer of stock:80 is that to another " +
			"call: let no cache be in between", concord.ErrAborted},
	{"an answer from where nobody is", answered(nil, errors.New("no such host"), func(p api.Participation) string {
		p.Addr = "10.0.0.7:80"
		return text(p)
	}), "transaction GID was aborted: a part of the transaction failed: the service at stock:80 cannot be reached at " +
		"10.0.0.7:80, where it says it is: no such host", concord.ErrAborted},
	{"a number that two branches have", answered(quack{}, nil, func(p api.Participation) string {
		p.Branches[0].No = 0
		return text(p)
	}, "orders"), "transaction GID was aborted: a part of the transaction failed: the service at stock:80 has " +
		"opened branch NO, which is another one: invalid request: run releases of concord there and here that fit " +
		"together", concord.ErrAborted},
	{"a resource that two services use", answered(quack{}, nil, func(p api.Participation) string {
		p.Branches = append(p.Branches, p.Branches[0])
		p.Branches[1].No++
		return text(p)
	}), "transaction GID was aborted: a part of the transaction failed: stock is used by two services in one " +
		"transaction, this one or another and the one at stock:80, and each would wait for the locks of the other: " +
		"use it in one of them, and let all calls of a transaction reach the same process", concord.ErrAborted},
	{"a call that failed there", answered(quack{}, nil,
		func(p api.Participation) string { p.Failed = "no stock"; return text(p) }), "transaction GID was aborted: " +
		"a part of the transaction failed: the service at stock:80 failed: no stock",
		concord.ErrAborted},
	{"a service that cannot be asked", answered(quack{err: api.ToStatus(txn.Deniedf("go away"))}, nil, text),
		"transaction GID was aborted by stock: the service at stock:80 has not voted: go away", concord.ErrAborted},
	{"a service that votes no", answered(quack{votes: votes("no", "stock")}, nil, text),
		"transaction GID was aborted by stock: the service at stock:80 votes no: sold out", concord.ErrAborted},
	{"a service that is torn", answered(quack{votes: votes("no", "stock"), torn: "a statement ended it"}, nil, text),
		"transaction GID was rolled back, but not all of what it did in stock: the service at stock:80 has rolled " +
			"back, but not all: a statement ended it: part of the branch may be committed; look into that database " +
			"for what is left of it before you repeat it", concord.ErrTorn},
	{"a vote for something else", answered(quack{votes: votes("yes", "ledger")}, nil, text),
		"transaction GID was aborted by stock: the service at stock:80 votes for ledger, and branch NO was opened " +
			"in stock",
		concord.ErrAborted},
	{"no vote", answered(quack{}, nil, text),
		"transaction GID was aborted by stock: the service at stock:80 has not voted for branch NO",
		concord.ErrAborted},
}

func quiet(error) error { return nil }

// votes are those for the first branch that the first call of a transaction may open.
func votes(vote, resource string) []*concordv1.JoinedVote {
	const first = txn.MaxBranches - txn.MaxBranches/8
	v := &concordv1.JoinedVote{No: first, Vote: vote, Reason: "sold out", Resource: "stock"}
	if vote == "yes" {
		v.Branch = &concordv1.Branch{No: first, Resource: resource}
	}
	return []*concordv1.JoinedVote{v}
}

// voted is what a vote says for who has heard so many calls, after one and something else.
func voted(heard uint32, further func(*teller)) func(*chain) error {
	return func(s *chain) error {
		t := s.begin()
		t.work(nothing)
		t.p.Call++
		further(t)
		why, err := t.vote(heard, t.secret.Proof(txn.Undecided))
		return errors.Join(errors.New(why), err)
	}
}

// textsWithoutRow are met by nobody, or where no test can be.
var textsWithoutRow = map[string]string{
	"%d transactions of other services are taken part in, which is the limit: call again later": "16,384 of them",
	"the branches of transaction %s have not voted yet: ask again":                              "the SDK asks again",
	"branches of transaction %s have not ended yet: ask again":                                  "the SDK asks again",
	"transaction %s is in the hands of another call: ask again: %w":                             "the SDK asks again",
	"the cluster could not be asked how transaction %s was decided: ask again: %w":              "the SDK asks again",
	"its part in this service has only read":                                                    "a reason of a commit",
	"who began the transaction has said so":                                                     "a reason for the log",
	"the cluster has said so":                                                                   "a reason for the log",
	"nobody has told the decision: %w": "for the log, " +
		"after ten minutes",
	"who began the transaction has ended it": "a reason for hooks",
	"another service has the sessions of this resource in the transaction": "nobody calls what " +
		"says it",
	"%w: a branch of another service is committed by a decision of the cluster only": "nobody calls what " +
		"says it",
	"was not told to %v: %w":                           "for the log",
	"has answered what this version does not know: %w": "for the log",
	"has not said what became of branch %d":            "for the log",
}

func TestWhatErrorsOfJoinedCallsSay(t *testing.T) {
	s := openChain(t)
	cluster := s.begin().p.Cluster.String()
	var rows []string
	for _, m := range joinedTexts {
		rows = append(rows, m.says)
		t.Run(m.name, func(t *testing.T) {
			err := m.meet(s)
			require.Error(t, err)
			said := strings.ReplaceAll(err.Error(), cluster, "CLUSTER")
			said = regexp.MustCompile(`\b[0-7][0-9A-HJKMNP-TV-Z]{25}\b`).ReplaceAllString(said, "GID")
			said = regexp.MustCompile(`branch [0-9]+`).ReplaceAllString(said, "branch NO")
			require.Equal(t, m.says, said)
			if m.is != nil {
				require.ErrorIs(t, err, m.is)
			}
			for _, kind := range []error{txn.ErrRefused, txn.ErrDenied, txn.ErrBusy} {
				require.False(t, strings.HasSuffix(said, fmt.Sprint(": ", kind)), "no next step is behind %q", kind)
			}
		})
	}
	said.CheckFiles(t, []string{"../join.go", "../part.go", "../call.go", "../adapters/joined/branch.go",
		"../adapters/joined/service.go", "../adapters/joined/calls.go"}, rows, textsWithoutRow, "failure")
}
