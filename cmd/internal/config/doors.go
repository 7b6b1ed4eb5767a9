// SPDX-License-Identifier: Apache-2.0

package config

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"reflect"
	"slices"
	"sync/atomic"
	"time"

	"github.com/concordtx/concord/security"
	"github.com/concordtx/concord/security/access"
)

// Auth is who else than the holders of certificates may call, and what everybody may do.
type Auth struct {
	Tokens string // the file that "concord token" keeps; empty: there are no tokens
	Grants []grant
}

type grant struct {
	Subject   string
	Roles     []string
	Resources []string
}

// Doors are what the configurations of a node and of an agent say about who may come in.
type Doors struct {
	certsDir string
	insecure bool
	auth     Auth
	// own says which files of a directory are those of the process.
	own func(security.Dir) security.Files
	// peer and api are files of a node that go before those of the directory.
	peer peerTLS
	api  apiTLS
	// listeners are addresses by their keys, and resources the names that grants may use.
	listeners []listener
	limits    access.Limits
	resources []string
	// hosts are names, besides localhost, by which a listener of this machine alone is asked.
	hosts []string
}

type listener struct{ key, addr string }

// peerTLS are the files by which nodes know each other. What is empty is that of certs_dir.
type peerTLS struct {
	CA             []string
	Cert, Key, CRL string
}

// apiTLS are those by which clients and a node know each other. What is empty is that of peerTLS.
type apiTLS struct {
	Cert, Key string
	ClientCA  []string `mapstructure:"client_ca"`
}

// Secure reports whether it says who may come in.
func (c Doors) Secure() bool {
	return c.certsDir != "" || len(c.peer.CA) > 0 || c.peer.Cert+c.peer.Key+c.peer.CRL+c.api.Cert+c.api.Key != "" ||
		len(c.api.ClientCA) > 0
}

// peerFiles are the files for the peer port, and apiFiles those for clients.
func (c Doors) peerFiles() (f security.Files) {
	if c.certsDir != "" {
		f = c.own(security.Dir(c.certsDir))
	}
	if len(c.peer.CA) > 0 {
		f.CA = c.peer.CA
	}
	if c.peer.Cert != "" {
		f.Cert, f.Key = c.peer.Cert, c.peer.Key
	}
	f.CRL = cmp.Or(c.peer.CRL, f.CRL)
	return f
}

func (c Doors) apiFiles() security.Files {
	f := c.peerFiles()
	if c.api.Cert != "" {
		f.Cert, f.Key = c.api.Cert, c.api.Key
	}
	if len(c.api.ClientCA) > 0 {
		f.ClientCA = c.api.ClientCA
	}
	return f
}

// checkFiles says what is missing of the files.
func (c Doors) checkFiles() error {
	switch f := c.peerFiles(); {
	case (c.peer.Cert == "") != (c.peer.Key == ""):
		return errors.New("peer.tls: half a pair: give both \"cert\" and \"key\"")
	case (c.api.Cert == "") != (c.api.Key == ""):
		return errors.New("api.tls: half a pair: give both \"cert\" and \"key\"")
	case len(f.CA) == 0 || f.Cert == "":
		return errors.New("peer.tls: give \"ca\", \"cert\" and \"key\", or \"certs_dir\", which has all of them")
	}
	return nil
}

// Check says what is wrong with it.
func (c Doors) Check() error {
	if c.Secure() && c.insecure {
		return errors.New("\"certs_dir\" and \"insecure\" contradict each other: remove one of them")
	}
	if c.Secure() {
		if err := c.checkFiles(); err != nil {
			return err
		}
	}
	if !c.Secure() && (c.auth.Tokens != "" || len(c.auth.Grants) > 0) {
		return errors.New("\"auth\" protects nothing without \"certs_dir\": give the directory with the " +
			"certificates (\"concord cert --help\" says how to make them)")
	}
	for _, l := range c.listeners {
		if !c.Secure() && !c.insecure && !loopback(l.addr) {
			return fmt.Errorf("%s: %s can be reached from outside and has no TLS: run \"concord cert\", or start "+
				"with --insecure", l.key, l.addr)
		}
	}
	_, err := c.policy()
	return err
}

// loopback reports whether an address can be reached from this machine alone.
func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func (c Doors) policy() (*security.Policy, error) {
	var grants []security.Grant
	for _, g := range c.auth.Grants {
		x := security.Grant{Subject: g.Subject, Resources: g.Resources}
		for _, r := range g.Roles {
			x.Roles = append(x.Roles, security.Role(r))
		}
		grants = append(grants, x)
	}
	return security.NewPolicy(grants, c.resources)
}

// Opened are the doors of a process that runs.
type Opened struct {
	Keys     *security.Keys // for clients; nil: there are none
	Peers    *security.Keys // for other nodes; nil: there are none
	Guard    *access.Guard
	tokens   atomic.Pointer[security.Tokens] // nil: there are none
	file     string                          // of the tokens; owned by who reloads
	insecure bool
	later    atomic.Pointer[string] // what Later was told
	log      *slog.Logger
}

// Later is told what of a configuration does not hold for the process that runs; empty: all of it does.
func (d *Opened) Later(text string) { d.later.Store(&text) }

// Warnings are what people should know of the doors of a node.
func (d *Opened) Warnings(node uint64) (texts []string) {
	if d.insecure {
		texts = append(texts, fmt.Sprintf("node %d asks nobody for their identity: make certificates with "+
			"\"concord cert\", and start it without --insecure", node))
	}
	if later := d.later.Load(); later != nil && *later != "" {
		texts = append(texts, fmt.Sprintf("node %d: %s", node, *later))
	}
	if d.Keys == nil {
		return texts
	}
	for _, wrong := range slices.Compact([]string{d.Keys.Wrong(), d.Peers.Wrong()}) {
		if wrong == "" {
			continue
		}
		texts = append(texts, fmt.Sprintf("node %d goes on with the certificates that it has, as what was read last "+
			"is wrong: %s", node, wrong))
	}
	if tokens := d.tokens.Load(); tokens != nil && tokens.Wrong() != "" {
		texts = append(texts, fmt.Sprintf("node %d goes on with the tokens that it has, as what was read last is "+
			"wrong: %s", node, tokens.Wrong()))
	}
	own, authority := earlier(d.Keys, d.Peers)
	for _, c := range []struct {
		what string
		ends time.Time
	}{{"its certificate", own}, {"an authority that it believes", authority}} {
		if time.Until(c.ends) < security.ExpirySoon {
			texts = append(texts, fmt.Sprintf("node %d: %s ends at %s: make a new one, \"concord cert --help\" "+
				"says how", node, c.what, c.ends.Format(time.RFC3339)))
		}
	}
	return texts
}

// earlier is when the first of the certificates and of the authorities end.
func earlier(a, b *security.Keys) (own, authority time.Time) {
	own, authority = a.Expiry()
	if o, _ := b.Expiry(); o.Before(own) {
		own = o
	}
	if _, x := b.Expiry(); x.Before(authority) {
		authority = x
	}
	return own, authority
}

// Open loads the files.
func (c Doors) Open(log *slog.Logger) (*Opened, error) {
	d := &Opened{insecure: c.insecure, file: c.auth.Tokens, log: log}
	conf := access.Config{Logger: log, Limits: c.limits}
	var err error
	if !c.Secure() {
		if c.insecure {
			log.Warn("nobody is asked for their identity: whoever reaches this process decides transactions; make " +
				"certificates with \"concord cert\" and give \"certs_dir\"")
		} else { // on this machine alone
			conf.Hosts = append([]string{"localhost"}, c.hosts...)
		}
	} else {
		if d.Keys, err = security.Load(c.apiFiles(), log); err != nil {
			return nil, err
		}
		peers := log
		if reflect.DeepEqual(c.peerFiles(), c.apiFiles()) { // the same is not said twice
			peers = nil
		}
		if d.Peers, err = security.Load(c.peerFiles(), peers); err != nil {
			return nil, err
		}
		if d.Peers.Self() != d.Keys.Self() {
			return nil, fmt.Errorf("api.tls: %s is for %v, and this node is %v: give a certificate that was made "+
				"for it", c.apiFiles().Cert, d.Keys.Self(), d.Peers.Self())
		}
		if c.auth.Tokens != "" {
			if conf.Tokens, err = security.LoadTokens(c.auth.Tokens, log); err != nil {
				return nil, err
			}
			d.tokens.Store(conf.Tokens)
		}
		if conf.Policy, err = c.policy(); err != nil {
			return nil, err
		}
		conf.Keys = d.Keys
	}
	d.Guard = access.NewGuard(conf)
	return d, nil
}

// Reload reads the files again, those that a configuration now names, and puts its grants in force. What is wrong
// changes nothing. A process that listens without certificates cannot do otherwise until it is started again.
func (d *Opened) Reload(c Doors) error {
	policy, err := c.policy()
	if err != nil {
		return err
	}
	switch {
	case d.Keys == nil && !c.Secure():
		return nil
	case d.Keys == nil:
		return errors.New("\"certs_dir\" protects this process only when it is started again, and until then it asks " +
			"nobody for their identity: restart it now")
	case !c.Secure():
		return errors.New("\"certs_dir\" is gone, and this process goes on asking who calls: put it back, or " +
			"restart it")
	}
	tokens := d.tokens.Load()
	switch {
	case c.auth.Tokens == "":
		tokens = nil
	case tokens == nil || c.auth.Tokens != d.file:
		tokens, err = security.LoadTokens(c.auth.Tokens, d.log)
	default:
		err = tokens.Reload()
	}
	if err != nil {
		return err
	}
	if _, err := security.Load(c.apiFiles(), nil); err != nil { // what is wrong changes nothing of the other one
		return err
	}
	if err := errors.Join(d.Peers.ReloadFrom(c.peerFiles()), d.Keys.ReloadFrom(c.apiFiles())); err != nil {
		return err
	}
	d.tokens.Store(tokens)
	d.file = c.auth.Tokens
	d.Guard.SetTokens(tokens)
	d.Guard.SetPolicy(policy)
	return nil
}
