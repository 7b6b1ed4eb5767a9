// SPDX-License-Identifier: Apache-2.0

package security

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAPolicyDeniesWhatItDoesNotGrant(t *testing.T) {
	p, err := NewPolicy([]Grant{
		{Subject: "billing-app", Roles: []Role{Application}, Resources: []string{"billing"}},
		{Subject: "east", Roles: []Role{AgentRole}, Resources: []string{"ledger"}},
		{Subject: "alice", Roles: []Role{Operator}},
		{Subject: "root", Roles: []Role{Admin}},
		{Subject: "root", Roles: []Role{Application}, Resources: []string{"*"}},
	}, []string{"billing", "ledger"})
	require.NoError(t, err)
	of := func(name string) Access { return p.Of(Identity{Cluster: "shop", Kind: Client, Name: name}) }

	app := of("billing-app")
	require.True(t, app.Has(Application))
	require.False(t, app.Has(Viewer))
	require.True(t, app.On("billing", Application))
	require.False(t, app.On("ledger", Application))
	require.False(t, app.On("billing", AgentRole))
	require.Equal(t, "application on billing", app.Grants())

	require.False(t, of("east").On("ledger", Application))
	require.True(t, of("east").On("ledger", Application, AgentRole))
	require.True(t, of("alice").Has(Viewer))
	require.False(t, of("alice").Has(Admin))
	require.False(t, of("alice").On("billing", Application))
	require.True(t, of("root").Has(Operator))
	require.True(t, of("root").On("anything", Application))
	require.Equal(t, "admin; application on *", of("root").Grants())

	require.False(t, of("mallory").Has(Viewer))
	require.Equal(t, "none", of("mallory").Grants())
	node := p.Of(NodeIdentity("shop", 1))
	require.True(t, node.IsNode())
	require.True(t, node.Has(Viewer))
	require.False(t, node.Has(Operator))
	require.True(t, node.On("billing", Application))
	require.False(t, of("1").IsNode(), "a client that is called like a node")
	require.False(t, Everything().IsNode())
	require.True(t, Everything().Has(Admin))
	require.False(t, (&Policy{}).Of(Identity{Kind: Client, Name: "alice"}).Has(Viewer))
}

func TestGrantsThatAreNotAccepted(t *testing.T) {
	for _, bad := range []struct {
		grant Grant
		says  string
	}{
		{Grant{Subject: "a b", Roles: []Role{Viewer}}, "auth.grants[0]: subject: "},
		{Grant{Subject: "a"}, `"a" gets no role: give "roles" one or more of application, agent, viewer, operator, ` +
			`admin`},
		{Grant{Subject: "a", Roles: []Role{"root"}}, `"root" is no role: there are application,`},
		{Grant{Subject: "a", Roles: []Role{NodeRole}}, `"node" is no role`},
		{Grant{Subject: "a", Roles: []Role{Application}},
			`"a" is application on no resource: name them in "resources", or "*" for all`},
		{Grant{Subject: "a", Roles: []Role{Application}, Resources: []string{"oders"}}, `there is no resource "oders"`},
		{Grant{Subject: "a", Roles: []Role{Viewer}, Resources: []string{"orders"}},
			`the roles of "a" are for the whole cluster`},
	} {
		_, err := NewPolicy([]Grant{bad.grant}, []string{"orders"})
		require.ErrorContains(t, err, bad.says)
	}
}

func FuzzParseTokens(f *testing.F) {
	f.Add([]byte("# id subject sha256 expires\n0123abcd a " +
		"abababababababababababababababababababababababababababababababab 2099-01-01T00:00:00Z\n"))
	f.Add([]byte("\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := parseTokens("tokens", b)
		if err != nil {
			return
		}
		text := ""
		for _, e := range list {
			text += e.line()
		}
		again, err := parseTokens("tokens", []byte(text))
		require.NoError(t, err)
		require.Len(t, again, len(list))
	})
}

func FuzzCertificates(f *testing.F) {
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := parseCertificates("x", b)
		if err == nil {
			require.NotEmpty(t, list)
			_, _ = identityOf(list[0]) // must not panic
		}
		_, _ = parseRevoked("x", b, list) // nor this
	})
}
