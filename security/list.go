// SPDX-License-Identifier: Apache-2.0

package security

import (
	"crypto/x509"
	"path/filepath"
	"slices"
	"time"
)

// Listed is what people see of one certificate.
type Listed struct {
	File     string    `json:"file"`
	Identity string    `json:"identity"`
	Begins   time.Time `json:"begins"`
	Ends     time.Time `json:"ends"`
	Hosts    []string  `json:"hosts,omitempty"`
	State    string    `json:"state"` // valid, or why it is not accepted
}

// List shows the certificates of a directory, in order of their files. It needs no key.
func (d Dir) List() ([]Listed, error) {
	m, err := d.common().load(nil, time.Now())
	if err != nil {
		return nil, err
	}
	files, err := filepath.Glob(filepath.Join(escaped(string(d)), "*.crt"))
	if err != nil {
		return nil, err
	}
	slices.Sort(files)
	var out []Listed
	for _, f := range files {
		b, err := readPublic(f)
		if err != nil {
			return nil, err
		}
		certs, err := parseCertificates(f, b)
		if err != nil {
			return nil, err
		}
		if certs[0].IsCA {
			for _, c := range certs {
				out = append(out, Listed{File: filepath.Base(f), Identity: "authority of " + clusterOf(c),
					Begins: c.NotBefore, Ends: c.NotAfter, State: m.stateOf([]*x509.Certificate{c})})
			}
			continue
		}
		l := Listed{File: filepath.Base(f), Begins: certs[0].NotBefore, Ends: certs[0].NotAfter,
			Hosts: certs[0].DNSNames, State: m.stateOf(certs)}
		for _, ip := range certs[0].IPAddresses {
			l.Hosts = append(l.Hosts, ip.String())
		}
		if who, err := identityOf(certs[0]); err == nil {
			l.Identity = who.String()
		}
		out = append(out, l)
	}
	return out, nil
}

// clusterOf is the cluster that an authority is for; empty if it does not say.
func clusterOf(c *x509.Certificate) string {
	for _, u := range c.URIs {
		if u.Scheme == scheme {
			return u.Host
		}
	}
	return ""
}

func (m *material) stateOf(chain []*x509.Certificate) string {
	now := time.Now()
	if chain[0].IsCA {
		if now.After(chain[0].NotAfter) {
			return "ended"
		}
		return "valid"
	}
	if _, err := m.verify(chain, x509.ExtKeyUsageClientAuth, now, Node, Agent, Client); err != nil {
		return err.Error()
	}
	return "valid"
}
