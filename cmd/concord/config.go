// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/go-viper/mapstructure/v2"
	"github.com/spf13/pflag"
	"github.com/spf13/viper"

	"github.com/concordtx/concord/coordinator"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/wal"
)

// config is what a node is told. Precedence: flag, CONCORD_* environment, file,
// default. An unknown key is an error: a typing error must not become a default.
type config struct {
	Node    uint64
	DataDir string `mapstructure:"data_dir"`
	// FeatureLevel holds what the cluster writes to its log at an older release's level, so that
	// the way back to that release stays open; 0: whatever all members know is used.
	FeatureLevel uint16 `mapstructure:"feature_level"`
	API          listenConfig
	Peer         listenConfig
	Members      []memberConfig
	Resources    []resourceConfig
	Transaction  transactionConfig
	Disk         diskConfig
	Log          logConfig
}

type listenConfig struct{ Listen string }

type memberConfig struct {
	ID   uint64
	Peer string
	API  string
	Role string // voter (default) or observer
}

type resourceConfig struct {
	Name    string
	Driver  string // postgres or mysql (MySQL and MariaDB)
	DSN     string
	DSNFile string `mapstructure:"dsn_file"`
}

type transactionConfig struct {
	// MaxAge is how long a transaction may take before its prepared branches count as orphans.
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

type logConfig struct {
	Level  string // debug, info, warn, error
	Format string // text or json
}

const configExample = `node: 1
data_dir: /var/lib/concord
api:  {listen: 127.0.0.1:7420}
peer: {listen: 127.0.0.1:7421}
members:
  - {id: 1, peer: 127.0.0.1:7421, api: 127.0.0.1:7420}
resources:
  - {name: orders,  driver: postgres, dsn: "postgres://app@127.0.0.1:5432/orders"}
  - {name: billing, driver: mysql,    dsn_file: /run/secrets/billing}`

// loadConfig reads a configuration file and checks it. flags may override some keys.
func loadConfig(file string, flags *pflag.FlagSet) (*config, error) {
	v := viper.New()
	v.SetConfigType("yaml")
	v.SetEnvPrefix("concord")
	v.SetEnvKeyReplacer(strings.NewReplacer(".", "_"))
	v.AutomaticEnv()
	for key, value := range map[string]any{
		"node": 0, "data_dir": "", "feature_level": 0, "api.listen": "127.0.0.1:7420", "peer.listen": "127.0.0.1:7421",
		"transaction.max_age": time.Minute, "transaction.grace": 5 * time.Second,
		"transaction.scan": 5 * time.Second, "transaction.retention": 7 * 24 * time.Hour,
		"disk.reserve_mib": wal.DefaultReserve >> 20,
		"log.level":        "info", "log.format": "text",
	} {
		v.SetDefault(key, value)
	}
	for key, flag := range map[string]string{"node": "node", "data_dir": "data-dir", "log.level": "log-level", "log.format": "log-format"} {
		if f := flags.Lookup(flag); f != nil {
			if err := v.BindPFlag(key, f); err != nil {
				return nil, err
			}
		}
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w: give its path with --config; an example is in \"concord serve --help\"", err)
	}
	defer f.Close()
	if err := v.ReadConfig(f); err != nil {
		return nil, fmt.Errorf("%s is not YAML: %w", file, err)
	}
	var c config
	if err := v.UnmarshalExact(&c, func(d *mapstructure.DecoderConfig) { d.ErrorUnused = true }); err != nil {
		return nil, fmt.Errorf("%s: %s: see the example in \"concord serve --help\"", file, decodeError(err))
	}
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return &c, nil
}

var unnamedKey = regexp.MustCompile(`'' has invalid keys`)

// decodeError says in our words what a decoder found.
func decodeError(err error) string {
	text := unnamedKey.ReplaceAllString(err.Error(), "unknown keys")
	text = strings.TrimPrefix(text, "decoding failed due to the following error(s):\n\n")
	return strings.ReplaceAll(strings.TrimSpace(text), "has invalid keys", "has unknown keys")
}

func (c *config) check() error {
	if c.Node == 0 {
		return errors.New("\"node\" is missing: say which of the members this node is")
	}
	if c.DataDir == "" {
		return errors.New("\"data_dir\" is missing: give a directory of its own to each node")
	}
	return errors.Join(c.checkMembers(), c.checkResources(), c.checkRest())
}

func (c *config) checkMembers() error {
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
		for key, addr := range map[string]string{"peer": m.Peer, "api": m.API} {
			if _, _, err := net.SplitHostPort(addr); err != nil {
				return fmt.Errorf("members[%d]: %s: %q is not host:port", i, key, addr)
			}
			if slices.Contains(addrs, addr) {
				return fmt.Errorf("members[%d]: the address %s is given twice", i, addr)
			}
			addrs = append(addrs, addr)
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
		return errors.New("\"members\" has no voter")
	}
	return nil
}

func (c *config) checkResources() error {
	var names []string
	for i, r := range c.Resources {
		if r.Name == "" {
			return fmt.Errorf("resources[%d]: \"name\" is missing", i)
		}
		if slices.Contains(names, r.Name) {
			return fmt.Errorf("resources[%d]: the name %q is given twice", i, r.Name)
		}
		names = append(names, r.Name)
		if !slices.Contains([]string{"postgres", "mysql"}, r.Driver) {
			return fmt.Errorf("resource %s: driver %q is none of postgres, mysql (also for MariaDB)", r.Name, r.Driver)
		}
		if (r.DSN == "") == (r.DSNFile == "") {
			return fmt.Errorf("resource %s: give either \"dsn\" or \"dsn_file\"", r.Name)
		}
	}
	return nil
}

func (c *config) checkRest() error {
	t := c.Transaction
	for key, d := range map[string]time.Duration{"max_age": t.MaxAge, "grace": t.Grace, "scan": t.Scan, "retention": t.Retention} {
		if d <= 0 {
			return fmt.Errorf("transaction.%s: %v is not a positive duration such as 5s", key, d)
		}
	}
	if t.Retention < 2*t.MaxAge {
		return fmt.Errorf("transaction.retention: %v is too short: decisions must be remembered much longer than max_age (%v)", t.Retention, t.MaxAge)
	}
	if r := c.Disk.ReserveMiB; r < 16 || r > 1<<20 {
		return fmt.Errorf("disk.reserve_mib: %d is not between 16 and %d: it is the free space, in MiB, that is kept for what was begun", r, 1<<20)
	}
	if !slices.Contains([]string{"text", "json"}, c.Log.Format) {
		return fmt.Errorf("log.format: %q is neither text nor json", c.Log.Format)
	}
	return nil
}

// secret returns the DSN, from its file if it has one. Errors never hold it.
func (r resourceConfig) secret() (string, error) {
	if r.DSNFile == "" {
		return r.DSN, nil
	}
	b, err := os.ReadFile(r.DSNFile)
	if err != nil {
		if errors.Is(err, fs.ErrPermission) {
			return "", fmt.Errorf("resource %s: %w: let the user of concord read it", r.Name, err)
		}
		return "", fmt.Errorf("resource %s: %w", r.Name, err)
	}
	return strings.TrimSpace(string(b)), nil
}

func (c *config) members() []coordinator.Member {
	var out []coordinator.Member
	for _, m := range c.Members {
		out = append(out, coordinator.Member{ID: zab.NodeID(m.ID), Observer: m.Role == "observer", Peer: m.Peer, API: m.API})
	}
	return out
}

func (c *config) rules() coordinator.Rules {
	return coordinator.Rules{MaxTransaction: c.Transaction.MaxAge, Grace: c.Transaction.Grace, Scan: c.Transaction.Scan, Retention: c.Transaction.Retention}
}

// loadResources reads only the resources of a configuration file.
func loadResources(file string) ([]resourceConfig, error) {
	c, err := loadParts(file, "resources")
	if err != nil {
		return nil, err
	}
	if err := c.checkResources(); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return c.Resources, nil
}

// loadParts reads some lists of a configuration file, members or resources, and
// leaves the rest alone.
func loadParts(file string, keys ...string) (*config, error) {
	v := viper.New()
	v.SetConfigFile(file)
	v.SetConfigType("yaml")
	if err := v.ReadInConfig(); err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	var c config
	lists := map[string]any{"members": &c.Members, "resources": &c.Resources}
	for _, key := range keys {
		if err := v.UnmarshalKey(key, lists[key], func(d *mapstructure.DecoderConfig) { d.ErrorUnused = true }); err != nil {
			return nil, fmt.Errorf("%s: %s: %s", file, key, decodeError(err))
		}
	}
	return &c, nil
}
