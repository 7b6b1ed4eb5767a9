// SPDX-License-Identifier: Apache-2.0

package security

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"strings"
)

// ServerTrust says when a database server is believed to be the one that is meant. The zero value believes one that
// is on this machine, and any other by a certificate for its name, of an authority of the system.
type ServerTrust struct {
	// Insecure believes any server, or what the data source name says of it.
	Insecure bool
	// CA is a file with the authorities that are believed instead of the system's; empty: those.
	CA string
}

// Authorities reads them; nil: those of the system.
func (t ServerTrust) Authorities() (*x509.CertPool, error) {
	if t.CA == "" {
		return nil, nil
	}
	b, err := readPublic(t.CA)
	if err != nil {
		return nil, err
	}
	list, err := parseAuthorities(t.CA, b)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	for _, c := range list {
		pool.AddCert(c)
	}
	return pool, nil
}

// Verifies reports whether a connection to a host by a TLS configuration, nil being none, is to the server that is
// meant.
func (t ServerTrust) Verifies(host string, c *tls.Config) bool {
	return t.Insecure || LocalServer(host) || c != nil && !c.InsecureSkipVerify && c.ServerName != ""
}

// LocalServer reports whether a host, or a socket of the file system, is on this machine.
func LocalServer(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || strings.HasPrefix(host, "/") || strings.HasPrefix(host, "@") || ip != nil &&
		ip.IsLoopback()
}
