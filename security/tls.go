// SPDX-License-Identifier: Apache-2.0

package security

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"strconv"
	"sync"
	"time"
)

// All connections are TLS 1.3. Sessions are not resumed: who reconnects is verified by what the files
// say now. A handshake costs a millisecond, and connections last.

// PeerServer is how a node accepts other nodes of its cluster, and nobody else.
func (k *Keys) PeerServer() *tls.Config { return k.server(nil, tls.RequireAnyClientCert, Node) }

// PeerClient is how a node calls another one. The address does not matter: who answers must be that node.
func (k *Keys) PeerClient(id uint64) *tls.Config {
	m := k.fresh()
	return m.client(func(s tls.ConnectionState) error {
		who, err := m.verify(s.PeerCertificates, x509.ExtKeyUsageServerAuth, time.Now(), Node)
		if err == nil && who.Name != strconv.FormatUint(id, 10) {
			return untrusted("it is that of %v, and node %d is wanted here: compare the addresses in \"members\"", who,
				id)
		}
		return err
	})
}

// Server is how a node's API and an agent are served. Whoever comes may have a certificate, a token or
// neither: Peer says what to think of that, and the answer to a call says it to the caller, who would
// hear nothing but "bad certificate" of the handshake.
func (k *Keys) Server() *tls.Config {
	return k.server([]string{"h2", "http/1.1"}, tls.RequestClientCert)
}

// NodeClient is how the API of a node at an address, and AgentClient how an agent, is called: who
// answers must be one, and its certificate be for the host of that address.
func (k *Keys) NodeClient(host string) *tls.Config { return k.clientOf(host, Node) }

// AgentClient is NodeClient for agents.
func (k *Keys) AgentClient(host string) *tls.Config { return k.clientOf(host, Agent) }

func (k *Keys) clientOf(host string, kind Kind) *tls.Config {
	m := k.fresh()
	return m.client(func(s tls.ConnectionState) error {
		who, err := m.verify(s.PeerCertificates, x509.ExtKeyUsageServerAuth, time.Now(), kind)
		if err != nil {
			return err
		}
		if err := s.PeerCertificates[0].VerifyHostname(host); err != nil {
			return untrusted("that of %v is not for the address %s: make one with --host %s, \"concord cert "+
				"--help\" says how", who, host, host)
		}
		return nil
	})
}

// client makes a configuration in which verify alone says who the other end is: by its identity,
// which the standard checks know nothing of.
func (m *material) client(verify func(tls.ConnectionState) error) *tls.Config {
	c := &tls.Config{MinVersion: tls.VersionTLS13, VerifyConnection: verify,
		InsecureSkipVerify: true} // #nosec G402 -- verify does it
	if m.own != nil {
		c.Certificates = []tls.Certificate{*m.own}
	}
	return c
}

// server makes a configuration whose connections are each verified by what the files say when they
// come; with no kinds the handshake verifies nothing.
func (k *Keys) server(protocols []string, auth tls.ClientAuthType, kinds ...Kind) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: protocols,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			m := k.fresh()
			if m.own == nil {
				return nil, errors.New("security: a server needs a certificate")
			}
			c := &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: protocols,
				Certificates: []tls.Certificate{*m.own},
				ClientAuth:   auth, SessionTicketsDisabled: true}
			if len(kinds) > 0 {
				c.VerifyConnection = func(s tls.ConnectionState) error {
					_, err := m.verify(s.PeerCertificates, x509.ExtKeyUsageClientAuth, time.Now(), kinds...)
					return err
				}
			}
			return c, nil
		}}
}

// Peer says who is at the other end of a connection that Server or PeerServer has accepted, or that was made
// by PeerClient; zero if that one has no certificate. What the files say now counts, so one that
// was accepted may be so no more.
func (k *Keys) Peer(s *tls.ConnectionState) (Identity, error) {
	if s == nil || len(s.PeerCertificates) == 0 {
		return Identity{}, nil
	}
	if !s.HandshakeComplete { // until then nobody has shown that he has the key
		return Identity{}, untrusted("the handshake is not over")
	}
	m, now, leaf := k.fresh(), time.Now(), s.PeerCertificates[0]
	if who, ok := m.verified.get(leaf, now); ok {
		return who, nil
	}
	who, err := m.verify(s.PeerCertificates, x509.ExtKeyUsageClientAuth, now, Client, Agent, Node)
	if err == nil {
		m.verified.put(leaf, who)
	}
	return who, err
}

// verified remembers whose certificates were verified, by connection: each request asks. It belongs to
// what the files said at one time.
type verified struct {
	mu  sync.Mutex
	who map[*x509.Certificate]Identity
}

// maxVerified are remembered. One more, and all are verified again.
const maxVerified = 8192

func (v *verified) get(leaf *x509.Certificate, now time.Time) (Identity, bool) {
	if now.After(leaf.NotAfter) {
		return Identity{}, false
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	who, ok := v.who[leaf]
	return who, ok
}

func (v *verified) put(leaf *x509.Certificate, who Identity) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.who == nil || len(v.who) >= maxVerified {
		v.who = map[*x509.Certificate]Identity{}
	}
	v.who[leaf] = who
}
