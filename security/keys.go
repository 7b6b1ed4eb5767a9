// SPDX-License-Identifier: Apache-2.0

package security

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Keys prove who this process is and verify who others are, by files that may change while it
// runs. All methods may be called concurrently.
type Keys struct {
	files   Files
	current atomic.Pointer[material]

	mu      sync.Mutex // over reading the files
	log     *slog.Logger
	looked  time.Time // when they were read last
	told    told      // the error that was logged last
	expires time.Time // of the certificate about whose end a line was logged
}

// told is a text that one writes and others read, without waiting for him.
type told struct{ p atomic.Pointer[string] }

func (t *told) set(text string) { t.p.Store(&text) }

func (t *told) text() string {
	if p := t.p.Load(); p != nil {
		return *p
	}
	return ""
}

// material is what was read at one moment; nobody changes it.
type material struct {
	own         *tls.Certificate // nil: none
	self        Identity         // zero: none
	cluster     string           // empty: not known
	authorities *x509.CertPool   // of nodes and agents
	clients     *x509.CertPool
	separate    bool            // the authorities of clients are others
	revoked     map[string]bool // nil: there is no list
	first       time.Time       // when the first of the authorities ends
	print       [sha256.Size]byte
	verified    verified
}

const (
	// freshness is how old what is known of the files may be.
	freshness = 5 * time.Second
	// ExpirySoon is when, before its end, a certificate begins to be a warning.
	ExpirySoon = 30 * 24 * time.Hour
	// maxChain certificates may lead from an authority to somebody, his own included.
	maxChain = 5
)

// Load reads the files of somebody and checks them. log gets what Refresh finds later; nil: nobody.
func Load(f Files, log *slog.Logger) (*Keys, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	k := &Keys{files: f, log: log}
	m, err := f.load(nil, time.Now())
	if err != nil {
		return nil, err
	}
	k.current.Store(m)
	k.looked = time.Now()
	return k, nil
}

// Self is who the process is; zero if it has no certificate.
func (k *Keys) Self() Identity { return k.current.Load().self }

// Expiry is when the process's own certificate and the first of its authorities end; zero if it has none.
func (k *Keys) Expiry() (own, authority time.Time) {
	m := k.current.Load()
	if m.own != nil {
		own = m.own.Leaf.NotAfter
	}
	return own, m.first
}

// Reload reads the files again. Files that are wrong change nothing.
func (k *Keys) Reload() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.reload()
}

// ReloadFrom is Reload from other files, which are those to look at from then on, unless they are wrong.
func (k *Keys) ReloadFrom(f Files) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	old := k.files
	k.files = f
	err := k.reload()
	if err != nil {
		k.files = old
	}
	return err
}

// Wrong says what was wrong with the files when they were read last; empty: nothing, and they are in force.
func (k *Keys) Wrong() string {
	return k.told.text()
}

// reload is called with mu held.
func (k *Keys) reload() error {
	k.looked = time.Now()
	old := k.current.Load()
	m, err := k.files.load(old, k.looked)
	if err == nil && m.self != old.self {
		err = fmt.Errorf("%s is now for %v, and this process is %v: put the right one back, or start again",
			k.files.Cert, m.self, old.self)
	}
	if err != nil {
		if err.Error() != k.told.text() {
			k.told.set(err.Error())
			k.log.Error("certificates were read again and are wrong: those that were there stay in force", "err", err)
		}
		return err
	}
	k.told.set("")
	if m.print != old.print {
		k.current.Store(m)
		k.log.Info("certificates were read again", "self", m.self.String())
	}
	if m.own != nil && k.looked.Add(ExpirySoon).After(m.own.Leaf.NotAfter) && k.expires != m.own.Leaf.NotAfter {
		k.expires = m.own.Leaf.NotAfter
		k.log.Warn("this process's certificate ends soon: make a new one, \"concord cert --help\" says how",
			"file", k.files.Cert, "ends", m.own.Leaf.NotAfter.Format(time.RFC3339))
	}
	return nil
}

// fresh returns what the files said a few seconds ago at most. Who comes while another one reads them
// does not wait for that.
func (k *Keys) fresh() *material {
	if k.mu.TryLock() {
		if time.Since(k.looked) >= freshness {
			_ = k.reload() // it was logged
		}
		k.mu.Unlock()
	}
	return k.current.Load()
}

// load reads all files and checks that they belong together. old is what they said before; nil: nothing.
func (f Files) load(old *material, now time.Time) (*material, error) {
	m := &material{}
	h := sha256.New()
	var all []*x509.Certificate
	for _, path := range f.CA {
		list, _, err := f.authoritiesIn("authorities", path, true, h)
		if err != nil {
			return nil, err
		}
		all = append(all, list...)
	}
	if len(all) == 0 {
		return nil, errors.New("no file names the authorities that are believed: " + makeKeys)
	}
	m.authorities = poolOf(all)
	for _, a := range all {
		if m.first.IsZero() || a.NotAfter.Before(m.first) {
			m.first = a.NotAfter
		}
		if name := clusterOf(a); name != "" {
			m.cluster = name
		}
	}
	m.clients = m.authorities
	var clients []*x509.Certificate
	for _, path := range f.ClientCA {
		list, found, err := f.authoritiesIn("authorities of clients", path, old != nil && old.separate, h)
		if err != nil {
			return nil, err
		}
		m.separate = m.separate || found
		clients = append(clients, list...)
	}
	if m.separate {
		m.clients, all = poolOf(clients), append(all, clients...)
	}
	b, found, err := f.optional(f.CRL, old != nil && old.revoked != nil)
	if err != nil {
		return nil, fmt.Errorf("revocations: %w: %s", err, makesList)
	}
	if found {
		h.Write(b)
		if m.revoked, err = parseRevoked(f.CRL, b, all); err != nil {
			return nil, err
		}
	}
	if f.Cert != "" {
		if err := f.loadOwn(m, h.Write, now); err != nil {
			return nil, err
		}
	}
	h.Sum(m.print[:0])
	return m, nil
}

// authoritiesIn reads the authorities of one file, and adds it to a print.
func (f Files) authoritiesIn(whose, path string, must bool, print io.Writer) (list []*x509.Certificate, found bool,
	err error) {
	b, found, err := f.optional(path, must)
	if err != nil {
		return nil, false, fmt.Errorf("%s: %w: %s", whose, err, makeKeys)
	}
	if !found {
		return nil, false, nil
	}
	_, _ = print.Write(b) // a hash has no errors
	list, err = parseAuthorities(path, b)
	return list, true, err
}

// optional reads a file that may be missing, unless it must be there.
func (f Files) optional(path string, must bool) (b []byte, found bool, err error) {
	if path == "" {
		return nil, false, nil
	}
	b, err = readPublic(path)
	if errors.Is(err, fs.ErrNotExist) && slices.Contains(f.MayCome, path) && !must {
		return nil, false, nil
	}
	return b, err == nil, err
}

const makeKeys = `"concord cert --help" says how to make them`

func (f Files) loadOwn(m *material, hash func([]byte) (int, error), now time.Time) error {
	certPEM, err := readPublic(f.Cert)
	if err != nil {
		return fmt.Errorf("certificate: %w: %s", err, makeKeys)
	}
	keyPEM, err := ReadSecret(f.Key, maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: put it back, or make both anew", err)
	}
	if err != nil {
		return fmt.Errorf("key of %s: %w", filepath.Base(f.Cert), err)
	}
	chain, err := parseCertificates(f.Cert, certPEM)
	if err != nil {
		return err
	}
	own, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return fmt.Errorf("%s and %s do not belong together, or one of them is damaged: make both anew", f.Cert, f.Key)
	}
	who, err := identityOf(chain[0])
	if err != nil {
		return fmt.Errorf("%s: %w", f.Cert, err)
	}
	m.self, m.cluster = who, who.Cluster
	if _, err := m.verify(chain, x509.ExtKeyUsageClientAuth, now, who.Kind); err != nil {
		return fmt.Errorf("%s: %w", f.Cert, err)
	}
	if who.Kind != Client {
		if _, err := m.verify(chain, x509.ExtKeyUsageServerAuth, now, who.Kind); err != nil {
			return fmt.Errorf("%s: %w", f.Cert, err)
		}
	}
	m.own = &own
	_, _ = hash(certPEM) // a hash has no errors
	_, _ = hash(keyPEM)
	return nil
}

func poolOf(certs []*x509.Certificate) *x509.CertPool {
	p := x509.NewCertPool()
	for _, c := range certs {
		p.AddCert(c)
	}
	return p
}

// ErrUntrusted is wrapped by what is wrong with the certificate at the other end.
var ErrUntrusted = errors.New("the certificate is not accepted")

func untrusted(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrUntrusted}, args...)...)
}

// verify says whom a chain of certificates belongs to, if that is one of the kinds.
func (m *material) verify(chain []*x509.Certificate, usage x509.ExtKeyUsage, now time.Time, kinds ...Kind) (Identity,
	error) {
	if len(chain) == 0 {
		return Identity{}, untrusted("there is none")
	}
	if len(chain) > maxChain { // else a stranger makes us look for a way through hundreds, with each request
		return Identity{}, untrusted("it comes with %d others, and %d are enough", len(chain)-1, maxChain-1)
	}
	leaf := chain[0]
	who, err := identityOf(leaf)
	if err != nil {
		return Identity{}, untrusted("%w", err)
	}
	allowed := false
	for _, k := range kinds {
		allowed = allowed || k == who.Kind
	}
	switch {
	case !allowed:
		return Identity{}, untrusted("it is for %v, and here a certificate of a %s is wanted", who, kinds[0])
	case m.cluster != "" && who.Cluster != m.cluster:
		return Identity{}, untrusted("it is for %v, and this is cluster %s", who, m.cluster)
	case now.After(leaf.NotAfter):
		return Identity{}, untrusted("that of %v ended at %s: make a new one, \"concord cert --help\" says how", who,
			leaf.NotAfter.Format(time.RFC3339))
	case now.Before(leaf.NotBefore):
		return Identity{}, untrusted("that of %v is valid from %s: compare the clocks of both machines", who,
			leaf.NotBefore.Format(time.RFC3339))
	}
	roots := m.authorities
	if who.Kind == Client {
		roots = m.clients
	}
	between := poolOf(chain[1:])
	chains, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{usage}})
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.IncompatibleUsage:
		return Identity{}, untrusted("that of %v is not made for this use: make one that is, \"concord cert "+
			"--help\" says how", who)
	case err != nil:
		return Identity{}, untrusted("that of %v was issued by none of the authorities that are believed here (%w): "+
			"compare the ca.crt of both sides", who, err)
	}
	for _, c := range chains[0] {
		if m.revoked[serial(c.RawIssuer, c.SerialNumber)] {
			return Identity{}, untrusted("that of %v was revoked", who)
		}
	}
	return who, nil
}
