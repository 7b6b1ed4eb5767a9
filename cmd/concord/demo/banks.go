// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/adapters/agent"
	"github.com/concordtx/concord/cmd/internal/bank"
	"github.com/concordtx/concord/cmd/internal/config"
	"github.com/concordtx/concord/cmd/internal/terminal"
	"github.com/concordtx/concord/coordinator/replica"
)

const accountsPerBank = 100

// banks are the databases of a demonstration. Transfers touch them in this order,
// because two databases make deadlocks that neither of them sees.
type banks struct {
	list []bank.Bank
	// recovery are the connections of the nodes; the banks themselves, if they are embedded.
	recovery []adapters.Resource
}

func openBanks(ctx context.Context, o Options, dir string, members []replica.Member) (b *banks, err error) {
	b = &banks{}
	defer func() {
		if err != nil {
			b.close()
		}
	}()
	cities := []string{"amsterdam", "berlin", "cairo"}
	switch {
	case o.agents():
		for _, name := range cities {
			r, err := openAgentBank(name, dir, members)
			if err != nil {
				return b, err
			}
			b.list, b.recovery = append(b.list, r), append(b.recovery, r.Resource)
		}
	case o.Config == "":
		for _, name := range cities {
			r, err := bank.OpenPebble(name, filepath.Join(dir, name), bank.Ledger{Accounts: accountsPerBank})
			if err != nil {
				return b, err
			}
			b.list = append(b.list, r)
			b.recovery = append(b.recovery, r)
		}
	default:
		if err := b.openConfigured(ctx, o.Config); err != nil {
			return b, err
		}
	}
	for _, k := range b.list {
		if err := k.Fill(ctx); err != nil {
			return b, fmt.Errorf("bank %s: make accounts: %w", k.Name(), err)
		}
	}
	return b, nil
}

func (b *banks) openConfigured(ctx context.Context, file string) error {
	configs, err := config.LoadResources(file)
	if err != nil {
		return &terminal.ExitError{Code: terminal.ExitUsage, Text: err.Error()}
	}
	if len(configs) < 2 {
		return terminal.Usagef("%s: \"resources\" has %s: money moves between at least two", file,
			terminal.Plural(len(configs), "resource", "resources"))
	}
	for _, c := range configs {
		if c.Driver == agent.Driver {
			return terminal.Usagef("%s: resource %s is hosted by an agent, and the demo moves money between SQL "+
				"databases that it reaches itself: leave it out", file, config.Named(c.Name))
		}
	}
	if b.recovery, err = config.Open(ctx, configs, nil); err != nil {
		return err
	}
	for _, c := range configs {
		k, err := bank.OpenSQL(ctx, c, bank.Ledger{Table: "concord_demo_account", Accounts: accountsPerBank})
		if err != nil {
			return fmt.Errorf("bank %s: %w", c.Name, err)
		}
		b.list = append(b.list, k)
	}
	return nil
}

// agents are the banks that are behind agents.
func (b *banks) agents() (list []*agentBank) {
	for _, k := range b.list {
		if a, ok := k.(*agentBank); ok {
			list = append(list, a)
		}
	}
	return list
}

func (b *banks) resources() []adapters.Resource { return b.recovery }

func (b *banks) describe() string {
	var out []string
	for _, k := range b.list {
		out = append(out, k.Name()+" ("+k.Driver()+")")
	}
	return strings.Join(out, ", ")
}

func (b *banks) sum(ctx context.Context) (total int64, err error) {
	for _, k := range b.list {
		s, err := k.Sum(ctx)
		if err != nil {
			return 0, fmt.Errorf("bank %s: add up: %w", k.Name(), err)
		}
		total += s
	}
	return total, nil
}

func (b *banks) expected() int64 { return int64(len(b.list)) * accountsPerBank * bank.FirstBalance }

func (b *banks) close() {
	for _, k := range b.list {
		_ = k.Close() // read-only by now
	}
	_ = config.Close(b.recovery)
}
