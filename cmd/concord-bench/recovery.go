// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/concordtx/concord/cmd/internal/terminal"
)

// What recovery aims at: from when the branches are due until all but those that cannot end have ended; from
// when the cluster can be asked until a new transaction commits, and the longest that one waits; the memory of
// a node.
const (
	aimSettled  = 30.0
	aimAdmitted = 3.0
	aimMemory   = 512 << 20
)

// The cases, see the help.
const (
	caseClients    = "clients"
	casePoison     = "poison"
	caseEverything = "everything"
)

var recoveryCases = []string{caseClients, casePoison, caseEverything}

// recoveryResult is the contract of "recovery -o json".
type recoveryResult struct {
	Branches int             `json:"branches"` // prepared in each database
	Decided  int             `json:"decided"`  // of the transactions
	Rounds   []recoveryRound `json:"rounds"`
	Met      bool            `json:"met"` // all aims, in all rounds
}

// recoveryRound is one case.
type recoveryRound struct {
	Case     string  `json:"case"`
	Prepared float64 `json:"prepared_seconds"` // what it took to prepare them
	Settled  float64 `json:"settled_seconds"`  // after they were due
	// BySeconds is how many were left so many seconds after they were due.
	BySeconds []int   `json:"left_by_second"`
	Admitted  float64 `json:"admitted_seconds"` // until the first new transaction committed
	Worst     float64 `json:"worst_seconds"`    // the longest that a new transaction took
	New       int64   `json:"new_transactions"`
	Errors    int64   `json:"errors"` // of new transactions
	Failure   string  `json:"failure,omitempty"`
	Memory    int64   `json:"memory_bytes"` // the most of a node
	Poisoned  bool    `json:"poisoned"`     // one more branch can never finish
}

func (r recoveryRound) met() bool {
	return r.Settled <= aimSettled && r.Admitted <= aimAdmitted && r.Worst <= aimAdmitted && r.Memory <= aimMemory
}

func (c *cli) recoveryCommand() *cobra.Command {
	b := recoveryBench{}
	var file, dir string
	cmd := &cobra.Command{
		Use: "recovery --config FILE", Short: "How long thousands of branches of dead clients stay prepared",
		Args: terminal.NoArgs,
		Long: "Starts three node processes. Clients prepare transactions, each with a branch in the first two SQL\n" +
			"databases under \"resources\" in FILE, have half of them decided, and are killed with signal 9:\n" +
			"  clients    the nodes and the databases run on\n" +
			"  poison     the same, and one transaction has one more branch, at an agent that nobody can reach\n" +
			"  everything the nodes are killed with signal 9 as well, --restart is run, and the nodes are started\n" +
			"Meanwhile a client that has just come makes transfers between accounts that no branch holds.\n\n" +
			"Branches are due when the lease of their client has ended, which takes 5 seconds, counted from its\n" +
			"death, or from the start of the nodes. At the end all balances are added up: if money was made or\n" +
			"lost there is no result and the exit code is 1.\n\n" +
			"PostgreSQL needs max_prepared_transactions above --branches, and both databases --connections.",
		Example: "  concord-bench recovery --config node1.yaml --restart ./kill-and-start-databases.sh\n" +
			"  concord-bench recovery --config node1.yaml --branches 1000 -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case file == "":
				return terminal.Usagef("--config is missing: name a file with \"resources\", as in \"concord serve " +
					"--help\"")
			case b.branches < 2 || b.branches > benchAccounts/2:
				return terminal.Usagef("--branches: %d is not between 2 and %d", b.branches, benchAccounts/2)
			case b.connections < 1 || b.connections > maxWorkers:
				return terminal.Usagef("--connections: %d is not between 1 and %d", b.connections, maxWorkers)
			}
			for _, name := range b.cases {
				if !slices.Contains(recoveryCases, name) {
					return terminal.Usagef("--cases: %q is none: want %s", name, strings.Join(recoveryCases, ", "))
				}
			}
			b.program, b.say = c.concord, func(format string, args ...any) { fmt.Fprintf(c.err, format+"\n", args...) }
			r, err := c.benchRecovery(cmd.Context(), &b, file, dir)
			if err != nil {
				return err
			}
			return c.printRecovery(r)
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "a file with \"resources\"; the first two SQL databases are used")
	cmd.Flags().IntVar(&b.branches, "branches", 10_000, "how many are prepared in each database")
	cmd.Flags().IntVar(&b.connections, "connections", 100, "how many sessions clients have in each database at a time")
	cmd.Flags().StringSliceVar(&b.cases, "cases", recoveryCases, "which cases, in this order")
	cmd.Flags().StringVar(&b.restart, "restart", "",
		"a shell command that kills both database servers with signal 9, starts them, and returns when they answer; "+
			"without it they run on")
	dirFlag(cmd, &dir)
	return cmd
}

func (c *cli) benchRecovery(ctx context.Context, b *recoveryBench, file, dir string) (_ *recoveryResult, err error) {
	folder, remove, err := workFolder(dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, remove()) }()
	defer func() { err = errors.Join(err, b.close()) }()
	if err := b.open(ctx, file, folder); err != nil {
		return nil, err
	}
	r := &recoveryResult{Branches: b.branches, Decided: b.branches / 2, Met: true}
	for _, name := range b.cases {
		round := recoveryRound{Case: name, Poisoned: name == casePoison}
		if err := b.round(ctx, &round); err != nil {
			return nil, fmt.Errorf("%s: %w", round.Case, err)
		}
		r.Rounds = append(r.Rounds, round)
		r.Met = r.Met && round.met()
	}
	return r, nil
}

func (c *cli) printRecovery(r *recoveryResult) error {
	if c.output == "json" {
		return terminal.PrintJSON(c.out, r)
	}
	var rows [][]string
	for _, x := range r.Rounds {
		rows = append(rows, []string{x.Case, fmt.Sprintf("%.1f s", x.Settled), fmt.Sprintf("%.2f s", x.Admitted),
			fmt.Sprintf("%.2f s", x.Worst), fmt.Sprint(x.New), fmt.Sprintf("%d MiB", x.Memory>>20)})
	}
	if err := terminal.PrintTable(c.out, []string{"KILLED", "ALL SETTLED", "FIRST NEW ONE", "SLOWEST NEW ONE",
		"NEW ONES", "MEMORY"}, rows); err != nil {
		return err
	}
	fmt.Fprintf(c.out, "\n%d branches prepared in each of two databases, half of the transactions decided; the time\n"+
		"counts from when they were due. The sum of all balances is as expected; nothing is left prepared.\n",
		r.Branches)
	for _, x := range r.Rounds {
		fmt.Fprintf(c.out, "%s: %s of new transactions, left by second: %v\n", x.Case,
			terminal.Plural(int(x.Errors), "error", "errors"), x.BySeconds)
		if x.Failure != "" {
			fmt.Fprintf(c.out, "  one of the errors: %s\n", x.Failure)
		}
	}
	verdict := "met"
	if !r.Met {
		verdict = "not met"
	}
	fmt.Fprintf(c.out, "aims (settled within %.0f s, new ones within %.0f s, a node below %d MiB): %s\n", aimSettled,
		aimAdmitted, aimMemory>>20, verdict)
	return nil
}
