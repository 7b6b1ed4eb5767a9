// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/api/concord/v1/concordv1connect"
	"github.com/concordtx/concord/coordinator/deadlock"
	"github.com/concordtx/concord/security"
	"github.com/concordtx/concord/security/access"
	"github.com/concordtx/concord/txn"
)

// castle is a node behind a door, and the certificates of who may come.
type castle struct {
	testing.TB
	dir    security.Dir
	auth   *security.Authority
	tokens string
	guard  *access.Guard
	addr   string
}

var castleGrants = []security.Grant{
	{Subject: "billing-app", Roles: []security.Role{security.Application}, Resources: []string{"billing"}},
	{Subject: "shop-app", Roles: []security.Role{security.Application}, Resources: []string{"orders", "billing"}},
	{Subject: "east", Roles: []security.Role{security.AgentRole}, Resources: []string{"ledger"}},
	{Subject: "vera", Roles: []security.Role{security.Viewer}},
	{Subject: "otto", Roles: []security.Role{security.Operator}},
	{Subject: "anna", Roles: []security.Role{security.Admin}},
}

func castlePolicy(t testing.TB, grants []security.Grant) *security.Policy {
	p, err := security.NewPolicy(grants, []string{"orders", "billing", "ledger"})
	require.NoError(t, err)
	return p
}

// guarded serves a node behind a door with the grants above.
func guarded(t *testing.T, n Node) *castle {
	t.Helper()
	root := t.TempDir()
	c := &castle{TB: t, dir: security.Dir(filepath.Join(root, "certs")), tokens: filepath.Join(root, "tokens")}
	var err error
	c.auth, err = security.NewAuthority(c.dir, filepath.Join(root, "ca.key"), "shop", security.AuthorityLifetime, false)
	require.NoError(t, err)
	c.issue(security.Node, "1", "2")
	c.issue(security.Agent, "east")
	c.issue(security.Client, "billing-app", "shop-app", "vera", "otto", "anna", "mallory")
	_, _, err = security.CreateToken(c.tokens, "vera", time.Hour)
	require.NoError(t, err)
	keys, err := security.Load(c.dir.Node(1), nil)
	require.NoError(t, err)
	tokens, err := security.LoadTokens(c.tokens, nil)
	require.NoError(t, err)
	c.guard = access.NewGuard(access.Config{Keys: keys, Tokens: tokens, Policy: castlePolicy(t, castleGrants)})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	c.addr = l.Addr().String()
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, n, c.guard, l, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() { stop(); require.NoError(t, <-done) })
	return c
}

func (c *castle) issue(k security.Kind, names ...string) {
	c.Helper()
	for _, n := range names {
		var hosts []string
		if k != security.Client {
			hosts = []string{"127.0.0.1"}
		}
		_, err := c.auth.Issue(c.dir, k, n, hosts, security.CertificateLifetime, true)
		require.NoError(c, err)
	}
}

// as is an HTTP client with somebody's certificate; without a name it has none.
func (c *castle) as(name string) *http.Client {
	c.Helper()
	conf := &tls.Config{InsecureSkipVerify: true}
	if name != "" {
		found, err := filepath.Glob(filepath.Join(string(c.dir), "*."+name+".crt"))
		require.NoError(c, err)
		require.Len(c, found, 1)
		pair, err := tls.LoadX509KeyPair(found[0], strings.TrimSuffix(found[0], ".crt")+".key")
		require.NoError(c, err)
		conf.Certificates = []tls.Certificate{pair}
	}
	t := &http.Transport{TLSClientConfig: conf, ForceAttemptHTTP2: true}
	c.Cleanup(t.CloseIdleConnections)
	return &http.Client{Transport: t, Timeout: time.Minute}
}

func (c *castle) stub(name string) client {
	return concordv1connect.NewCoordinatorServiceClient(c.as(name), "https://"+c.addr,
		connect.WithInterceptors(telling{}))
}

// telling asks for redirects, so that nothing is handed on.
type telling struct{}

func (telling) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
		r.Header().Set(api.RedirectHeader, "1")
		return next(ctx, r)
	}
}
func (telling) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}
func (telling) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}

// code knocks at a procedure with an empty message and returns with which code that ends; empty if
// somebody was let in.
func (c *castle) code(who *http.Client, m protoreflect.MethodDescriptor) string {
	c.Helper()
	body, kind := []byte("{}"), "application/json"
	if m.IsStreamingClient() || m.IsStreamingServer() {
		body, kind = append([]byte{0, 0, 0, 0, 2}, body...), "application/connect+json"
	}
	ctx, hangUp := context.WithTimeout(c.Context(), 10*time.Second)
	defer hangUp()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost,
		"https://"+c.addr+"/"+string(m.Parent().FullName())+"/"+string(m.Name()), bytes.NewReader(body))
	require.NoError(c, err)
	req.Header.Set("Content-Type", kind)
	res, err := who.Do(req)
	require.NoError(c, err, m.FullName())
	defer res.Body.Close()
	text := make([]byte, 4096)
	n, err := io.ReadAtLeast(res.Body, text, 2)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		require.NoError(c, err, m.FullName())
	}
	for _, code := range []string{"unauthenticated", "permission_denied"} {
		if bytes.Contains(text[:n], []byte(`"`+code+`"`)) {
			return code
		}
	}
	return ""
}

func TestEveryProcedureHasARule(t *testing.T) {
	services := concordv1.File_concord_v1_concord_proto.Services()
	for i := range services.Len() {
		require.Empty(t, rules.Missing(services.Get(i)), "say who may call it, in access.go")
	}
}

// Who may call what, each procedure by each role over a real connection.
func TestEveryProcedureByEveryRole(t *testing.T) {
	c := guarded(t, newFake())
	allowed := map[string][]string{
		"Commit": {"shop-app", "billing-app", "2"}, "Decide": {"shop-app", "billing-app", "2"}, "Lease": {"shop-app",
			"billing-app", "2"},
		"Finished": {"shop-app", "billing-app", "east", "2"}, "Outcome": {"shop-app", "billing-app", "east", "2"},
		"KeyUse":  {"shop-app", "billing-app", "2"},
		"Follow":  {"shop-app", "billing-app", "2"},
		"Waiting": {"shop-app", "billing-app", "2"},
		"Deliver": {"east", "2"}, "ListThrough": {"2"}, "FinishThrough": {"2"},
		"Get":       {"shop-app", "billing-app", "east", "vera", "otto", "anna", "2"},
		"List":      {"shop-app", "billing-app", "east", "vera", "otto", "anna", "2"},
		"Resources": {"shop-app", "billing-app", "east", "vera", "otto", "anna", "2"},
		"Status":    {"vera", "otto", "anna", "2"}, "Watch": {"vera", "otto", "anna", "2"},
		"Resolve": {"otto", "anna"}, "Forget": {"otto", "anna"}, "Settle": {"otto", "anna"},
		"Audit": {"otto", "anna"}, "Retry": {"otto", "anna"},
		"Recover": {"otto", "anna"}, "CheckResource": {"otto", "anna"},
		"ReportResource": {"otto", "anna"}, "AcceptResource": {"otto", "anna"},
		"ReplaceMember": {"anna"}, "AddMember": {"anna"}, "RemoveMember": {"anna"}, "TransferLeadership": {"anna"},
	}
	all := []string{"shop-app", "billing-app", "east", "vera", "otto", "anna", "mallory", "2"}
	for _, name := range all {
		who := c.as(name)
		for _, m := range procedures() {
			if m.Parent().FullName() != concordv1connect.CoordinatorServiceName {
				continue
			}
			want := "permission_denied"
			if allowed[string(m.Name())] == nil {
				t.Fatalf("%s is a new procedure: say in this test who may call it", m.Name())
			}
			if slices.Contains(allowed[string(m.Name())], name) {
				want = ""
			}
			require.Equal(t, want, c.code(who, m), "%s by %s", m.Name(), name)
		}
	}
	nobody := c.as("")
	for _, m := range procedures() {
		if m.Parent().FullName() == concordv1connect.CoordinatorServiceName {
			require.Equal(t, "unauthenticated", c.code(nobody, m), "%s by nobody", m.Name())
		}
	}
}

func TestWhatWhoeverIsNotLetInReads(t *testing.T) {
	c := guarded(t, newFake())
	_, err := c.stub("").Status(t.Context(), &concordv1.StatusRequest{})
	require.ErrorIs(t, api.FromStatus(err), txn.ErrUnauthenticated)
	require.EqualError(t, api.FromStatus(err), "unauthenticated: this cluster wants a client certificate or a "+
		"token: --certs-dir, --token-file")
	_, err = c.stub("billing-app").Resolve(t.Context(), &concordv1.ResolveRequest{})
	require.ErrorIs(t, api.FromStatus(err), txn.ErrDenied)
	require.EqualError(t, api.FromStatus(err), `permission denied: "billing-app" has no role operator (grants: `+
		`application on billing): "auth.grants" in the configuration gives roles`)
	_, err = c.stub("mallory").Status(t.Context(), &concordv1.StatusRequest{})
	require.EqualError(t, api.FromStatus(err), `permission denied: "mallory" has no role viewer (grants: none): `+
		`"auth.grants" in the configuration gives roles`)
	require.NoError(t, c.auth.Revoke(c.dir, string(c.dir)+"/client.otto.crt"))
	require.NoError(t, c.guard.Keys().Reload())
	_, err = c.stub("otto").Status(t.Context(), &concordv1.StatusRequest{})
	require.EqualError(t, api.FromStatus(err), "unauthenticated: the certificate is not accepted: that of "+
		"concord://shop/client/otto was revoked")
}

// Who has no TLS at all reads what is missing, whatever he asks for, and at once.
func TestWhoComesInPlainReadsWhatIsMissing(t *testing.T) {
	c := guarded(t, newFake())
	plain, err := api.Dial([]string{c.addr}, api.ClientOptions{Patience: time.Minute})
	require.NoError(t, err)
	defer plain.Close()
	const says = "unauthenticated: this cluster wants a client certificate or a token: --certs-dir, --token-file"
	_, err = plain.Status(t.Context(), &concordv1.StatusRequest{})
	require.ErrorIs(t, err, txn.ErrUnauthenticated)
	require.ErrorContains(t, err, says)
	_, err = plain.Commit(t.Context(), bare())
	require.ErrorIs(t, err, txn.ErrUnauthenticated)
	require.ErrorContains(t, err, says)
}

func TestPagesAreGuardedToo(t *testing.T) {
	c := guarded(t, newFake())
	get := func(who *http.Client, path string) int {
		res, err := who.Get("https://" + c.addr + path)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		return res.StatusCode
	}
	require.Equal(t, http.StatusOK, get(c.as(""), "/livez"))
	require.Equal(t, http.StatusOK, get(c.as(""), "/readyz"))
	require.Equal(t, http.StatusUnauthorized, get(c.as(""), "/metrics"))
	require.Equal(t, http.StatusForbidden, get(c.as("billing-app"), "/metrics"))
	require.Equal(t, http.StatusOK, get(c.as("vera"), "/metrics"))
	require.Equal(t, http.StatusNotFound, get(c.as("anna"), "/debug/pprof/"))
}

// A token says who it is, goes before a certificate, and is looked at as long as a stream lasts.
func TestTokens(t *testing.T) {
	c := guarded(t, newFake())
	list, err := security.ReadTokens(c.tokens)
	require.NoError(t, err)
	require.NoError(t, security.RevokeToken(c.tokens, list[0].ID))
	token, e, err := security.CreateToken(c.tokens, "vera", time.Hour)
	require.NoError(t, err)
	call := func(who *http.Client, token string) error {
		_, err := concordv1connect.NewCoordinatorServiceClient(&http.Client{Transport: with{who.Transport, "Bearer " +
			token}}, "https://"+c.addr).Status(t.Context(), &concordv1.StatusRequest{})
		return api.FromStatus(err)
	}
	require.Eventually(t, func() bool { return call(c.as(""), token) == nil }, 10*time.Second, 100*time.Millisecond)
	require.ErrorIs(t, call(c.as("anna"), token+"x"), txn.ErrUnauthenticated, "a wrong token is not made good by a "+
		"certificate")
	require.NoError(t, call(c.as("mallory"), token), "nor a right one made bad")
	stream, err := concordv1connect.NewCoordinatorServiceClient(&http.Client{Transport: with{c.as("").Transport,
		"Bearer " + token}}, "https://"+c.addr).
		Watch(t.Context(), &concordv1.WatchRequest{IntervalMs: 50})
	require.NoError(t, err)
	require.True(t, stream.Receive(), stream.Err())
	require.NoError(t, security.RevokeToken(c.tokens, e.ID))
	for stream.Receive() {
	}
	require.ErrorIs(t, api.FromStatus(stream.Err()), txn.ErrUnauthenticated)
	for range 30 {
		err = call(c.as(""), token)
	}
	require.ErrorIs(t, err, txn.ErrBusy, "who has many wrong ones is not heard for a while")
	right, _, err := security.CreateToken(c.tokens, "vera", time.Hour)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return call(c.as(""), right) == nil }, 10*time.Second, 100*time.Millisecond,
		"somebody else at the same address is locked out")
}

type with struct {
	http.RoundTripper
	authorization string
}

func (w with) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", w.authorization)
	return w.RoundTripper.RoundTrip(r)
}

// Nobody but a node says for whom it calls.
func TestTheCallerHeaderOfAClientIsRefused(t *testing.T) {
	c := guarded(t, newFake())
	call := func(who, caller string) error {
		_, err := concordv1connect.NewCoordinatorServiceClient(&http.Client{Transport: speaking{c.as(who).Transport,
			caller}}, "https://"+c.addr).
			Resolve(t.Context(), &concordv1.ResolveRequest{})
		return api.FromStatus(err)
	}
	require.EqualError(t, call("billing-app", "concord://shop/client/otto"), "Concord-Caller: only nodes speak for "+
		"others")
	require.ErrorIs(t, call("", "concord://shop/client/otto"), txn.ErrInvalid)
	for _, nonsense := range []string{"otto", "concord://shop/node/1", "concord://other/client/otto",
		"concord://shop/client/otto?"} {
		require.ErrorIs(t, call("2", nonsense), txn.ErrInvalid, nonsense)
	}
	require.ErrorIs(t, call("2", "concord://shop/client/billing-app"), txn.ErrDenied, "a node's certificate is not "+
		"taken for its caller")
	require.ErrorContains(t, call("2", "concord://shop/client/otto"), "gid: ", "the operator was let in, and his "+
		"request is looked at")
}

type speaking struct {
	http.RoundTripper
	caller string
}

func (s speaking) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set(api.CallerHeader, s.caller)
	return s.RoundTripper.RoundTrip(r)
}

// Whoever comes with a key that another application used does not see what that kept.
func TestAKeyOfAnotherApplication(t *testing.T) {
	n := newFake()
	n.keyed = txn.Txn{ID: known.ID, Decision: txn.Commit, Branches: []txn.Branch{{No: 1, Resource: "orders"}, {No: 2,
		Resource: "billing"}}}
	c := guarded(t, n)
	_, err := c.stub("billing-app").KeyUse(t.Context(), &concordv1.KeyUseRequest{Key: "k"})
	require.ErrorIs(t, api.FromStatus(err), txn.ErrDenied)
	require.EqualError(t, api.FromStatus(err), "another application's transaction is committed "+
		"under the key: begin keys with a name of your own")
	own, err := c.stub("shop-app").KeyUse(t.Context(), &concordv1.KeyUseRequest{Key: "k"})
	require.NoError(t, err)
	require.Equal(t, "kept", string(own.GetResult()))
}

// What is another application's is not there for this one.
func TestOthersTransactionsAreNotFound(t *testing.T) {
	n := newFake()
	id := txn.NewID(time.Now())
	n.view.Known, n.view.Txn = true, txn.Txn{ID: id, Decision: txn.Commit, Ended: true,
		Branches: []txn.Branch{{No: 1, Resource: "orders", Holder: "h", Evidence: "e"}, {No: 2, Resource: "billing"}}}
	n.finished = []txn.Txn{n.view.Txn}
	c := guarded(t, n)
	get := func(name string) (*concordv1.Transaction, error) {
		r, err := c.stub(name).Get(t.Context(), &concordv1.GetRequest{Gid: id.String()})
		return r.GetTransaction(), api.FromStatus(err)
	}
	listed := func(name string) int {
		r, err := c.stub(name).List(t.Context(), &concordv1.ListRequest{})
		require.NoError(t, err)
		return len(r.GetTransactions())
	}
	for _, stranger := range []string{"billing-app", "east"} {
		_, err := get(stranger)
		require.ErrorIs(t, err, txn.ErrNotFound, stranger)
		require.Zero(t, listed(stranger), stranger)
		_, err = c.stub(stranger).Outcome(t.Context(), &concordv1.OutcomeRequest{Gid: id.String()})
		require.ErrorIs(t, api.FromStatus(err), txn.ErrNotFound, stranger)
	}
	require.NotContains(t, n.calls, "Outcome", "it was not asked, so nothing was aborted")
	own, err := get("shop-app")
	require.NoError(t, err)
	require.Equal(t, "e", own.GetBranches()[0].GetEvidence())
	require.Equal(t, 1, listed("shop-app"))
	_, err = c.stub("shop-app").Outcome(t.Context(), &concordv1.OutcomeRequest{Gid: id.String()})
	require.NoError(t, err)
	seen, err := get("vera")
	require.NoError(t, err)
	require.Empty(t, seen.GetBranches()[0].GetEvidence(), "a viewer sees that it is there")
	require.Empty(t, seen.GetBranches()[0].GetHolder())
	seen, err = get("otto")
	require.NoError(t, err)
	require.Equal(t, "h", seen.GetBranches()[0].GetHolder())
}

func TestNobodyCommitsOnWhatHeWasNotGranted(t *testing.T) {
	n := newFake()
	c := guarded(t, n)
	r := bare()
	r.Branches = []*concordv1.Branch{{No: 1, Resource: "billing"}, {No: 2, Resource: "orders"}}
	_, err := c.stub("billing-app").Commit(t.Context(), r)
	require.ErrorIs(t, api.FromStatus(err), txn.ErrDenied)
	require.ErrorContains(t, err, `"billing-app" has no role application on `)
	require.Empty(t, n.calls, "a denial leaves nothing behind")
	bidi, err := c.stub("billing-app").Decide(t.Context())
	require.NoError(t, err)
	require.NoError(t, bidi.Send(&concordv1.DecideRequest{Commits: []*concordv1.NumberedCommit{{Number: 1,
		Request: r}}}))
	m, err := bidi.Receive()
	require.NoError(t, err)
	require.EqualValues(t, connect.CodePermissionDenied, m.GetAnswers()[0].GetError().GetCode())
	require.Empty(t, n.calls)
	// Grants change while the stream is open.
	wider := slices.Clone(castleGrants)
	wider[0].Resources = []string{"*"}
	c.guard.SetPolicy(castlePolicy(t, wider))
	require.NoError(t, bidi.Send(&concordv1.DecideRequest{Commits: []*concordv1.NumberedCommit{{Number: 2,
		Request: r}}}))
	m, err = bidi.Receive()
	require.NoError(t, err)
	require.Nil(t, m.GetAnswers()[0].GetError())
	require.NoError(t, bidi.CloseRequest())
	require.NoError(t, bidi.CloseResponse())
}

// A lease is ended by who was granted it; of others it is not even said whether it is there.
// Who tells who waits speaks of his own databases, and is told gids of transactions in these only.
func TestWhoIsToldWhatOfADeadlock(t *testing.T) {
	n := newFake()
	victim, another, third := txn.NewID(time.Now()), txn.NewID(time.Now()), txn.NewID(time.Now())
	n.deadlocks = []deadlock.Deadlock{{Victim: victim, Resources: []string{"billing", "orders"},
		Others: []deadlock.Party{
			{ID: another, Resources: []string{"billing"}}, {ID: third}}}}
	c := guarded(t, n)
	tells := func(name, resource string) (*concordv1.WaitingResponse, error) {
		return c.stub(name).Waiting(t.Context(), waiting(&concordv1.WaitingTransaction{Gid: victim.String(),
			Branches: []*concordv1.WaitingBranch{{Resource: resource, Session: "s", Waits: true}}}))
	}
	res, err := tells("billing-app", "billing")
	require.NoError(t, err)
	require.EqualValues(t, 8, res.GetLook())
	require.Len(t, res.GetDeadlocks(), 1)
	require.Equal(t, victim.String(), res.GetDeadlocks()[0].GetVictim())
	require.Equal(t, []string{"billing", "orders"}, res.GetDeadlocks()[0].GetResources())
	require.Equal(t, []string{another.String()}, res.GetDeadlocks()[0].GetOthers(), "of the third nobody knows "+
		"whose it is")
	told := len(n.calls)
	_, err = tells("billing-app", "orders")
	require.ErrorIs(t, api.FromStatus(err), txn.ErrDenied)
	require.Len(t, n.calls, told, "the node does not hear of it")
	res, err = tells("shop-app", "orders")
	require.NoError(t, err)
	require.NotContains(t, res.GetDeadlocks()[0].GetOthers(), third.String())
}

func TestNobodyEndsAnothersLease(t *testing.T) {
	n := newFake()
	c := guarded(t, n)
	granted, err := c.stub("shop-app").Lease(t.Context(), &concordv1.LeaseRequest{})
	require.NoError(t, err)
	end := &concordv1.LeaseRequest{Lease: granted.GetLease(), End: true}
	_, err = c.stub("billing-app").Lease(t.Context(), end)
	require.NoError(t, err)
	require.NotContains(t, n.calls, "EndLease")
	_, err = c.stub("shop-app").Lease(t.Context(), end)
	require.NoError(t, err)
	require.Contains(t, n.calls, "EndLease")
}

func TestMetricsOfTheDoor(t *testing.T) {
	c := guarded(t, newFake())
	_, err := c.stub("mallory").Status(t.Context(), &concordv1.StatusRequest{})
	require.Error(t, err)
	res, err := c.as("vera").Get("https://" + c.addr + "/metrics")
	require.NoError(t, err)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.Contains(t, string(text), "concord_insecure 0\n")
	require.Contains(t, string(text), "concord_calls_denied_total 1\n")
	for which, life := range map[string]time.Duration{"own": security.CertificateLifetime,
		"authority": security.AuthorityLifetime} {
		_, after, found := strings.Cut(string(text), `concord_certificate_expiry_seconds{which="`+which+`"} `)
		require.True(t, found, which)
		line, _, _ := strings.Cut(after, "\n")
		seconds, err := strconv.ParseFloat(line, 64)
		require.NoError(t, err)
		require.InDelta(t, life.Seconds(), seconds, 3600, which)
	}
}
