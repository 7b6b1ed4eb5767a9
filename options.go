// SPDX-License-Identifier: Apache-2.0

package concord

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/concordtx/concord/api"
	"github.com/concordtx/concord/security"
	"github.com/concordtx/concord/txn"
)

// Option configures a Client.
type Option func(*config)

type config struct {
	tls *tls.Config
	who security.Source
	// credentials go before who.
	credentials *security.Credentials
	logger      *slog.Logger
	hooks       []Hook
	slow        time.Duration // no threshold: zero
}

// WithTLS uses TLS for all connections to the cluster, for those whose certificates come from
// elsewhere. WithCertsDir is for the others.
func WithTLS(c *tls.Config) Option { return func(o *config) { o.tls = c } }

// WithCertsDir shows the cluster who calls, and believes none but nodes of the cluster: the directory has
// ca.crt and a client's certificate and key, as "concord cert" makes them. They may change while the client
// runs.
func WithCertsDir(dir string) Option { return func(o *config) { o.who.CertsDir = dir } }

// WithUser says whose certificate is meant, if the directory has those of several.
func WithUser(name string) Option { return func(o *config) { o.who.User = name } }

// WithTokenFile sends the token that a file has instead of a certificate, to nodes that are verified:
// WithCertsDir says whom to believe. The file may change while the client runs.
func WithTokenFile(path string) Option { return func(o *config) { o.who.TokenFile = path } }

// WithCredentials is WithCertsDir for who has loaded them already; nil: connections are plain.
func WithCredentials(c *security.Credentials) Option { return func(o *config) { o.credentials = c } }

// FromEnvironment takes from CONCORD_CERTS_DIR, CONCORD_USER and CONCORD_TOKEN_FILE what WithCertsDir, WithUser
// and WithTokenFile say; without them, nothing.
func FromEnvironment() Option {
	return func(o *config) {
		o.who = security.Source{CertsDir: os.Getenv(security.EnvCertsDir), User: os.Getenv(security.EnvUser),
			TokenFile: os.Getenv(security.EnvTokenFile)}
	}
}

func (o config) open() (*security.Credentials, error) {
	if o.credentials != nil {
		return o.credentials, nil
	}
	return o.who.Open(o.logger)
}

// WithLogger logs what no error tells: outcomes that are settled late, reports that
// were dropped, what the driver for MySQL finds wrong with a connection. The default is silence.
func WithLogger(l *slog.Logger) Option { return func(o *config) { o.logger = l } }

// WithSlowThreshold logs each transaction that takes longer than d, with the time that its steps
// took, by the logger of WithLogger and at the level of warnings.
func WithSlowThreshold(d time.Duration) Option { return func(o *config) { o.slow = d } }

// TxOption configures one transaction.
type TxOption func(*txConfig)

type txConfig struct {
	label    string
	timeout  time.Duration
	from     limitSource
	protocol txn.Protocol
	wanted   string // protocol, by its name
	class    txn.Class
	last     string      // resource that decides; empty: none
	once     bool        // RunOnce
	key      string      // of it
	retry    RetryPolicy // no attempts: once
	alone    bool        // nothing to join
	early    bool        // answered at the decision
}

// DefaultTimeout is how long a transaction may take from Begin to the decision.
const DefaultTimeout = 30 * time.Second

// WithTimeout changes DefaultTimeout for one transaction. The cluster's longest transaction
// and the context may end it earlier; the error says which of them it was. Whichever it is: the
// branches are rolled back then, even if the application is in the middle of its work.
func WithTimeout(d time.Duration) TxOption {
	return func(o *txConfig) { o.timeout, o.from = d, byOption }
}

// WithLabel says what the transaction is about, in at most 1024 bytes. People see it in
// "concord tx get"; it is kept as long as the transaction's outcome. It costs the bytes that
// it has, on every node.
func WithLabel(label string) TxOption { return func(o *txConfig) { o.label = label } }

// Recorded lets the cluster decide the transaction even if it changes one database or none,
// so that Client.Outcome of its id is Committed or Aborted, whoever asks and whenever: for
// applications that store the id with their data, or hand it on. A transaction with one branch
// costs a prepare and a request to the cluster more than without.
func Recorded() TxOption { return func(o *txConfig) { o.class = txn.Recorded } }

// WithAnswerAtDecision lets Commit return when the transaction is durably decided, and not only when its branches are
// committed in the databases, which goes on in the background: a round trip to the slowest of them less, and its sync.
//
// Nil means what it always does: the transaction is committed, and nothing takes that back. But for a moment whoever
// reads a database may find it as it was before, the caller too; its locks are held there until then, and its
// connection is busy. If a database is down at that moment, its branch is committed when it is back. Close waits until
// each branch was tried once. An abort is answered as without this option, and a transaction whose only branch commits
// alone has no decision but that.
func WithAnswerAtDecision() TxOption { return func(o *txConfig) { o.early = true } }

// The commit protocols. In TwoPhase, the default, this client prepares the branches and the cluster
// decides. In ThreePhase agents hold all branches, and decide together with the cluster: they
// finish also when the cluster is lost after they have agreed, at the price of one more round.
const (
	TwoPhase   = "two_phase"
	ThreePhase = "three_phase"
)

// WithProtocol chooses the commit protocol: TwoPhase or ThreePhase.
func WithProtocol(name string) TxOption { return func(o *txConfig) { o.wanted = name } }

func newTxConfig(opts []TxOption) (txConfig, error) {
	o := txConfig{timeout: DefaultTimeout}
	for _, opt := range opts {
		opt(&o)
	}
	if o.timeout <= 0 {
		return o, fmt.Errorf("begin: WithTimeout(%v): %w: want a positive duration", o.timeout, txn.ErrInvalid)
	}
	if o.once {
		if err := api.ParseKey("RunOnce", o.key); err != nil {
			return o, fmt.Errorf("begin: %w", err)
		}
	}
	if o.retry != (RetryPolicy{}) {
		if err := o.retry.check(); err != nil {
			return o, err
		}
	}
	if err := api.ParseText("WithLabel", o.label, txn.MaxLabel); err != nil {
		return o, fmt.Errorf("begin: %w", err)
	}
	var err error
	if o.protocol, err = api.ParseProtocol("WithProtocol", o.wanted); err != nil {
		return o, fmt.Errorf("begin: %w", err)
	}
	if o.protocol == txn.ThreePhaseCommit {
		if o.once {
			return o, txn.Invalidf("begin: RunOnce works in two phases: leave WithProtocol out")
		}
		o.class = txn.ThreePhase
	}
	return o, o.deferring()
}

// limit returns when a transaction that begins now has to be over, and why then.
func (o txConfig) limit(ctx context.Context, longest time.Duration) (time.Time, *limitError) {
	now := time.Now()
	limit := &limitError{after: o.timeout, from: o.from}
	if longest > 0 && longest < o.timeout {
		limit = &limitError{after: longest, from: byCluster}
		if o.from == byOption {
			limit.wanted = o.timeout
		}
	}
	deadline := now.Add(limit.after)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		return d, &limitError{after: d.Sub(now), caller: context.DeadlineExceeded}
	}
	return deadline, limit
}
