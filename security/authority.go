// SPDX-License-Identifier: Apache-2.0

package security

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

// Lifetimes of certificates, unless whoever makes them says otherwise.
const (
	AuthorityLifetime   = 10 * 365 * 24 * time.Hour
	CertificateLifetime = 365 * 24 * time.Hour
	// backdated is how long before now a certificate begins to be valid, for clocks that are behind.
	backdated = time.Hour
)

// Authority issues the certificates of one cluster. Whoever has its key can be anybody there, so
// the key belongs on no node.
type Authority struct {
	cluster string
	cert    *x509.Certificate
	key     *ecdsa.PrivateKey
}

// Cluster is the name of the cluster that the authority is for.
func (a *Authority) Cluster() string { return a.cluster }

// NewAuthority makes an authority. Its certificate is added to those that dir has in ca.crt, so that
// another one can take over while both are believed, and its key goes to a file of its own.
func NewAuthority(dir Dir, keyFile, cluster string, lifetime time.Duration, overwrite bool) (*Authority, error) {
	if err := CheckName(cluster); err != nil {
		return nil, fmt.Errorf("--cluster: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template, err := template(lifetime)
	if err != nil {
		return nil, err
	}
	template.Subject = pkix.Name{CommonName: "concord authority of " + cluster}
	template.URIs = []*url.URL{{Scheme: scheme, Host: cluster}}
	template.IsCA, template.BasicConstraintsValid, template.MaxPathLenZero = true, true, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(string(dir), 0o700); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(keyFile), 0o700); err != nil {
		return nil, err
	}
	if err := writeKey(keyFile, key, overwrite); err != nil {
		return nil, err
	}
	path := filepath.Join(string(dir), "ca.crt")
	all, err := readPublic(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if len(all) > 0 {
		if _, err := parseAuthorities(path, all); err != nil {
			return nil, err
		}
	}
	all = append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), all...)
	return &Authority{cluster: cluster, cert: cert, key: key}, write(path, all, 0o644, true)
}

// OpenAuthority loads an authority that NewAuthority made.
func OpenAuthority(dir Dir, keyFile string) (*Authority, error) {
	b, err := ReadSecret(keyFile, maxFile)
	if err != nil {
		return nil, fmt.Errorf("the authority's key: %w: give its path with --ca-key, or make one with \"concord "+
			"cert create-ca\"", err)
	}
	key, err := parseKey(keyFile, b)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(string(dir), "ca.crt")
	if b, err = readPublic(path); err != nil {
		return nil, fmt.Errorf("the authority's certificate: %w: give the directory with --certs-dir", err)
	}
	certs, err := parseAuthorities(path, b)
	if err != nil {
		return nil, err
	}
	for _, c := range certs {
		if !key.PublicKey.Equal(c.PublicKey) {
			continue
		}
		if name := clusterOf(c); CheckName(name) == nil {
			return &Authority{cluster: name, cert: c, key: key}, nil
		}
		return nil, fmt.Errorf("%s does not name a cluster: it was not made by \"concord cert create-ca\"", path)
	}
	return nil, fmt.Errorf("none of the certificates in %s belongs to the key %s: give the right --certs-dir and "+
		"--ca-key", path, keyFile)
}

// Issue makes the certificate and the key of somebody, and puts them into dir. hosts are names and
// IP addresses under which a node or an agent can be reached. It returns the path of the certificate.
func (a *Authority) Issue(dir Dir, k Kind, name string, hosts []string, lifetime time.Duration, overwrite bool) (string,
	error) {
	who := Identity{Cluster: a.cluster, Kind: k, Name: name}
	if err := who.check(); err != nil {
		return "", err
	}
	t, err := template(lifetime)
	if err != nil {
		return "", err
	}
	if t.NotAfter.After(a.cert.NotAfter) {
		t.NotAfter = a.cert.NotAfter
	}
	t.Subject = pkix.Name{CommonName: name, Organization: []string{a.cluster}}
	t.URIs = []*url.URL{who.uri()}
	t.KeyUsage = x509.KeyUsageDigitalSignature
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if k != Client {
		if len(hosts) == 0 {
			return "", fmt.Errorf("%s %s: give the names and addresses under which it is reached with --host", k, name)
		}
		t.ExtKeyUsage = append(t.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	for _, h := range hosts {
		switch ip := net.ParseIP(h); {
		case ip != nil:
			t.IPAddresses = append(t.IPAddresses, ip)
		case host.MatchString(h):
			t.DNSNames = append(t.DNSNames, h)
		default:
			return "", fmt.Errorf("--host: %.80q is neither a name nor an IP address", h)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", err
	}
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, key.Public(), a.key)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(string(dir), 0o700); err != nil {
		return "", err
	}
	path := dir.path(k, name)
	if err := writeKey(path+".key", key, overwrite); err != nil {
		return "", err
	}
	return path + ".crt", write(path+".crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644,
		overwrite)
}

// Revoke adds certificates to dir's revocation list, ca.crl, which it makes if there is none.
func (a *Authority) Revoke(dir Dir, certFiles ...string) error {
	path := filepath.Join(string(dir), "ca.crl")
	list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now().Add(-backdated),
		NextUpdate: a.cert.NotAfter}
	others, err := readPublic(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	var kept []byte // what other authorities have revoked
	for block, rest := pem.Decode(others); block != nil; block, rest = pem.Decode(rest) {
		old, err := x509.ParseRevocationList(block.Bytes)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if old.CheckSignatureFrom(a.cert) != nil {
			kept = append(kept, pem.EncodeToMemory(block)...)
			continue
		}
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, old.RevokedCertificateEntries...)
		list.Number = new(big.Int).Add(old.Number, big.NewInt(1))
	}
	for _, f := range certFiles {
		b, err := readPublic(f)
		if err != nil {
			return err
		}
		certs, err := parseCertificates(f, b)
		if err != nil {
			return err
		}
		if err := certs[0].CheckSignatureFrom(a.cert); err != nil {
			return fmt.Errorf("%s was not issued by this authority: give the one that did with --ca-key", f)
		}
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries,
			x509.RevocationListEntry{SerialNumber: certs[0].SerialNumber, RevocationTime: time.Now()})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, a.cert, a.key)
	if err != nil {
		return err
	}
	return write(path, append(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}), kept...), 0o644, true)
}

func template(lifetime time.Duration) (*x509.Certificate, error) {
	if lifetime <= 0 {
		return nil, fmt.Errorf("--lifetime: %v is not a positive duration such as 8760h", lifetime)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	now := time.Now()
	return &x509.Certificate{SerialNumber: serial, NotBefore: now.Add(-backdated), NotAfter: now.Add(lifetime)}, nil
}

func writeKey(path string, key *ecdsa.PrivateKey, overwrite bool) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return write(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600, overwrite)
}
