// SPDX-License-Identifier: Apache-2.0

package security

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/internal/said"
)

// message is an error that whoever makes or uses certificates and tokens can meet: how to get it, and
// what it says, with DIR for the directory and TIME for what differs.
type message struct {
	name string
	meet func(*testing.T, *shop) error
	says string
}

// put writes a file of the directory and returns its path.
func (s *shop) put(name, text string, mode os.FileMode) string {
	s.Helper()
	require.NoError(s, os.WriteFile(s.path(name), []byte(text), 0o600))
	require.NoError(s, os.Chmod(s.path(name), mode))
	return s.path(name)
}

// get reads a file of the directory.
func (s *shop) get(name string) string {
	s.Helper()
	b, err := os.ReadFile(s.path(name))
	require.NoError(s, err)
	return string(b)
}

// loading is what node 1 says when it reads its files, of which this one has another content.
func loading(file, text string) func(*testing.T, *shop) error {
	return func(_ *testing.T, s *shop) error {
		s.put(file, text, 0o600)
		_, err := Load(s.dir.Node(1), nil)
		return err
	}
}

// crafted is what node 1 says when it reads a certificate that is like this.
func crafted(change func(*x509.Certificate)) func(*testing.T, *shop) error {
	return func(_ *testing.T, s *shop) error {
		s.craft(Node, "1", change)
		_, err := Load(s.dir.Node(1), nil)
		return err
	}
}

// issuing is what the authority says when it is asked for this certificate.
func issuing(k Kind, name string, lifetime time.Duration, hosts ...string) func(*testing.T, *shop) error {
	return func(_ *testing.T, s *shop) error {
		_, err := s.authority.Issue(s.dir, k, name, hosts, lifetime, false)
		return err
	}
}

// opening is what somebody says who opens the authority with this content of its key's file.
func opening(key func(*testing.T, *shop) string) func(*testing.T, *shop) error {
	return func(t *testing.T, s *shop) error {
		require.NoError(t, os.WriteFile(s.keyFile, []byte(key(t, s)), 0o600))
		_, err := OpenAuthority(s.dir, s.keyFile)
		return err
	}
}

// tokens is what a node says of a line in its file of tokens.
func tokens(line string) func(*testing.T, *shop) error {
	return func(_ *testing.T, s *shop) error {
		_, err := LoadTokens(s.put("tokens", line, 0o600), nil)
		return err
	}
}

// showing is what a client says that has this file of a token.
func showing(token string) func(*testing.T, *shop) error {
	return func(_ *testing.T, s *shop) error {
		_, err := Source{CertsDir: string(s.dir), TokenFile: s.put("token", token, 0o600)}.Open(nil)
		return err
	}
}

// from is what a client says that has its credentials from there.
func from(from Source) func(*testing.T, *shop) error {
	return func(*testing.T, *shop) error {
		_, err := from.Open(nil)
		return err
	}
}

// granting is what a node says that is configured with this grant.
func granting(g Grant) func(*testing.T, *shop) error {
	return func(*testing.T, *shop) error {
		_, err := NewPolicy([]Grant{g}, []string{"orders"})
		return err
	}
}

// is parses an identity.
func is(text string) func(*testing.T, *shop) error {
	return func(*testing.T, *shop) error {
		_, err := ParseIdentity(text)
		return err
	}
}

const isNoName = " is no name: use 1 to 64 letters, digits, dots, hyphens and underscores, and begin with a letter " +
	"or a digit"

var aHash = strings.Repeat("ab", 32)

var messages = []message{
	{name: "an authority for a cluster without a name", meet: func(_ *testing.T, s *shop) error {
		_, err := NewAuthority(s.dir, s.keyFile, "a/b", time.Hour, true)
		return err
	}, says: `--cluster: "a/b"` + isNoName},
	{name: "an authority over another one", meet: func(_ *testing.T, s *shop) error {
		_, err := NewAuthority(s.dir, s.keyFile, "shop", time.Hour, false)
		return err
	}, says: "DIR/safe/ca.key: file already exists: choose another name, or replace it with --overwrite"},
	{name: "an authority whose key is not there", meet: func(_ *testing.T, s *shop) error {
		_, err := OpenAuthority(s.dir, s.path("ca.key"))
		return err
	}, says: `the authority's key: open DIR/certs/ca.key: no such file or directory: give its path with --ca-key, or ` +
		`make one with "concord cert create-ca"`},
	{name: "an authority whose certificate is not there", meet: func(_ *testing.T, s *shop) error {
		_, err := OpenAuthority(s.dir+"/x", s.keyFile)
		return err
	}, says: "the authority's certificate: open DIR/certs/x/ca.crt: no such file or directory: give the directory " +
		"with --certs-dir"},
	{name: "an authority of another directory", meet: func(t *testing.T, s *shop) error {
		_, err := OpenAuthority(s.dir, newShop(t, "shop").keyFile)
		return err
	}, says: "none of the certificates in DIR/certs/ca.crt belongs to the key OTHER/safe/ca.key: give the right " +
		"--certs-dir and --ca-key"},
	{name: "an authority whose key is none",
		meet: opening(func(*testing.T, *shop) string { return "none" }),
		says: `DIR/safe/ca.key is not PEM: give the key that "concord cert create-ca" made`},
	{name: "an authority whose key is a certificate",
		meet: opening(func(_ *testing.T, s *shop) string { return s.get("ca.crt") }),
		says: `DIR/safe/ca.key is not a key in PKCS #8: give the key that "concord cert create-ca" made`},
	{name: "an authority whose key is of another kind", meet: opening(func(t *testing.T, _ *shop) string {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		require.NoError(t, err)
		der, err := x509.MarshalPKCS8PrivateKey(key)
		require.NoError(t, err)
		return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	}), says: `DIR/safe/ca.key is a ed25519.PrivateKey, want an ECDSA key: give the key that "concord cert ` +
		`create-ca" made`},
	{name: "a node without an address", meet: issuing(Node, "1", time.Hour),
		says: "node 1: give the names and addresses under which it is reached with --host"},
	{name: "a node with an address that is none", meet: issuing(Node, "1", time.Hour, "a b"),
		says: `--host: "a b" is neither a name nor an IP address`},
	{name: "a node with a name that is no id", meet: issuing(Node, "one", time.Hour, "a"),
		says: `node "one": a node's name is its id, from 1`},
	{name: "a client with a name that is none", meet: issuing(Client, "../x", time.Hour),
		says: `client: "../x"` + isNoName},
	{name: "a certificate that ends before it begins", meet: issuing(Client, "ann", 0),
		says: "--lifetime: 0s is not a positive duration such as 8760h"},
	{name: "revoke what another authority has issued", meet: func(t *testing.T, s *shop) error {
		other := newShop(t, "shop")
		other.issue(Client, "ann")
		return s.authority.Revoke(s.dir, other.path("client.ann.crt"))
	}, says: "OTHER/certs/client.ann.crt was not issued by this authority: give the one that did with --ca-key"},

	{name: "no authorities", meet: func(t *testing.T, s *shop) error {
		require.NoError(t, os.Remove(s.path("ca.crt")))
		_, err := Load(s.dir.Node(1), nil)
		return err
	}, says: `authorities: open DIR/certs/ca.crt: no such file or directory: "concord cert --help" says how to make ` +
		`them`},
	{name: "a file that is empty", meet: loading("client-ca.crt", ""),
		says: "authorities of clients: DIR/certs/client-ca.crt is empty: \"concord cert --help\" says how to make " +
			"them"},
	{name: "a file that is too large", meet: loading("ca.crl", strings.Repeat("x", maxFile+1)),
		says: "revocations: DIR/certs/ca.crl is larger than 1024 KiB: \"concord cert revoke\" makes it"},
	{name: "a file that is a directory", meet: func(t *testing.T, s *shop) error {
		require.NoError(t, os.Mkdir(s.path("ca.crl"), 0o700))
		_, err := Load(s.dir.Node(1), nil)
		return err
	}, says: "revocations: DIR/certs/ca.crl is not a regular file: \"concord cert revoke\" makes it"},
	{name: "certificates that are none", meet: loading("ca.crt", "none"),
		says: `DIR/certs/ca.crt is not PEM from its beginning to its end: remove what is not, or make it anew`},
	{name: "certificates and something else", meet: func(t *testing.T, s *shop) error {
		return loading("ca.crt", s.get("node.1.key"))(t, s)
	}, says: `DIR/certs/ca.crt has a "PRIVATE KEY", want certificates only`},
	{name: "a certificate that is damaged", meet: loading("ca.crt", string(pem.EncodeToMemory(&pem.Block{
		Type: "CERTIFICATE"}))), says: "DIR/certs/ca.crt: certificate 1: x509: malformed certificate: make it anew"},
	{name: "no certificate", meet: loading("node.1.crt", "\n"),
		says: `DIR/certs/node.1.crt has no certificate: "concord cert --help" says how to make one`},
	{name: "an authority that is none", meet: func(t *testing.T, s *shop) error {
		return loading("ca.crt", s.get("node.1.crt"))(t, s)
	}, says: "DIR/certs/ca.crt: certificate 1 (CN=1,O=shop) is not that of an authority: remove it there"},
	{name: "revocations that are none", meet: loading("ca.crl", "none"),
		says: `DIR/certs/ca.crl is not made of revocation lists in PEM: "concord cert revoke" makes it`},
	{name: "a revocation that is damaged", meet: loading("ca.crl", string(pem.EncodeToMemory(&pem.Block{
		Type: "X509 CRL"}))), says: `DIR/certs/ca.crl: list 1: x509: malformed crl: "concord cert revoke" makes it`},
	{name: "revocations of a stranger", meet: func(t *testing.T, s *shop) error {
		other := newShop(t, "shop")
		other.issue(Client, "ann")
		require.NoError(t, other.authority.Revoke(other.dir, other.path("client.ann.crt")))
		return loading("ca.crl", other.get("ca.crl"))(t, s)
	}, says: "DIR/certs/ca.crl: list 1 was signed by none of the authorities: add the one that did to ca.crt, or " +
		"take the list out"},
	{name: "no certificate of its own", meet: func(_ *testing.T, s *shop) error {
		_, err := Load(s.dir.Node(2), nil)
		return err
	}, says: `certificate: open DIR/certs/node.2.crt: no such file or directory: "concord cert --help" says how to ` +
		`make them`},
	{name: "no key of its own", meet: func(t *testing.T, s *shop) error {
		require.NoError(t, os.Remove(s.path("node.1.key")))
		_, err := Load(s.dir.Node(1), nil)
		return err
	}, says: `key of node.1.crt: open DIR/certs/node.1.key: no such file or directory: put it back, or make both anew`},
	{name: "a key that others can read", meet: func(t *testing.T, s *shop) error {
		s.put("node.1.key", s.get("node.1.key"), 0o644)
		_, err := Load(s.dir.Node(1), nil)
		return err
	}, says: "key of node.1.crt: DIR/certs/node.1.key can be used by others than its owner (mode 0644): run chmod " +
		"600 on it, and think of it as known to them"},
	{name: "a key of another certificate", meet: func(t *testing.T, s *shop) error {
		s.issue(Node, "2")
		return loading("node.1.key", s.get("node.2.key"))(t, s)
	}, says: "DIR/certs/node.1.crt and DIR/certs/node.1.key do not belong together, or one of them is damaged: make " +
		"both anew"},
	{name: "another identity while it runs", meet: func(t *testing.T, s *shop) error {
		s.issue(Node, "2")
		k := s.node(1)
		return k.ReloadFrom(s.dir.Node(2))
	}, says: "DIR/certs/node.2.crt is now for concord://shop/node/2, and this process is concord://shop/node/1: put " +
		"the " +
		"right one back, or start again"},

	{name: "a certificate of nobody", meet: crafted(func(c *x509.Certificate) { c.URIs = nil }),
		says: "DIR/certs/node.1.crt: the certificate does not say who it is for: it has no subject alternative name " +
			"such as " +
			"concord://CLUSTER/client/NAME"},
	{name: "a certificate of two", meet: crafted(func(c *x509.Certificate) { c.URIs = append(c.URIs, c.URIs[0]) }),
		says: "DIR/certs/node.1.crt: the certificate is for several: it must have one subject alternative name of " +
			"the form " +
			"concord://CLUSTER/KIND/NAME"},
	{name: "a certificate of a name that is none", meet: crafted(func(c *x509.Certificate) {
		c.URIs = []*url.URL{{Scheme: scheme, Host: "shop", Path: "/node/one"}}
	}), says: `DIR/certs/node.1.crt: subject alternative name: node "one": a node's name is its id, from 1`},
	{name: "an identity that is none", meet: is("ann"),
		says: `"ann" is not an identity such as concord://CLUSTER/client/NAME`},
	{name: "an identity without a cluster", meet: is("concord:///client/ann"), says: `cluster: ""` + isNoName},
	{name: "an identity of an unknown kind", meet: is("concord://shop/person/ann"),
		says: `"person" is no kind of identity: there are node, agent and client`},
	{name: "an identity with more in it", meet: is("concord://shop/client/ann?x=1"),
		says: `"concord://shop/client/ann?x=1" is not written as concord://shop/client/ann`},
	{name: "a certificate that has ended", meet: crafted(func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	}), says: "DIR/certs/node.1.crt: the certificate is not accepted: that of concord://shop/node/1 ended at TIME: " +
		"make a " +
		`new one, "concord cert --help" says how`},
	{name: "a certificate that has not begun", meet: crafted(func(c *x509.Certificate) {
		c.NotBefore = time.Now().Add(time.Hour)
	}), says: "DIR/certs/node.1.crt: the certificate is not accepted: that of concord://shop/node/1 is valid from " +
		"TIME: " +
		"compare the clocks of both machines"},
	{name: "a certificate for another use", meet: crafted(func(c *x509.Certificate) {
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	}), says: "DIR/certs/node.1.crt: the certificate is not accepted: that of concord://shop/node/1 is not made for " +
		"this " +
		`use: make one that is, "concord cert --help" says how`},
	{name: "a certificate of a stranger", meet: func(t *testing.T, s *shop) error {
		return loading("ca.crt", newShop(t, "store").get("ca.crt"))(t, s)
	}, says: "DIR/certs/node.1.crt: the certificate is not accepted: that of concord://shop/node/1 was issued by " +
		"none of the " +
		"authorities that are believed here (x509: certificate signed by unknown authority): compare the ca.crt of " +
		"both sides"},
	{name: "a certificate that was revoked", meet: func(t *testing.T, s *shop) error {
		require.NoError(t, s.authority.Revoke(s.dir, s.path("node.1.crt")))
		_, err := Load(s.dir.Node(1), nil)
		return err
	}, says: "DIR/certs/node.1.crt: the certificate is not accepted: that of concord://shop/node/1 was revoked"},
	{name: "a certificate of another kind", meet: func(t *testing.T, s *shop) error {
		s.issue(Agent, "east")
		_, _, err := shake(t, s.agent("east").Server(), s.node(1).NodeClient("127.0.0.1"))
		return err
	}, says: "the certificate is not accepted: it is for concord://shop/agent/east, and here a certificate of a " +
		"node is wanted"},
	{name: "a certificate of another node", meet: func(t *testing.T, s *shop) error {
		s.issue(Node, "2")
		_, _, err := shake(t, s.node(2).PeerServer(), s.node(1).PeerClient(3))
		return err
	}, says: "the certificate is not accepted: it is that of concord://shop/node/2, and node 3 is wanted here: " +
		"compare the " +
		`addresses in "members"`},
	{name: "a certificate for another address", meet: func(t *testing.T, s *shop) error {
		_, _, err := shake(t, s.node(1).Server(), s.node(1).NodeClient("10.0.0.1"))
		return err
	}, says: "the certificate is not accepted: that of concord://shop/node/1 is not for the address 10.0.0.1: make " +
		"one with " +
		`--host 10.0.0.1, "concord cert --help" says how`},

	{name: "several clients", meet: func(_ *testing.T, s *shop) error {
		s.issue(Client, "bob", "alice")
		_, err := s.dir.Client("")
		return err
	}, says: "DIR/certs has the certificates of several clients (alice, bob): say who you are, --user or CONCORD_USER"},
	{name: "a token for whom nobody is known", meet: from(Source{TokenFile: "token"}),
		says: "a token is sent to nodes only that are verified: give the directory with ca.crt, too (--certs-dir, " +
			"CONCORD_CERTS_DIR)"},
	{name: "a user without certificates", meet: from(Source{User: "ann"}),
		says: `user "ann" has no certificate: give the directory that it is in (--certs-dir, CONCORD_CERTS_DIR)`},
	{name: "a token that is not there", meet: func(_ *testing.T, s *shop) error {
		_, err := Source{CertsDir: string(s.dir), TokenFile: s.path("token")}.Open(nil)
		return err
	}, says: "token file: open DIR/certs/token: no such file or directory"},
	{name: "a token with a line of another system", meet: showing("x\r\n"),
		says: "token file: DIR/certs/token has lines that end with CR LF: write the token with LF alone"},
	{name: "two tokens", meet: showing("x\ny\n"),
		says: "token file: DIR/certs/token has more than one line, want one token"},
	{name: "a token that is none", meet: showing("x"),
		says: `token file: the content of DIR/certs/token is not a token (cct_ and 43 letters and digits, as ` +
			`"concord token create" prints it)`},

	{name: "a token for a name that is none", meet: func(_ *testing.T, s *shop) error {
		_, _, err := CreateToken(s.path("tokens"), "a b", time.Hour)
		return err
	}, says: `subject: "a b"` + isNoName},
	{name: "a token that ends before it begins", meet: func(_ *testing.T, s *shop) error {
		_, _, err := CreateToken(s.path("tokens"), "ann", 0)
		return err
	}, says: "--lifetime: 0s is not a positive duration such as 2160h"},
	{name: "a third token", meet: func(t *testing.T, s *shop) error {
		for range 2 {
			_, _, err := CreateToken(s.path("tokens"), "ann", time.Hour)
			require.NoError(t, err)
		}
		_, _, err := CreateToken(s.path("tokens"), "ann", time.Hour)
		return err
	}, says: `ann has 2 tokens already: revoke one with "concord token revoke"`},
	{name: "revoke a token that is not there", meet: func(_ *testing.T, s *shop) error {
		return RevokeToken(s.put("tokens", tokensHeader, 0o600), "0a0b0c0d")
	}, says: `DIR/certs/tokens has no token "0a0b0c0d": "concord token ls" shows them`},
	{name: "tokens with lines of another system", meet: tokens("x\r\n"),
		says: `tokens: DIR/certs/tokens: line 1: ends with CR LF, want LF alone: lines are made by "concord token ` +
			`create"`},
	{name: "tokens with fields too few", meet: tokens("x\n"),
		says: `tokens: DIR/certs/tokens: line 1: has 1 fields, want id, subject, sha256 and expires, with one space ` +
			`between: lines are made by "concord token create"`},
	{name: "tokens with an id that is none", meet: tokens("x ann y z\n"),
		says: `tokens: DIR/certs/tokens: line 1: the id is not 8 hexadecimal digits: lines are made by "concord ` +
			`token create"`},
	{name: "tokens with a subject that is none", meet: tokens("0a0b0c0d - y z\n"),
		says: `tokens: DIR/certs/tokens: line 1: subject: "-"` + isNoName + `: lines are made by "concord token ` +
			`create"`},
	{name: "tokens with a hash that is none", meet: tokens("0a0b0c0d ann y z\n"),
		says: `tokens: DIR/certs/tokens: line 1: the third field is not a SHA-256 in hexadecimal digits: lines are ` +
			`made by "concord token create"`},
	{name: "tokens with a time that is none", meet: tokens("0a0b0c0d ann " + aHash + " z\n"),
		says: `tokens: DIR/certs/tokens: line 1: the fourth field is not a time such as 2030-01-31T00:00:00Z: lines ` +
			`are made by "concord token create"`},
	{name: "tokens that are there twice",
		meet: tokens(strings.Repeat("0a0b0c0d ann "+aHash+" 2030-01-31T00:00:00Z\n", 2)),
		says: `tokens: DIR/certs/tokens: line 2: the id 0a0b0c0d is there twice: remove one of them: lines are made ` +
			`by "concord token create"`},

	{name: "too many grants", meet: func(*testing.T, *shop) error {
		_, err := NewPolicy(make([]Grant, maxGrants+1), nil)
		return err
	}, says: "auth.grants: there are 10001, at most 10000 are allowed"},
	{name: "a grant to nobody", meet: granting(Grant{}), says: `auth.grants[0]: subject: ""` + isNoName},
	{name: "a grant of nothing", meet: granting(Grant{Subject: "ann"}),
		says: `auth.grants[0]: "ann" gets no role: give "roles" one or more of application, agent, viewer, ` +
			`operator, admin`},
	{name: "a grant of a role that is none", meet: granting(Grant{Subject: "ann", Roles: []Role{"king"}}),
		says: `auth.grants[0]: "king" is no role: there are application, agent, viewer, operator, admin`},
	{name: "a grant on nothing", meet: granting(Grant{Subject: "ann", Roles: []Role{Application}}),
		says: `auth.grants[0]: "ann" is application on no resource: name them in "resources", or "*" for all`},
	{name: "a grant on more than it can be", meet: granting(Grant{Subject: "ann", Roles: []Role{Viewer},
		Resources: []string{"orders"}}),
		says: `auth.grants[0]: the roles of "ann" are for the whole cluster: remove "resources"`},
	{name: "a grant on what is not there", meet: granting(Grant{Subject: "ann", Roles: []Role{Application},
		Resources: []string{"stock"}}),
		says: `auth.grants[0]: there is no resource "stock": correct the name, or add it to "resources"`},
}

// agent loads the files of an agent.
func (s *shop) agent(name string) *Keys {
	s.Helper()
	k, err := Load(s.dir.Agent(name), nil)
	require.NoError(s, err)
	return k
}

var (
	aTime = regexp.MustCompile(`20[0-9]{2}-[0-9-]+T[0-9:]+(Z|[+-][0-9:]+)`)
	aRoot = regexp.MustCompile(`(/[A-Za-z0-9_.-]+)+/(certs|safe)\b`)
)

func TestWhatErrorsSay(t *testing.T) {
	for _, m := range messages {
		t.Run(m.name, func(t *testing.T) {
			s := newShop(t, "shop")
			s.issue(Node, "1")
			err := m.meet(t, s)
			require.Error(t, err)
			says := strings.ReplaceAll(err.Error(), filepath.Dir(string(s.dir)), "DIR")
			says = aRoot.ReplaceAllString(says, "OTHER/$2")
			says = strings.ReplaceAll(says, "DIROTHER", "DIR")
			if !strings.Contains(m.says, "2030") {
				says = aTime.ReplaceAllString(says, "TIME")
			}
			require.Equal(t, m.says, says)
		})
	}
}

// Who writes another error finds out here that its text has to be looked at by everybody.
func TestEveryErrorHasARow(t *testing.T) {
	var rows []string
	for _, m := range messages {
		rows = append(rows, m.says)
	}
	said.Check(t, rows, withoutRow, "untrusted", "wrong")
}

// withoutRow are the texts that no row of the table has.
var withoutRow = map[string]string{
	"no file names the authorities that are believed: %v": "cmd/internal/config: " +
		"TestFilesThatAreElsewhere has it",
	"security: a server needs a certificate": "cannot be met: no server is " +
		"started without one",
	"there is none": "cannot be met: TLS shows none of " +
		"it, or at least one certificate",
	"it comes with %d others, and %d are enough": "TestALongChainIsNotLookedThrough " +
		"has it, with a chain that nobody is sent by mistake",
	"the handshake is not over": "cannot be met: who asks has " +
		"waited for it",
	"it is for %v, and this is cluster %s": "TestOnlyNodesOfThisClusterPassThePeerPort has it: a process is of its " +
		"certificate's cluster",
	"%s does not name a cluster: it was not made by \"concord cert create-ca\"": "wants an authority that another " +
		"program made",
}
