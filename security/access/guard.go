// SPDX-License-Identifier: Apache-2.0

package access

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"

	"connectrpc.com/connect"

	"github.com/concordtx/concord/api"
	"github.com/concordtx/concord/security"
	"github.com/concordtx/concord/txn"
)

// Config is what a Guard must know.
type Config struct {
	// Keys verify certificates; nil: the listener is open, and everybody may do everything.
	Keys *security.Keys
	// Tokens are what else a caller may have; nil: there are none.
	Tokens *security.Tokens
	Policy *security.Policy
	// Hosts are the names under which an open listener may be asked, so that a page in somebody's
	// browser does not reach it by a name of its own; nil: any.
	Hosts []string
	// Limits that are zero have their defaults.
	Limits Limits
	// Logger gets denials, at a bounded rate.
	Logger *slog.Logger
}

// Guard finds out who calls and whether that one may.
type Guard struct {
	config   Config
	tokens   atomic.Pointer[security.Tokens] // nil: there are none
	policy   atomic.Pointer[security.Policy]
	failures failures
	memory   *memory
	denials  sampled
	denied   atomic.Uint64
	errors   *connect.ErrorWriter
}

// NewGuard returns a guard.
func NewGuard(c Config) *Guard {
	c.Limits = c.Limits.withDefaults()
	g := &Guard{config: c, memory: newMemory(c.Limits), errors: connect.NewErrorWriter()}
	g.SetTokens(c.Tokens)
	if c.Policy == nil {
		c.Policy = &security.Policy{}
	}
	g.SetPolicy(c.Policy)
	return g
}

// SetPolicy puts another policy in force, for streams that are open as well.
func (g *Guard) SetPolicy(p *security.Policy) { g.policy.Store(p) }

// SetTokens puts other tokens in force; nil: none. Streams that a token of before has begun end with their next
// message.
func (g *Guard) SetTokens(t *security.Tokens) { g.tokens.Store(t) }

// subject says whom a token stands for.
func (g *Guard) subject(token string) (string, bool) {
	t := g.tokens.Load()
	if t == nil {
		return "", false
	}
	return t.Subject(token)
}

// Secure reports whether the guard asks who calls.
func (g *Guard) Secure() bool { return g.config.Keys != nil }

// Insecure reports whether the guard lets in whoever comes, and not from this machine alone.
func (g *Guard) Insecure() bool { return g.config.Keys == nil && g.config.Hosts == nil }

// Limits are those of the guard.
func (g *Guard) Limits() Limits { return g.config.Limits }

// Denied counts the calls that were not let in.
func (g *Guard) Denied() uint64 { return g.denied.Load() }

// Keys are those of the guard; nil: it asks nobody.
func (g *Guard) Keys() *security.Keys { return g.config.Keys }

var (
	errNobody = fmt.Errorf("%w: this cluster wants a client certificate or a token: --certs-dir, --token-file",
		txn.ErrUnauthenticated)
	errToken = fmt.Errorf("%w: the token is not known here, has expired or was revoked: \"concord token create\" "+
		"makes one", txn.ErrUnauthenticated)
)

// Handler puts the guard in front of another one.
func (g *Guard) Handler(rules Rules, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, err := g.admit(r, rules)
		if err != nil {
			g.refuse(w, r, err)
			return
		}
		r = r.WithContext(ctx)
		done, err := g.memory.of(w, r, rules[r.URL.Path].Stream)
		if err != nil {
			g.refuse(w, r, err)
			return
		}
		defer done()
		next.ServeHTTP(w, r)
	})
}

// admit looks at the headers of a request alone.
func (g *Guard) admit(r *http.Request, rules Rules) (context.Context, error) {
	ctx := r.Context()
	if g.config.Keys == nil {
		if !g.knownHost(r.Host) {
			return nil, fmt.Errorf("%w: this listener is for this machine, and not for the name %.100q: ask it by "+
				"its address", txn.ErrDenied, r.Host)
		}
		return With(ctx, (&Caller{}).calledFrom(r, true)), nil
	}
	rule, known := rules[r.URL.Path]
	if !known {
		return nil, txn.NotFoundf("%.100q: there is no such procedure or page here", r.URL.Path)
	}
	if rule.Open {
		return ctx, nil
	}
	c, err := g.caller(r)
	if err != nil {
		return nil, stale(ctx, err)
	}
	a, err := c.Access()
	if err != nil {
		return nil, err
	}
	if !rule.allows(a) {
		return nil, Denied(a, rule.wanted())
	}
	return With(ctx, c), belongs(ctx, c.Subject())
}

// errStale is for a connection that was accepted under an authority which was taken away since. Whoever
// belongs to the cluster has another certificate by now, and shows it when it connects again.
var errStale = fmt.Errorf("%w: the authority of this connection's certificate is not believed any more: connect again",
	txn.ErrUnavailable)

func stale(ctx context.Context, err error) error {
	unknown := x509.UnknownAuthorityError{}
	if errors.As(err, &unknown) && accepted(ctx) {
		return errStale
	}
	return err
}

// caller says who makes a request. A token goes before a certificate: who hands on the calls of
// others has a certificate of its own, and must not be taken for them, nor they for it.
func (g *Guard) caller(r *http.Request) (*Caller, error) {
	who, err := g.config.Keys.Peer(r.TLS)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", txn.ErrUnauthenticated, err)
	}
	c := (&Caller{guard: g, who: who}).calledFrom(r, who.Kind == security.Node)
	relayed := r.Header.Values(api.CallerHeader)
	if len(relayed) > 0 {
		c.who, err = security.ParseIdentity(relayed[0])
		if err != nil || len(relayed) > 1 || who.Kind != security.Node || c.who.Kind == security.Node ||
			c.who.Cluster != who.Cluster {
			return nil, txn.Invalidf("%s: only nodes speak for others", api.CallerHeader)
		}
		return c, nil
	}
	if header := r.Header.Get("Authorization"); header != "" {
		return g.byToken(r, header)
	}
	if who == (security.Identity{}) {
		return nil, errNobody
	}
	return c, nil
}

func (g *Guard) byToken(r *http.Request, header string) (*Caller, error) {
	token, ok := strings.CutPrefix(header, "Bearer ")
	if ok {
		if subject, known := g.subject(token); known {
			c := &Caller{guard: g, token: token, who: security.Identity{Cluster: g.config.Keys.Self().Cluster,
				Kind: security.Client, Name: subject}}
			return c.calledFrom(r, false), nil
		}
	}
	// A right token is heard whatever came before it: whoever sends wrong ones may be behind the same address.
	from := hostOf(r.RemoteAddr)
	if !g.failures.mayTry(from) {
		return nil, txn.Busyf("too many wrong tokens came from %s: wait a minute", from)
	}
	g.failures.add(from)
	return nil, errToken
}

func hostOf(addr string) string {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	return host
}

// knownHost reports whether an open listener may be asked by a name.
func (g *Guard) knownHost(host string) bool {
	if g.config.Hosts == nil {
		return true
	}
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	name = strings.Trim(name, "[]")
	if ip := net.ParseIP(name); ip != nil { // nobody's name leads here by an address
		return true
	}
	for _, allowed := range g.config.Hosts {
		if strings.EqualFold(allowed, name) {
			return true
		}
	}
	return false
}

// refuse answers in the words of the protocol that the caller speaks.
func (g *Guard) refuse(w http.ResponseWriter, r *http.Request, err error) {
	g.denied.Add(1)
	if g.config.Logger != nil {
		g.denials.warn(g.config.Logger, "call denied", err, "remote", r.RemoteAddr, "path", r.URL.Path)
	}
	if errors.Is(err, errStale) {
		w.Header().Set("Connection", "close")
	}
	status := api.ToStatus(err)
	if g.errors.IsSupported(r) {
		_ = g.errors.Write(w, r, status) // else the caller is gone
		return
	}
	code := http.StatusForbidden
	switch connect.CodeOf(status) {
	case connect.CodeUnauthenticated:
		code = http.StatusUnauthorized
		w.Header().Set("WWW-Authenticate", "Bearer")
	case connect.CodeInvalidArgument:
		code = http.StatusBadRequest
	case connect.CodeNotFound:
		code = http.StatusNotFound
	case connect.CodeResourceExhausted:
		code = http.StatusTooManyRequests
	}
	http.Error(w, err.Error(), code)
}

// Open returns a guard that lets everybody do everything.
func Open() *Guard { return NewGuard(Config{}) }
