// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strings"

	sqldriver "github.com/go-sql-driver/mysql"

	"github.com/concordtx/concord/adapters/agent"
	"github.com/concordtx/concord/api"
	"github.com/concordtx/concord/security"
	"github.com/concordtx/concord/txn"
)

// A resource holds a secret, and whoever makes a mistake in writing it down may have put that
// anywhere: a data source name without quotes falls apart at a comma, and is written under a wrong
// key. So what follows shows nothing that was written unless it cannot be a piece of one.

type Resource struct {
	Name    string
	Driver  string // postgres, mysql (MySQL and MariaDB), agent (of a node) or pebble (of an agent)
	DSN     security.DSN
	DSNFile string // of a file, or "env:NAME" for a variable of the environment
	TLS     string // insecure, or verify-full, which is the default
	TLSCA   string // file of the authorities that verify the server; empty: the system's
	Dir     string // of an embedded store, which only an agent hosts
	Addr    string // of the agent that hosts it
}

var resourceKeys = []string{"name", "driver", "dsn", "dsn_file", "tls", "tls_ca"}

const NotShown = "(not shown, as it may be a piece of a password)"

// decodeResources reads what a file or the environment has under "resources". Extra are keys
// besides resourceKeys.
func decodeResources(raw any, extra ...string) ([]Resource, error) {
	if raw == nil {
		return nil, nil
	}
	list, ok := raw.([]any)
	if !ok {
		return nil, errors.New("resources: want a list, each with name, driver, and dsn or dsn_file")
	}
	var out []Resource
	for i, entry := range list {
		values, ok := entry.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("resources[%d]: want name, driver, and dsn or dsn_file; put a dsn with special "+
				"characters in quotes", i)
		}
		r, err := decodeResource(values, slices.Concat(resourceKeys, extra))
		if err != nil {
			return nil, fmt.Errorf("resources[%d]: %w", i, err)
		}
		out = append(out, r)
	}
	return out, nil
}

func decodeResource(values map[string]any, keys []string) (r Resource, err error) {
	var dsn string
	defer func() { r.DSN = security.NewDSN(dsn) }()
	fields := map[string]*string{"name": &r.Name, "driver": &r.Driver, "dsn": &dsn, "dsn_file": &r.DSNFile,
		"tls": &r.TLS, "tls_ca": &r.TLSCA, "dir": &r.Dir, "addr": &r.Addr}
	for key, value := range values {
		field := fields[key]
		if !slices.Contains(keys, key) {
			if near := nearest(key, keys); typos(key, near) <= 1 {
				return r, fmt.Errorf("unknown key %q: did you mean %q?", key, near)
			}
			return r, fmt.Errorf("unknown key %s: the keys are %s; put a dsn with special characters in quotes",
				NotShown, strings.Join(keys, ", "))
		}
		switch v := value.(type) {
		case nil:
		case string:
			*field = v
		case int, bool:
			*field = fmt.Sprint(v)
		default:
			return r, fmt.Errorf("%s: want a text: put it in quotes", key)
		}
	}
	return r, nil
}

func (c *Node) CheckResources() error { return checkResources(c.Resources, ofNode) }

// checkResources checks the list of resources of a host.
func checkResources(list []Resource, of host) error {
	var names []string
	for i, r := range list {
		if r.Name == "" {
			return fmt.Errorf("resources[%d]: \"name\" is missing: give the name that the applications have for it", i)
		}
		if err := api.ParseText("name", r.Name, txn.MaxResourceName); err != nil {
			return fmt.Errorf("resources[%d]: %w", i, err)
		}
		if dsnLike.MatchString(r.Name) {
			return fmt.Errorf("resources[%d]: the name %s looks like a data source name, which belongs under \"dsn\"",
				i, NotShown)
		}
		if slices.Contains(names, r.Name) {
			return fmt.Errorf("resources[%d]: the name %s is given twice: each resource has its own", i, shown(r.Name))
		}
		names = append(names, r.Name)
		d, unknown := of.driver(r)
		if d.at == byAddr {
			if _, err := agent.Dial(r.Addr); err != nil || !r.DSN.Empty() || r.DSNFile != "" {
				return fmt.Errorf("resource %s: an agent hosts it: give the agent's \"addr\" as host:port, and "+
					"neither \"dsn\" nor \"dsn_file\"", Named(r.Name))
			}
			continue
		}
		if r.Addr != "" {
			return fmt.Errorf("resource %s: \"addr\" is for driver agent: give \"dsn\" or \"dsn_file\" instead",
				Named(r.Name))
		}
		if d.at == byDir {
			if r.Dir == "" || !r.DSN.Empty() || r.DSNFile != "" {
				return fmt.Errorf("resource %s: a pebble store is in a directory of its own: give \"dir\", and "+
					"neither \"dsn\" nor \"dsn_file\"", Named(r.Name))
			}
			continue
		}
		if unknown != nil {
			return fmt.Errorf("resources[%d]: %w", i, unknown)
		}
		if r.Dir != "" {
			return fmt.Errorf("resource %s: \"dir\" is for driver pebble: give \"dsn\" or \"dsn_file\" instead",
				Named(r.Name))
		}
		if r.DSN.Empty() == (r.DSNFile == "") {
			return fmt.Errorf("resource %s: give either \"dsn\" or \"dsn_file\"", Named(r.Name))
		}
		if !slices.Contains([]string{"", "insecure", "verify-full"}, r.TLS) {
			return fmt.Errorf("resource %s: tls %s is neither verify-full, the default, nor insecure", Named(r.Name),
				shown(r.TLS))
		}
	}
	return nil
}

// Secret returns the DSN, from where it is kept. Errors never hold it.
func (r Resource) Secret() (security.DSN, error) {
	if r.DSNFile == "" {
		return r.DSN, nil
	}
	if name, ok := strings.CutPrefix(r.DSNFile, "env:"); ok {
		return fromVariable(name)
	}
	path, own := r.DSNFile, false
	if rest, ok := strings.CutPrefix(path, "${"+credentialsDir+"}"); ok {
		dir := os.Getenv(credentialsDir)
		if dir == "" {
			return security.DSN{}, fmt.Errorf("dsn_file: the environment has no %s: have the service manager load the "+
				"credential (LoadCredential=), or give the path of a file", credentialsDir)
		}
		path, own = dir+rest, true
	}
	if !pathLike.MatchString(path) {
		return security.DSN{}, fmt.Errorf("dsn_file %s cannot be read: it wants the path of a file; a data source "+
			"name belongs under \"dsn\"", NotShown)
	}
	b, err := readCredential(path, own)
	text := strings.TrimSpace(string(b))
	if failed := (*fs.PathError)(nil); errors.As(err, &failed) {
		err = fmt.Errorf("%s: %w", path, failed.Err)
	}
	switch {
	case err == nil && text != "":
		return security.NewDSN(text), nil
	case err == nil:
		err = fmt.Errorf("%s is empty", path)
	case errors.Is(err, fs.ErrPermission):
		return security.DSN{}, fmt.Errorf("dsn_file %w: let the user of concord read it", err)
	}
	return security.DSN{}, fmt.Errorf("dsn_file %w: it wants the path of a file that holds the data source name", err)
}

// keptSecret returns an error if data source names with passwords are in a file that others may read, as exposed says;
// nil: none may.
func keptSecret(list []Resource, exposed error) error {
	if exposed == nil || !slices.ContainsFunc(list, Resource.holdsPassword) {
		return nil
	}
	return fmt.Errorf("the passwords of databases are in it: %w", exposed)
}

// readCredential reads a file that its owner alone may read. With own it is one of those that the service manager has
// made for this process alone; who may read them is a list that the group's bits summarize.
func readCredential(path string, own bool) ([]byte, error) {
	if own {
		return security.ReadCredential(path, maxSecretFile)
	}
	return security.ReadSecret(path, maxSecretFile)
}

// credentialsDir is where systemd puts what LoadCredential= names.
const credentialsDir = "CREDENTIALS_DIRECTORY"

func fromVariable(name string) (security.DSN, error) {
	if !variable.MatchString(name) {
		return security.DSN{}, fmt.Errorf("dsn_file env:%s: want the name of a variable of the environment", NotShown)
	}
	text := strings.TrimSpace(os.Getenv(name))
	if text == "" {
		return security.DSN{}, fmt.Errorf("dsn_file env:%s: the environment has no such variable: set it to the data "+
			"source name", name)
	}
	return security.NewDSN(text), nil
}

// Trust says whether the server of the resource is believed to be the one that is meant.
func (r Resource) Trust() security.ServerTrust {
	return security.ServerTrust{Insecure: r.TLS == "insecure", CA: r.TLSCA}
}

// holdsPassword reports whether a data source name has a password in it.
func (r Resource) holdsPassword() bool {
	text := r.DSN.Reveal()
	if r.Driver == "mysql" {
		c, err := sqldriver.ParseDSN(text)
		return text != "" && (err != nil || c.Passwd != "")
	}
	return passwordLike.MatchString(text)
}

var (
	// pathLike is what cannot be a data source name, of which each has a colon, an at or an equals sign.
	pathLike = regexp.MustCompile(`^[\pL\pN ./_+,-]+$`)
	dsnLike  = regexp.MustCompile(`://|:.*@|(?i)pass(word|wd)? *=`)
	// passwordLike is a password in a URL, or in a keyword=value text.
	passwordLike = regexp.MustCompile(`://[^/@]*:[^@]+@|(?i)password *=`)
	variable     = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,127}$`)
	wordLike     = regexp.MustCompile(`^[\pL\pN._ -]{1,64}$`)
)

// Named returns a word, unless it looks like more than that; shown quotes it.
func Named(word string) string {
	if word == "" || wordLike.MatchString(word) {
		return word
	}
	return NotShown
}

func shown(word string) string {
	if Named(word) == word {
		return fmt.Sprintf("%q", word)
	}
	return NotShown
}
