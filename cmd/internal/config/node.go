// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/go-viper/mapstructure/v2"
	"github.com/spf13/pflag"
	"github.com/spf13/viper"

	"github.com/concordtx/concord/coordinator/commit"
	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/security"
	"github.com/concordtx/concord/wal"
)

// config is what a node is told. Precedence: flag, CONCORD_* environment, file,
// default; there need be no file. An unknown key is an error: a typing error must not become a
// default.
type Node struct {
	Node    uint64
	DataDir string `mapstructure:"data_dir"`
	// FeatureLevel holds what the cluster writes to its log at an older release's level, so that
	// the way back to that release stays open; 0: whatever all members know is used.
	FeatureLevel uint16 `mapstructure:"feature_level"`
	API          apiConfig
	Peer         peerConfig
	// Admin is where people on the machine find metrics, profiles and the log level; empty: nowhere.
	Admin listenConfig
	// CertsDir has the certificates, by which nodes and clients know each other. Without it a listener
	// that others can reach does not start, unless Insecure says that it shall.
	CertsDir    string `mapstructure:"certs_dir"`
	Insecure    bool
	Auth        Auth
	Members     []Member
	Resources   []Resource // by decodeResources
	Transaction transactionConfig
	Disk        diskConfig
	Limits      limits
	Tracing     tracingConfig
	Log         logConfig
}

type listenConfig struct{ Listen string }

type apiConfig struct {
	Listen string
	TLS    apiTLS
}

type peerConfig struct {
	Listen string
	TLS    peerTLS
}

type Member struct {
	ID   uint64
	Peer string
	API  string
	Role string // voter (default) or observer
}

type transactionConfig struct {
	// MaxAge is how long a transaction may take, and after which prepared branches without a
	// lease count as orphans.
	MaxAge time.Duration `mapstructure:"max_age"`
	// Grace is how long a client may take to finish branches before the cluster does.
	Grace time.Duration
	// Scan is the interval at which resources are asked for prepared branches.
	Scan time.Duration
	// Retention is how long finished transactions are remembered.
	Retention time.Duration
}

type diskConfig struct {
	// ReserveMiB is the free space below which the node, while it leads, takes no new transactions.
	ReserveMiB uint64 `mapstructure:"reserve_mib"`
}

// tracingConfig is where the spans go.
type tracingConfig struct {
	// Endpoint is the URL of a collector that speaks OTLP over HTTP; empty: that of OTEL_EXPORTER_OTLP_ENDPOINT.
	Endpoint string
}

type logConfig struct {
	Level  string // debug, info, warn, error
	Format string // text or json
}

const NodeExample = `node: 1
data_dir: /var/lib/concord
api:  {listen: 127.0.0.1:7420}
peer: {listen: 127.0.0.1:7421}
members:
  - {id: 1, peer: 127.0.0.1:7421, api: 127.0.0.1:7420}
resources:
  - {name: orders,  driver: postgres, dsn: "postgres://app@127.0.0.1:5432/orders"}
  - {name: billing, driver: mysql,    dsn_file: /run/secrets/billing}`

// EnvironmentExample is the same in variables, as a shell sets them.
const EnvironmentExample = `CONCORD_NODE=1
CONCORD_DATA_DIR=/var/lib/concord
CONCORD_MEMBERS='[{id: 1, peer: "127.0.0.1:7421", api: "127.0.0.1:7420"}]'
CONCORD_RESOURCES='[{"name": "orders", "driver": "postgres", "dsn": "postgres://app@127.0.0.1:5432/orders"}]'`

// NodeProgram is "concord serve".
var NodeProgram = program{command: "concord serve", prefix: envPrefix,
	lists:    []string{"members", "resources", "auth.grants", "peer.tls.ca", "api.tls.client_ca"},
	defaults: configDefaults, own: "addr",
	flags: map[string]string{"node": "node", "data_dir": "data-dir", "log.level": "log-level",
		"log.format": "log-format",
		"certs_dir":  "certs-dir", "insecure": "insecure"}}

// configDefaults are the keys that are no lists, each with its default.
func configDefaults() map[string]any {
	d := map[string]any{
		"node": 0, "data_dir": "", "feature_level": 0, "api.listen": "127.0.0.1:7420", "peer.listen": "127.0.0.1:7421",
		"transaction.max_age": time.Minute, "transaction.grace": 5 * time.Second,
		"transaction.scan": 5 * time.Second, "transaction.retention": 7 * 24 * time.Hour,
		"certs_dir": "", "insecure": false, "auth.tokens": "",
		"disk.reserve_mib": wal.DefaultReserve >> 20,
		"tracing.endpoint": "",
		"log.level":        "info", "log.format": "text",
		"admin.listen": "", "peer.tls.cert": "", "peer.tls.key": "", "peer.tls.crl": "", "api.tls.cert": "",
		"api.tls.key": "",
	}
	maps.Copy(d, limitDefaults())
	return d
}

// LoadNode reads a configuration file, or with no name the environment alone, and checks it.
// flags may override some keys.
func LoadNode(file string, flags *pflag.FlagSet) (*Node, error) {
	var c Node
	source, resources, err := NodeProgram.load(file, flags, &c)
	if err != nil {
		return nil, err
	}
	c.Resources = resources
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("%s: %w", source, err)
	}
	return &c, nil
}

// readConfig reads a file. exposed is what is wrong with it if it holds a secret.
func readConfig(v *viper.Viper, file, command string) (exposed, err error) {
	b, exposed, err := readFile(file, maxConfigFile)
	if err != nil {
		return nil, fmt.Errorf("read the configuration %s: %w: give the path of a file with --config; an example is "+
			"in \"%s --help\"", file, err, command)
	}
	if err := v.ReadConfig(bytes.NewReader(b)); err != nil {
		return nil, fmt.Errorf("%s is not YAML%s: put texts with special characters in quotes; an example is in \"%s "+
			"--help\"", file, line(err), command)
	}
	return exposed, nil
}

var lineNumber = regexp.MustCompile(`line (\d+)`)

// line says where YAML is wrong. What the parser says besides may be a piece of a secret.
func line(err error) string {
	if m := lineNumber.FindStringSubmatch(err.Error()); m != nil {
		return " (line " + m[1] + ")"
	}
	return ""
}

var unnamedKey = regexp.MustCompile(`'' has invalid keys`)

// decodeError says in our words what a decoder found.
func decodeError(err error) string {
	text := unnamedKey.ReplaceAllString(err.Error(), "unknown keys")
	text = strings.TrimPrefix(text, "decoding failed due to the following error(s):\n\n")
	return strings.ReplaceAll(strings.TrimSpace(text), "has invalid keys", "has unknown keys")
}

func (c *Node) check() error {
	if c.Node == 0 {
		return errors.New("\"node\" is missing: say which of the members this node is")
	}
	if c.DataDir == "" {
		return errors.New("\"data_dir\" is missing: give a directory of its own to each node")
	}
	return errors.Join(c.checkMembers(), c.CheckResources(), c.checkRest(), c.Limits.check(), c.checkAdmin(),
		c.Doors().Check())
}

// checkAdmin keeps from outside what asks nobody for their identity.
func (c *Node) checkAdmin() error {
	if c.Admin.Listen == "" || loopback(c.Admin.Listen) {
		return nil
	}
	return fmt.Errorf("admin.listen: %s can be reached from outside, and asks nobody for their identity: give an "+
		"address of this machine alone, such as 127.0.0.1:7422", c.Admin.Listen)
}

func (c *Node) checkMembers() error {
	if len(c.Members) == 0 {
		return errors.New("\"members\" is empty: list all nodes, this one included")
	}
	var ids []uint64
	var addrs []string
	voters := 0
	for i, m := range c.Members {
		if m.ID == 0 {
			return fmt.Errorf("members[%d]: \"id\" is missing or 0: ids start at 1", i)
		}
		if slices.Contains(ids, m.ID) {
			return fmt.Errorf("members[%d]: id %d is given twice: each member has its own", i, m.ID)
		}
		ids = append(ids, m.ID)
		for _, a := range []struct{ key, addr string }{{"peer", m.Peer}, {"api", m.API}} {
			if _, _, err := net.SplitHostPort(a.addr); err != nil {
				return fmt.Errorf("members[%d]: %s: %q is not host:port, such as 10.0.0.1:7421", i, a.key, a.addr)
			}
			if slices.Contains(addrs, a.addr) {
				return fmt.Errorf("members[%d]: %s: the address %s is given twice: each member has two of its own", i,
					a.key, a.addr)
			}
			addrs = append(addrs, a.addr)
		}
		switch m.Role {
		case "", "voter":
			voters++
		case "observer":
		default:
			return fmt.Errorf("members[%d]: role %q is neither voter nor observer", i, m.Role)
		}
	}
	if !slices.Contains(ids, c.Node) {
		return fmt.Errorf("node %d is not in \"members\" (%v): add it, or correct \"node\"", c.Node, ids)
	}
	if voters == 0 {
		return errors.New("\"members\" has no voter: at least one must not be an observer")
	}
	return nil
}

func (c *Node) checkRest() error {
	t := c.Transaction
	for _, limit := range []struct {
		key string
		is  time.Duration
	}{{"max_age", t.MaxAge}, {"grace", t.Grace}, {"scan", t.Scan}, {"retention", t.Retention}} {
		if limit.is <= 0 {
			return fmt.Errorf("transaction.%s: %v is not a positive duration such as 5s", limit.key, limit.is)
		}
	}
	if t.Retention < 2*t.MaxAge {
		return fmt.Errorf("transaction.retention: %v is too short: decisions must be remembered at least twice as "+
			"long as max_age (%v), better for days", t.Retention, t.MaxAge)
	}
	if r := c.Disk.ReserveMiB; r < 16 || r > 1<<20 {
		return fmt.Errorf("disk.reserve_mib: %d is not between 16 and %d: it is the free space, in MiB, that is "+
			"kept for what was begun", r, 1<<20)
	}
	if !slices.Contains([]string{"text", "json"}, c.Log.Format) {
		return fmt.Errorf("log.format: %q is neither text nor json", c.Log.Format)
	}
	return nil
}

// Doors says who may come in.
func (c *Node) Doors() Doors {
	d := Doors{certsDir: c.CertsDir, insecure: c.Insecure, auth: c.Auth, peer: c.Peer.TLS, api: c.API.TLS,
		limits:    c.Limits.access(),
		own:       func(d security.Dir) security.Files { return d.Node(c.Node) },
		listeners: []listener{{"api.listen", c.API.Listen}, {"peer.listen", c.Peer.Listen}}}
	for _, r := range c.Resources {
		d.resources = append(d.resources, r.Name)
	}
	for _, m := range c.Members {
		if host, _, err := net.SplitHostPort(m.API); err == nil {
			d.hosts = append(d.hosts, host)
		}
	}
	return d
}

func (c *Node) Membership() []replica.Member {
	var out []replica.Member
	for _, m := range c.Members {
		out = append(out, replica.Member{ID: zab.NodeID(m.ID), Observer: m.Role == "observer", Peer: m.Peer,
			API: m.API})
	}
	return out
}

// Addresses are where a client of the cluster may begin: own first, which is this node's. Where nodes
// have certificates it is the address that the members know, as the certificate is for that one.
func (c *Node) Addresses(own string) []string {
	if i := slices.IndexFunc(c.Members, func(m Member) bool { return m.ID == c.Node }); i >= 0 && c.Doors().Secure() {
		own = c.Members[i].API
	}
	addrs := []string{own}
	for _, m := range c.Members {
		if m.ID != c.Node {
			addrs = append(addrs, m.API)
		}
	}
	return addrs
}

func (c *Node) Rules() commit.Rules {
	return commit.Rules{MaxTransaction: c.Transaction.MaxAge, Grace: c.Transaction.Grace, Scan: c.Transaction.Scan,
		Retention: c.Transaction.Retention}
}

// LoadResources reads only the resources of a configuration file.
func LoadResources(file string) ([]Resource, error) {
	c, err := LoadParts(file, "resources")
	if err != nil {
		return nil, err
	}
	if err := c.CheckResources(); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return c.Resources, nil
}

// LoadParts reads some lists of a configuration file, members or resources, and
// leaves the rest alone.
func LoadParts(file string, keys ...string) (*Node, error) {
	v := viper.New()
	v.SetConfigType("yaml")
	exposed, err := readConfig(v, file, NodeProgram.command)
	if err != nil {
		return nil, err
	}
	var c Node
	if slices.Contains(keys, "resources") {
		if c.Resources, err = decodeResources(v.Get("resources"), NodeProgram.own); err == nil {
			err = keptSecret(c.Resources, exposed)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
	}
	if slices.Contains(keys, "members") {
		if err := v.UnmarshalKey("members", &c.Members,
			func(d *mapstructure.DecoderConfig) { d.ErrorUnused = true }); err != nil {
			return nil, fmt.Errorf("%s: members: %s", file, decodeError(err))
		}
	}
	return &c, nil
}
