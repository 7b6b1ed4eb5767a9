// SPDX-License-Identifier: Apache-2.0

package security

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"regexp"
)

// host is a DNS name.
var host = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*$`)

// parseCertificates returns the certificates of a file, of which there is at least one. Anything else
// in it is an error: half a file is no file.
func parseCertificates(path string, b []byte) (list []*x509.Certificate, err error) {
	for len(bytes.TrimSpace(b)) > 0 {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil {
			return nil, fmt.Errorf("%s is not PEM from its beginning to its end: remove what is not, or make it anew",
				path)
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("%s has a %.30q, want certificates only", path, block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: certificate %d: %w: make it anew", path, len(list)+1, err)
		}
		list = append(list, c)
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("%s has no certificate: \"concord cert --help\" says how to make one", path)
	}
	return list, nil
}

// parseAuthorities is parseCertificates for those that may issue others.
func parseAuthorities(path string, b []byte) ([]*x509.Certificate, error) {
	list, err := parseCertificates(path, b)
	for i, c := range list {
		if !c.IsCA {
			return nil, fmt.Errorf("%s: certificate %d (%.80s) is not that of an authority: remove it there", path,
				i+1, c.Subject)
		}
	}
	return list, err
}

// What to do about a key of an authority, or a revocation list, that is none.
const (
	givesKey  = `give the key that "concord cert create-ca" made`
	makesList = `"concord cert revoke" makes it`
)

// parseKey reads the key of an authority.
func parseKey(path string, b []byte) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, fmt.Errorf("%s is not PEM: %s", path, givesKey)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s is not a key in PKCS #8: %s", path, givesKey) // the error might say what is in it
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s is a %T, want an ECDSA key: %s", path, key, givesKey)
	}
	return ec, nil
}

// serial names a certificate among those of all authorities.
func serial(issuer []byte, number fmt.Stringer) string { return string(issuer) + number.String() }

// parseRevoked returns what the lists of a file revoke. Each list is signed by one of the authorities,
// else anybody who may write the file could lock others out.
func parseRevoked(path string, b []byte, authorities []*x509.Certificate) (map[string]bool, error) {
	revoked := map[string]bool{}
	n := 0
	for len(bytes.TrimSpace(b)) > 0 {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil || block.Type != "X509 CRL" {
			return nil, fmt.Errorf("%s is not made of revocation lists in PEM: %s", path, makesList)
		}
		n++
		list, err := x509.ParseRevocationList(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: list %d: %w: %s", path, n, err, makesList)
		}
		signed := false
		for _, a := range authorities {
			signed = signed || list.CheckSignatureFrom(a) == nil
		}
		if !signed {
			return nil, fmt.Errorf("%s: list %d was signed by none of the authorities: add the one that did to "+
				"ca.crt, or take the list out", path, n)
		}
		for _, e := range list.RevokedCertificateEntries {
			revoked[serial(list.RawIssuer, e.SerialNumber)] = true
		}
	}
	return revoked, nil
}
