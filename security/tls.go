// SPDX-License-Identifier: Apache-2.0

package security

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// All connections are TLS 1.3. Sessions are not resumed: who reconnects is verified by what the files
// say now. A handshake costs a millisecond, and connections last.

// PeerServer is how a node accepts other nodes of its cluster, and nobody else.
func (k *Keys) PeerServer() *tls.Config { return k.server(nil, true, Node) }

// PeerClient is how a node calls another one. The address does not matter: who answers must be that node.
func (k *Keys) PeerClient(id uint64) *tls.Config {
	m := k.fresh()
	return m.client(func(s tls.ConnectionState) error {
		who, err := m.verify(s.PeerCertificates, x509.ExtKeyUsageServerAuth, time.Now(), Node)
		if err == nil && who.Name != strconv.FormatUint(id, 10) {
			return untrusted("it is that of %v, and node %d is wanted here: compare the addresses in \"members\"", who, id)
		}
		return err
	})
}

// Server is how a node's API and an agent are served: to whoever has a certificate of the cluster, and to
// those without one, who may have a token.
func (k *Keys) Server() *tls.Config {
	return k.server([]string{"h2", "http/1.1"}, false, Client, Agent, Node)
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
			return untrusted("that of %v is not for the address %s: make one with \"concord cert create-%s\" and --host %s", who, host, kind, host)
		}
		return nil
	})
}

// client makes a configuration in which verify alone says who the other end is: by its identity,
// which the standard checks know nothing of.
func (m *material) client(verify func(tls.ConnectionState) error) *tls.Config {
	c := &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, VerifyConnection: verify} //nolint:gosec // verify does it
	if m.own != nil {
		c.Certificates = []tls.Certificate{*m.own}
	}
	return c
}

// server makes a configuration whose connections are each verified by what the files say when they come.
func (k *Keys) server(protocols []string, must bool, kinds ...Kind) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: protocols, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		m := k.fresh()
		if m.own == nil {
			return nil, errors.New("security: a server needs a certificate")
		}
		c := &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: protocols, Certificates: []tls.Certificate{*m.own},
			ClientAuth: tls.RequestClientCert, SessionTicketsDisabled: true}
		if must {
			c.ClientAuth = tls.RequireAnyClientCert
		}
		c.VerifyConnection = func(s tls.ConnectionState) error {
			if len(s.PeerCertificates) == 0 && !must {
				return nil
			}
			_, err := m.verify(s.PeerCertificates, x509.ExtKeyUsageClientAuth, time.Now(), kinds...)
			return err
		}
		return c, nil
	}}
}

// Peer says who is at the other end of a connection that Server or PeerServer has accepted, or that was made
// by PeerClient; zero if that one has no certificate. By what the files say now it may not be
// accepted any more.
func (k *Keys) Peer(s *tls.ConnectionState) (Identity, error) {
	if s == nil || len(s.PeerCertificates) == 0 {
		return Identity{}, nil
	}
	if !s.HandshakeComplete {
		return Identity{}, fmt.Errorf("%w: the handshake is not over", ErrUntrusted)
	}
	// What it is used for was verified by the handshake, and does not change.
	return k.fresh().verify(s.PeerCertificates, x509.ExtKeyUsageAny, time.Now(), Node, Agent, Client)
}
