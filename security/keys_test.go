// SPDX-License-Identifier: Apache-2.0

package security

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// shop is an authority in a directory of its own, with some certificates.
type shop struct {
	testing.TB
	dir       Dir
	keyFile   string
	authority *Authority
}

func newShop(t testing.TB, cluster string) *shop {
	t.Helper()
	root := t.TempDir()
	s := &shop{TB: t, dir: Dir(filepath.Join(root, "certs")), keyFile: filepath.Join(root, "safe", "ca.key")}
	var err error
	s.authority, err = NewAuthority(s.dir, s.keyFile, cluster, AuthorityLifetime, false)
	require.NoError(t, err)
	return s
}

func (s *shop) issue(k Kind, names ...string) {
	s.Helper()
	for _, n := range names {
		var hosts []string
		if k != Client {
			hosts = []string{"localhost", "127.0.0.1"}
		}
		_, err := s.authority.Issue(s.dir, k, n, hosts, CertificateLifetime, false)
		require.NoError(s, err)
	}
}

func (s *shop) node(id uint64) *Keys {
	s.Helper()
	k, err := Load(s.dir.Node(id), nil)
	require.NoError(s, err)
	return k
}

func (s *shop) path(name string) string { return filepath.Join(string(s.dir), name) }

// craft issues a certificate that Issue would not, and puts it where that of who is.
func (s *shop) craft(k Kind, name string, change func(*x509.Certificate)) {
	s.Helper()
	t, err := template(CertificateLifetime)
	require.NoError(s, err)
	t.URIs = []*url.URL{Identity{Cluster: s.authority.cluster, Kind: k, Name: name}.uri()}
	t.DNSNames = []string{"localhost"}
	t.KeyUsage, t.ExtKeyUsage = x509.KeyUsageDigitalSignature,
		[]x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	change(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(s, err)
	der, err := x509.CreateCertificate(rand.Reader, t, s.authority.cert, key.Public(), s.authority.key)
	require.NoError(s, err)
	base := s.dir.path(k, name)
	require.NoError(s, writeKey(base+".key", key, true))
	require.NoError(s, write(base+".crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644, true))
}

// shake makes a connection between two configurations, and returns what each end says.
func shake(t testing.TB, server, client *tls.Config) (seen *tls.ConnectionState, serverErr, clientErr error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := l.Accept()
		if err != nil {
			serverErr = err
			return
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		c := tls.Server(conn, server)
		if serverErr = c.Handshake(); serverErr == nil {
			state := c.ConnectionState()
			seen = &state
			_, serverErr = c.Write([]byte("!"))
		}
	}()
	raw, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	defer raw.Close()
	_ = raw.SetDeadline(time.Now().Add(10 * time.Second))
	c := tls.Client(raw, client)
	if clientErr = c.Handshake(); clientErr == nil {
		_, clientErr = c.Read(make([]byte, 1)) // what the server thinks of a certificate comes after the handshake
	}
	_ = raw.Close()
	<-done
	return seen, serverErr, clientErr
}

func TestNodesKnowEachOther(t *testing.T) {
	s := newShop(t, "shop")
	s.issue(Node, "1", "2")
	seen, serverErr, clientErr := shake(t, s.node(1).PeerServer(), s.node(2).PeerClient(1))
	require.NoError(t, serverErr)
	require.NoError(t, clientErr)
	who, err := s.node(1).Peer(seen)
	require.NoError(t, err)
	require.Equal(t, Identity{Cluster: "shop", Kind: Node, Name: "2"}, who)
	require.Equal(t, uint64(2), who.NodeID())
	require.Equal(t, uint16(tls.VersionTLS13), seen.Version)
}

func TestAPeerIsTheNodeThatWasDialled(t *testing.T) {
	s := newShop(t, "shop")
	s.issue(Node, "1", "2")
	_, _, err := shake(t, s.node(1).PeerServer(), s.node(2).PeerClient(3))
	require.ErrorIs(t, err, ErrUntrusted)
	require.ErrorContains(t, err, `it is that of concord://shop/node/1, and node 3 is wanted here: compare the `+
		`addresses in "members"`)
}

// What each end that has no business at the peer port is told by the node.
func TestOnlyNodesOfThisClusterPassThePeerPort(t *testing.T) {
	s := newShop(t, "shop")
	s.issue(Node, "1", "2")
	s.issue(Client, "billing-app")
	s.issue(Agent, "east")
	other, same := newShop(t, "shop"), newShop(t, "store")
	other.issue(Node, "2") // of another authority, with the same name
	same.issue(Node, "2")
	server := s.node(1).PeerServer()
	dial := func(f Files) *tls.Config {
		k, err := Load(f, nil)
		require.NoError(t, err)
		return k.PeerClient(1)
	}
	client, err := s.dir.Client("billing-app")
	require.NoError(t, err)
	blind := func(f Files) *tls.Config { // who does not care who answers
		c := dial(f)
		c.VerifyConnection = nil
		return c
	}
	for _, stranger := range []struct {
		name string
		conf *tls.Config
		says string
	}{
		{"a client of this cluster", dial(client),
			"it is for concord://shop/client/billing-app, and here a certificate of a node is wanted"},
		{"an agent of this cluster", dial(s.dir.Agent("east")),
			"it is for concord://shop/agent/east, and here a certificate of a node is wanted"},
		{"a node of another authority", blind(other.dir.Node(2)),
			"was issued by none of the authorities that are believed here"},
		{"a node of another cluster", blind(same.dir.Node(2)),
			"it is for concord://store/node/2, and this is cluster shop"},
		{"nobody", &tls.Config{InsecureSkipVerify: true}, "client didn't provide a certificate"},
		{"TLS 1.2", &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12},
			"client offered only unsupported versions"},
	} {
		_, serverErr, clientErr := shake(t, server, stranger.conf)
		require.ErrorContains(t, serverErr, stranger.says, stranger.name)
		require.Error(t, clientErr, stranger.name)
	}
}

func TestCertificatesThatAreNotAccepted(t *testing.T) {
	s := newShop(t, "shop")
	s.issue(Node, "1")
	now := time.Now()
	for _, bad := range []struct {
		name   string
		change func(*x509.Certificate)
		says   string
	}{
		{"expired", func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Minute) },
			`make a new one, "concord cert --help" says how`},
		{"not yet valid", func(c *x509.Certificate) { c.NotBefore = now.Add(time.Hour) },
			"compare the clocks of both machines"},
		{"wrong usage", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning} },
			"is not made for this use"},
		{"client use only", func(c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		}, "is not made for this use"},
		{"no name", func(c *x509.Certificate) { c.URIs = nil }, "does not say who it is for"},
		{"two names", func(c *x509.Certificate) { c.URIs = append(c.URIs, NodeIdentity("shop", 3).uri()) },
			"it must have one"},
		{"a name that is none", func(c *x509.Certificate) {
			c.URIs = []*url.URL{{Scheme: "concord", Host: "shop",
				Path: "/node/01"}}
		}, "a node's name is its id"},
		{"a name with a query", func(c *x509.Certificate) { c.URIs[0].RawQuery = "x" }, "is not written as"},
		{"node 0", func(c *x509.Certificate) { c.URIs = []*url.URL{NodeIdentity("shop", 0).uri()} },
			"a node's name is its id"},
		{"another kind", func(c *x509.Certificate) {
			c.URIs = []*url.URL{{Scheme: "concord", Host: "shop",
				Path: "/king/1"}}
		}, "is no kind of identity"},
	} {
		s.craft(Node, "2", bad.change)
		_, err := Load(s.dir.Node(2), nil)
		require.ErrorContains(t, err, bad.says, bad.name)
		require.ErrorContains(t, err, "node.2.crt", bad.name)
		// A node that loads it all the same gets nowhere.
		pair, err := tls.LoadX509KeyPair(s.path("node.2.crt"), s.path("node.2.key"))
		require.NoError(t, err)
		_, _, err = shake(t, &tls.Config{Certificates: []tls.Certificate{pair}}, s.node(1).PeerClient(2))
		require.ErrorIs(t, err, ErrUntrusted, bad.name)
	}
}

// A stranger's certificate may come with hundreds of others. Nobody looks for a way through them.
func TestALongChainIsNotLookedThrough(t *testing.T) {
	s := newShop(t, "shop")
	s.issue(Node, "1")
	s.issue(Client, "app")
	pair, err := tls.LoadX509KeyPair(s.path("client.app.crt"), s.path("client.app.key"))
	require.NoError(t, err)
	for others, says := range map[int]string{4: "", 5: "it comes with 5 others, and 4 are enough",
		200: "it comes with 200"} {
		long := pair
		for range others {
			long.Certificate = append(long.Certificate[:len(long.Certificate):len(long.Certificate)],
				s.authority.cert.Raw)
		}
		node := s.node(1)
		seen, _, err := shake(t, node.Server(), &tls.Config{InsecureSkipVerify: true,
			Certificates: []tls.Certificate{long}})
		require.NoError(t, err, "the answer to a call says it")
		who, err := node.Peer(seen)
		if says == "" {
			require.NoError(t, err)
			require.Equal(t, "app", who.Name)
			continue
		}
		require.ErrorIs(t, err, ErrUntrusted)
		require.ErrorContains(t, err, says)
	}
}

func TestFilesThatAreNotAccepted(t *testing.T) {
	for _, bad := range []struct {
		name  string
		spoil func(s *shop)
		says  string
	}{
		{"no directory", func(s *shop) { require.NoError(s, os.RemoveAll(string(s.dir))) },
			`"concord cert --help" says how to make them`},
		{"no key", func(s *shop) { require.NoError(s, os.Remove(s.path("node.1.key"))) }, "key of node.1.crt: open"},
		{"a key for all", func(s *shop) { require.NoError(s, os.Chmod(s.path("node.1.key"), 0o640)) },
			"node.1.key can be used by others than its owner (mode 0640): run chmod 600"},
		{"another's key", func(s *shop) { require.NoError(s, os.Rename(s.path("node.2.key"), s.path("node.1.key"))) },
			"do not belong together"},
		{"no certificate", func(s *shop) { require.NoError(s, os.Remove(s.path("node.1.crt"))) }, "certificate: open"},
		{"an empty authority", func(s *shop) { require.NoError(s, os.Truncate(s.path("ca.crt"), 0)) },
			"ca.crt is empty"},
		{"an authority that is none", func(s *shop) {
			require.NoError(s,
				os.Rename(s.path("node.2.crt"), s.path("ca.crt")))
		}, "is not that of an authority"},
		{"something behind", func(s *shop) {
			f, err := os.OpenFile(s.path("ca.crt"), os.O_APPEND|os.O_WRONLY, 0)
			require.NoError(s, err)
			_, err = f.WriteString("-----BEGIN CERT")
			require.NoError(s, err)
			require.NoError(s, f.Close())
		}, "is not PEM from its beginning to its end"},
		{"a pipe", func(s *shop) {
			require.NoError(s, os.Remove(s.path("ca.crt")))
			require.NoError(s, os.Symlink("/dev/zero", s.path("ca.crt")))
		}, "is not a regular file"},
		{"a list that a stranger signed", func(s *shop) {
			other := newShop(s, "shop")
			require.NoError(s, other.authority.Revoke(other.dir))
			require.NoError(s, os.Rename(other.path("ca.crl"), s.path("ca.crl")))
		}, "was signed by none of the authorities"},
		{"no list", func(s *shop) { require.NoError(s, os.WriteFile(s.path("ca.crl"), []byte("x"), 0o600)) },
			"is not made of revocation lists"},
	} {
		s := newShop(t, "shop")
		s.issue(Node, "1", "2")
		running := s.node(1)
		bad.spoil(s)
		_, err := Load(s.dir.Node(1), nil)
		require.ErrorContains(t, err, bad.says, bad.name)
		require.NotContains(t, err.Error(), "PRIVATE KEY", bad.name)
		// Who runs already goes on with what it has.
		before := running.current.Load()
		require.ErrorContains(t, running.Reload(), bad.says, bad.name)
		require.Same(t, before, running.current.Load(), bad.name)
	}
}

func TestABadReloadIsLoggedOnce(t *testing.T) {
	s := newShop(t, "shop")
	s.issue(Node, "1")
	var log bytes.Buffer
	k, err := Load(s.dir.Node(1), slog.New(slog.NewTextHandler(&log, nil)))
	require.NoError(t, err)
	require.NoError(t, os.Chmod(s.path("node.1.key"), 0o644))
	require.Error(t, k.Reload())
	require.Error(t, k.Reload())
	require.Equal(t, 1, strings.Count(log.String(), "certificates were read again and are wrong"), log.String())
	require.NoError(t, os.Chmod(s.path("node.1.key"), 0o600))
	require.NoError(t, k.Reload())
}

func TestAProcessStaysWhoItIs(t *testing.T) {
	s := newShop(t, "shop")
	s.issue(Node, "1", "2")
	k := s.node(1)
	require.NoError(t, os.Rename(s.path("node.2.crt"), s.path("node.1.crt")))
	require.NoError(t, os.Rename(s.path("node.2.key"), s.path("node.1.key")))
	require.ErrorContains(t, k.Reload(), "node.1.crt is now for concord://shop/node/2")
	require.Equal(t, "1", k.Self().Name)
}

// A new authority takes over while the nodes run: first both are believed, then each gets a
// certificate of the new one, then the old one goes.
func TestTheAuthorityRotates(t *testing.T) {
	s := newShop(t, "shop")
	s.issue(Node, "1", "2")
	one, two := s.node(1), s.node(2)
	talk := func() {
		t.Helper()
		_, serverErr, clientErr := shake(t, one.PeerServer(), two.PeerClient(1))
		require.NoError(t, serverErr)
		require.NoError(t, clientErr)
	}
	old, err := os.ReadFile(s.path("ca.crt"))
	require.NoError(t, err)
	s.authority, err = NewAuthority(s.dir, s.keyFile, "shop", AuthorityLifetime, true)
	require.NoError(t, err)
	require.NoError(t, one.Reload())
	require.NoError(t, two.Reload())
	talk()
	_, err = s.authority.Issue(s.dir, Node, "1", []string{"localhost"}, CertificateLifetime, true)
	require.NoError(t, err)
	require.NoError(t, one.Reload())
	talk() // of the new one, and of the old one
	_, err = s.authority.Issue(s.dir, Node, "2", []string{"localhost"}, CertificateLifetime, true)
	require.NoError(t, err)
	require.NoError(t, two.Reload())
	both, err := os.ReadFile(s.path("ca.crt"))
	require.NoError(t, err)
	require.NoError(t, write(s.path("ca.crt"), bytes.TrimSuffix(both, old), 0o644, true))
	require.NoError(t, one.Reload())
	require.NoError(t, two.Reload())
	talk()
}

func TestARevokedNodeIsOut(t *testing.T) {
	s := newShop(t, "shop")
	s.issue(Node, "1", "2", "3")
	one, two := s.node(1), s.node(2)
	seen, _, err := shake(t, one.PeerServer(), two.PeerClient(1))
	require.NoError(t, err)
	require.NoError(t, s.authority.Revoke(s.dir, s.path("node.2.crt")))
	require.NoError(t, one.Reload())
	_, serverErr, _ := shake(t, one.PeerServer(), two.PeerClient(1))
	require.ErrorContains(t, serverErr, "that of concord://shop/node/2 was revoked")
	_, err = one.Peer(seen)
	require.ErrorContains(t, err, "was revoked", "a connection that was made before")
	require.NoError(t, s.authority.Revoke(s.dir, s.path("node.3.crt"))) // one more
	require.NoError(t, one.Reload())
	_, serverErr, _ = shake(t, one.PeerServer(), two.PeerClient(1))
	require.ErrorContains(t, serverErr, "node/2 was revoked")
	require.NoError(t, os.Remove(s.path("ca.crl")))
	require.Error(t, one.Reload(), "who removes the list does not take anybody back")
}

func TestTheAPIAcceptsClientsByTheirOwnAuthority(t *testing.T) {
	s, people := newShop(t, "shop"), newShop(t, "shop")
	s.issue(Node, "1")
	people.issue(Client, "alice")
	people.issue(Node, "2") // whoever holds the key of the clients' authority makes no nodes
	ca, err := os.ReadFile(people.path("ca.crt"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(s.path("client-ca.crt"), ca, 0o600))
	one := s.node(1)
	dial := func(who Kind, name string) *tls.Config {
		pair, err := tls.LoadX509KeyPair(people.dir.path(who, name)+".crt", people.dir.path(who, name)+".key")
		require.NoError(t, err)
		return &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{pair}}
	}
	seen, serverErr, _ := shake(t, one.Server(), dial(Client, "alice"))
	require.NoError(t, serverErr)
	who, err := one.Peer(seen)
	require.NoError(t, err)
	require.Equal(t, Identity{"shop", Client, "alice"}, who)
	seen, serverErr, _ = shake(t, one.Server(), dial(Node, "2"))
	require.NoError(t, serverErr)
	_, err = one.Peer(seen)
	require.ErrorContains(t, err, "was issued by none of the authorities")
	seen, serverErr, _ = shake(t, one.Server(), &tls.Config{InsecureSkipVerify: true})
	require.NoError(t, serverErr, "who has a token needs no certificate")
	who, err = one.Peer(seen)
	require.NoError(t, err)
	require.Zero(t, who)
}

func TestAClientKnowsItsNodes(t *testing.T) {
	s := newShop(t, "shop")
	s.issue(Node, "1")
	s.issue(Agent, "east")
	s.issue(Client, "alice")
	f, err := s.dir.Client("")
	require.NoError(t, err)
	alice, err := Load(f, nil)
	require.NoError(t, err)
	require.Equal(t, "alice", alice.Self().Name)
	agent, err := Load(s.dir.Agent("east"), nil)
	require.NoError(t, err)
	_, _, err = shake(t, s.node(1).Server(), alice.NodeClient("127.0.0.1"))
	require.NoError(t, err)
	_, _, err = shake(t, s.node(1).Server(), alice.NodeClient("10.0.0.1"))
	require.ErrorContains(t, err, `that of concord://shop/node/1 is not for the address 10.0.0.1: make one with `+
		`--host 10.0.0.1, "concord cert --help" says how`)
	_, _, err = shake(t, agent.Server(), alice.NodeClient("127.0.0.1"))
	require.ErrorContains(t, err, "it is for concord://shop/agent/east, and here a certificate of a node is wanted")
	_, _, err = shake(t, agent.Server(), alice.AgentClient("localhost"))
	require.NoError(t, err)
}

func TestWhichClientIsMeant(t *testing.T) {
	s := newShop(t, "shop")
	f, err := s.dir.Client("")
	require.NoError(t, err)
	require.Empty(t, f.Cert)
	s.issue(Client, "bob", "alice")
	_, err = s.dir.Client("")
	require.ErrorContains(t, err, "has the certificates of several clients (alice, bob): say who you are, --user or "+
		"CONCORD_USER")
	f, err = s.dir.Client("bob")
	require.NoError(t, err)
	require.Equal(t, s.path("client.bob.crt"), f.Cert)
}

func TestAnAuthorityOverwritesNothing(t *testing.T) {
	s := newShop(t, "shop")
	s.issue(Node, "1")
	key, err := os.ReadFile(s.keyFile)
	require.NoError(t, err)
	_, err = NewAuthority(s.dir, s.keyFile, "shop", AuthorityLifetime, false)
	require.ErrorContains(t, err, "file already exists: choose another name, or replace it with --overwrite")
	_, err = s.authority.Issue(s.dir, Node, "1", []string{"localhost"}, CertificateLifetime, false)
	require.ErrorContains(t, err, "file already exists: choose another name, or replace it with --overwrite")
	same, err := os.ReadFile(s.keyFile)
	require.NoError(t, err)
	require.Equal(t, key, same)
	for _, secret := range []string{s.keyFile, s.path("node.1.key")} {
		info, err := os.Stat(secret)
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode().Perm(), secret)
	}
	again, err := OpenAuthority(s.dir, s.keyFile)
	require.NoError(t, err)
	require.Equal(t, "shop", again.Cluster())
	_, err = OpenAuthority(newShop(t, "shop").dir, s.keyFile)
	require.ErrorContains(t, err, "none of the certificates in")
}

func TestWhatIsNotIssued(t *testing.T) {
	s := newShop(t, "shop")
	for _, bad := range []struct {
		kind Kind
		name string
		host []string
		life time.Duration
		says string
	}{
		{Node, "0", []string{"a"}, time.Hour, "a node's name is its id"},
		{Node, "one", []string{"a"}, time.Hour, "a node's name is its id"},
		{Node, "1", nil, time.Hour, "node 1: give the names and addresses under which it is reached with --host"},
		{Node, "1", []string{"a b"}, time.Hour, `--host: "a b" is neither a name nor an IP address`},
		{Client, "../x", nil, time.Hour, "is no name"},
		{Client, "", nil, time.Hour, "is no name"},
		{Client, "a", nil, 0, "--lifetime: 0s is not a positive duration"},
	} {
		_, err := s.authority.Issue(s.dir, bad.kind, bad.name, bad.host, bad.life, false)
		require.ErrorContains(t, err, bad.says)
	}
	_, err := NewAuthority(s.dir, s.keyFile+"2", "a/b", AuthorityLifetime, false)
	require.ErrorContains(t, err, "--cluster: ")
}
