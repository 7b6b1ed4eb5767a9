// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"

	"github.com/concordtx/concord/adapters/agent"
	"github.com/concordtx/concord/api"
)

// A resource holds a secret, and whoever makes a mistake in writing it down may have put that
// anywhere: a data source name without quotes falls apart at a comma, and is written under a wrong
// key. So what follows shows nothing that was written unless it cannot be a piece of one.

type Resource struct {
	Name    string
	Driver  string // postgres, mysql (MySQL and MariaDB), agent (of a node) or pebble (of an agent)
	DSN     string
	DSNFile string
	Dir     string // of an embedded store, which only an agent hosts
	Addr    string // of the agent that hosts it
}

var resourceKeys = []string{"name", "driver", "dsn", "dsn_file"}

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
	fields := map[string]*string{"name": &r.Name, "driver": &r.Driver, "dsn": &r.DSN, "dsn_file": &r.DSNFile,
		"dir": &r.Dir, "addr": &r.Addr}
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
		if err := api.ParseText("name", r.Name, api.MaxResourceName); err != nil {
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
			if _, err := agent.Dial(r.Addr); err != nil || r.DSN != "" || r.DSNFile != "" {
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
			if r.Dir == "" || r.DSN != "" || r.DSNFile != "" {
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
		if (r.DSN == "") == (r.DSNFile == "") {
			return fmt.Errorf("resource %s: give either \"dsn\" or \"dsn_file\"", Named(r.Name))
		}
	}
	return nil
}

// secret returns the DSN, from its file if it has one. Errors never hold it.
func (r Resource) Secret() (string, error) {
	if r.DSNFile == "" {
		return r.DSN, nil
	}
	b, err := readFile(r.DSNFile, maxSecretFile)
	text := strings.TrimSpace(string(b))
	if err == nil && text == "" {
		err = errors.New("it is empty")
	}
	switch {
	case err == nil:
		return text, nil
	case !pathLike.MatchString(r.DSNFile):
		return "", fmt.Errorf("dsn_file %s cannot be read: %w: it wants the path of a file; a data source name "+
			"belongs under \"dsn\"", NotShown, err)
	case errors.Is(err, fs.ErrPermission):
		return "", fmt.Errorf("dsn_file %s: %w: let the user of concord read it", r.DSNFile, err)
	}
	return "", fmt.Errorf("dsn_file %s: %w: it wants the path of a file that holds the data source name", r.DSNFile,
		err)
}

var (
	// pathLike is what cannot be a data source name, of which each has a colon, an at or an equals sign.
	pathLike = regexp.MustCompile(`^[\pL\pN ./_+,-]+$`)
	dsnLike  = regexp.MustCompile(`://|:.*@|(?i)pass(word|wd)? *=`)
	wordLike = regexp.MustCompile(`^[\pL\pN._ -]{1,64}$`)
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
