// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"net"
	"regexp"
	"slices"
	"time"

	"github.com/spf13/pflag"

	"github.com/concordtx/concord/api"
	"github.com/concordtx/concord/participant"
	"github.com/concordtx/concord/security"
)

// Agent is what an agent is told. Precedence: flag, CONCORD_AGENT_* environment, file,
// default, as for a node.
type Agent struct {
	Name         string
	DataDir      string `mapstructure:"data_dir"`
	Listen       string
	Advertise    string
	Coordinators []string
	Resources    []Resource // by decodeResources
	CertsDir     string     `mapstructure:"certs_dir"`
	Insecure     bool
	Auth         Auth
	MaxOpen      int `mapstructure:"max_open"`
	Silence      time.Duration
	Scan         time.Duration
	Tracing      tracingConfig
	Log          logConfig
}

const AgentExample = `name: east
data_dir: /var/lib/concord-agent
listen: 127.0.0.1:7430
coordinators: ["127.0.0.1:7420", "127.0.0.2:7420"]
resources:
  - {name: orders,  driver: postgres, dsn: "postgres://app@127.0.0.1:5432/orders"}
  - {name: billing, driver: mysql,    dsn_file: /run/secrets/billing}
  - {name: ledger,  driver: pebble,   dir: /var/lib/ledger}`

// AgentProgram is "concord agent".
var AgentProgram = program{command: "concord agent", prefix: envPrefix + "AGENT_",
	lists: []string{"coordinators", "resources", "auth.grants"}, defaults: agentDefaults, own: "dir",
	flags: map[string]string{"name": "name", "data_dir": "data-dir", "listen": "listen", "log.level": "log-level",
		"log.format": "log-format",
		"certs_dir":  "certs-dir", "insecure": "insecure"}}

// agentDefaults are the keys that are no lists, each with its default.
func agentDefaults() map[string]any {
	return map[string]any{
		"name": "", "data_dir": "", "listen": "127.0.0.1:7430", "advertise": "", "max_open": 64, "silence": time.Minute,
		"scan":      5 * time.Second,
		"certs_dir": "", "insecure": false, "auth.tokens": "",
		"tracing.endpoint": "", "log.level": "info", "log.format": "text",
	}
}

// LoadAgent reads an agent's configuration file, or with no name the environment alone, and
// checks it. flags may override some keys.
func LoadAgent(file string, flags *pflag.FlagSet) (*Agent, error) {
	var c Agent
	source, resources, err := AgentProgram.load(file, flags, &c)
	if err != nil {
		return nil, err
	}
	c.Resources = resources
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("%s: %w", source, err)
	}
	return &c, nil
}

var agentName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

func (c *Agent) check() error {
	if !agentName.MatchString(c.Name) {
		return fmt.Errorf("\"name\" is %.70q: give the agent a name of 1 to 64 letters, digits, dots, hyphens and "+
			"underscores, of its own in the cluster", c.Name)
	}
	if c.DataDir == "" {
		return errors.New("\"data_dir\" is missing: give a directory of its own to each agent")
	}
	if c.Advertise != "" && !api.Dialable(c.Advertise) {
		return fmt.Errorf("advertise: %.80q is not host:port, such as 10.0.0.1:7430: it is where coordinators and "+
			"other agents find this one", c.Advertise)
	}
	if len(c.Coordinators) == 0 {
		return errors.New("\"coordinators\" is empty: list the API addresses of the coordinator nodes, such as " +
			"127.0.0.1:7420")
	}
	for i, addr := range c.Coordinators {
		if _, _, err := net.SplitHostPort(addr); err != nil {
			return fmt.Errorf("coordinators[%d]: %q is not host:port, such as 10.0.0.1:7420", i, addr)
		}
	}
	if len(c.Resources) == 0 {
		return errors.New("\"resources\" is empty: an agent hosts at least one database")
	}
	if err := checkResources(c.Resources, ofAgent); err != nil {
		return err
	}
	if err := c.Doors().Check(); err != nil {
		return err
	}
	if c.MaxOpen < 1 || c.MaxOpen > 10_000 {
		return fmt.Errorf("max_open: %d is not between 1 and 10000: it is how many branches may have a session",
			c.MaxOpen)
	}
	for _, limit := range []struct {
		key      string
		is, most time.Duration
	}{{"silence", c.Silence, participant.MaxTimeout}, {"scan", c.Scan, time.Hour}} {
		if limit.is < 100*time.Millisecond || limit.is > limit.most {
			return fmt.Errorf("%s: %v is not a duration from 100ms to %v", limit.key, limit.is, limit.most)
		}
	}
	if !slices.Contains([]string{"text", "json"}, c.Log.Format) {
		return fmt.Errorf("log.format: %q is neither text nor json", c.Log.Format)
	}
	return nil
}

// Doors says who may come in.
func (c *Agent) Doors() Doors {
	d := Doors{certsDir: c.CertsDir, insecure: c.Insecure, auth: c.Auth,
		own:       func(d security.Dir) security.Files { return d.Agent(c.Name) },
		listeners: []listener{{"listen", c.Listen}}}
	for _, r := range c.Resources {
		d.resources = append(d.resources, r.Name)
	}
	return d
}
