// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
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
	// listeners are addresses by their keys, and resources the names that grants may use.
	listeners []listener
	resources []string
	// hosts are names, besides localhost, by which a listener of this machine alone is asked.
	hosts []string
}

type listener struct{ key, addr string }

// Check says what is wrong with it.
func (c Doors) Check() error {
	if c.certsDir != "" && c.insecure {
		return errors.New("\"certs_dir\" and \"insecure\" contradict each other: remove one of them")
	}
	if c.certsDir == "" && (c.auth.Tokens != "" || len(c.auth.Grants) > 0) {
		return errors.New("\"auth\" protects nothing without \"certs_dir\": give the directory with the " +
			"certificates (\"concord cert --help\" says how to make them)")
	}
	for _, l := range c.listeners {
		if c.certsDir == "" && !c.insecure && !loopback(l.addr) {
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
	Keys     *security.Keys // nil: there are none
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
		texts = append(texts, fmt.Sprintf("node %d asks nobody who he is: make certificates with \"concord cert\", "+
			"and start it without --insecure", node))
	}
	if later := d.later.Load(); later != nil && *later != "" {
		texts = append(texts, fmt.Sprintf("node %d: %s", node, *later))
	}
	if d.Keys == nil {
		return texts
	}
	if wrong := d.Keys.Wrong(); wrong != "" {
		texts = append(texts, fmt.Sprintf("node %d goes on with the certificates that it has, as what was read last "+
			"is wrong: %s", node, wrong))
	}
	if tokens := d.tokens.Load(); tokens != nil && tokens.Wrong() != "" {
		texts = append(texts, fmt.Sprintf("node %d goes on with the tokens that it has, as what was read last is "+
			"wrong: %s", node, tokens.Wrong()))
	}
	own, authority := d.Keys.Expiry()
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

// Open loads the files.
func (c Doors) Open(log *slog.Logger) (*Opened, error) {
	d := &Opened{insecure: c.insecure, file: c.auth.Tokens, log: log}
	conf := access.Config{Logger: log}
	var err error
	if c.certsDir == "" {
		if c.insecure {
			log.Warn("nobody is asked who he is: whoever reaches this process decides transactions; make " +
				"certificates with \"concord cert\" and give \"certs_dir\"")
		} else { // on this machine alone
			conf.Hosts = append([]string{"localhost"}, c.hosts...)
		}
	} else {
		if d.Keys, err = security.Load(c.own(security.Dir(c.certsDir)), log); err != nil {
			return nil, err
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
	case d.Keys == nil && c.certsDir == "":
		return nil
	case d.Keys == nil:
		return errors.New("\"certs_dir\" protects this process only when it is started again, and until then it asks " +
			"nobody who he is: restart it now")
	case c.certsDir == "":
		return errors.New("\"certs_dir\" is gone, and this process goes on asking who calls: put it back, or restart it")
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
	if err := d.Keys.ReloadFrom(c.own(security.Dir(c.certsDir))); err != nil {
		return err
	}
	d.tokens.Store(tokens)
	d.file = c.auth.Tokens
	d.Guard.SetTokens(tokens)
	d.Guard.SetPolicy(policy)
	return nil
}
