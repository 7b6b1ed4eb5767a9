// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/cmd/internal/terminal"
	"github.com/concordtx/concord/txn"
)

// txJSON is the contract of "tx get -o json", and of each transaction of "tx ls -o json".
type txJSON struct {
	GID        string          `json:"gid"`
	State      string          `json:"state"`
	Protocol   string          `json:"protocol"`
	Last       string          `json:"last_resource,omitempty"`
	Started    time.Time       `json:"started"`
	Age        string          `json:"age"`
	Branches   []branchJSON    `json:"branches"`
	Label      string          `json:"label,omitempty"`
	Reason     string          `json:"reason,omitempty"`
	Zxid       string          `json:"zxid,omitempty"`
	Whole      string          `json:"whole,omitempty"`
	Next       string          `json:"next,omitempty"`
	Heuristics []heuristicJSON `json:"heuristics,omitempty"`
	// DecidedBy is client, cluster or operator; Decided is there for an operator's decision.
	DecidedBy string       `json:"decided_by,omitempty"`
	Decided   *time.Time   `json:"decided,omitempty"`
	Forgets   []forgetJSON `json:"forgets,omitempty"`
	Acts      []actJSON    `json:"acts,omitempty"`
	// Expected are the branches that it has, as the prepared ones say, and Missing those that no database has.
	Expected []uint32 `json:"expected,omitempty"`
	Missing  []uint32 `json:"missing,omitempty"`
}

type forgetJSON struct {
	Who string `json:"who"`
	Why string `json:"why"`
	// Time is not kept of those of earlier releases.
	Time *time.Time `json:"time,omitempty"`
}

type branchJSON struct {
	No       uint32 `json:"no"`
	Resource string `json:"resource"`
	State    string `json:"state"`
	Evidence string `json:"evidence"`
	Holder   string `json:"holder,omitempty"`
	Error    string `json:"error,omitempty"`
	// Failed is when the last attempt did.
	Failed   *time.Time `json:"failed,omitempty"`
	Attempts uint32     `json:"attempts,omitempty"`
	// NextAttempt is when the cluster tries again.
	NextAttempt *time.Time    `json:"next_attempt,omitempty"`
	Blocked     []blockedJSON `json:"blocked,omitempty"`
	// Seen is what its database says of it now, or unknown, and Unseen why.
	Seen   string `json:"seen,omitempty"`
	Unseen string `json:"unseen,omitempty"`
}

type blockedJSON struct {
	Session   string `json:"session"`
	Waited    string `json:"waited"`
	Statement string `json:"statement"`
}

type heuristicJSON struct {
	No        uint32 `json:"no"`
	Outcome   string `json:"outcome"`
	By        string `json:"by"`
	Who       string `json:"who"`
	Why       string `json:"why"`
	Forgotten bool   `json:"forgotten"`
	// Time is kept of what operators say.
	Time *time.Time `json:"time,omitempty"`
}

func txOf(m *concordv1.Transaction, now time.Time) txJSON {
	started := time.UnixMilli(m.GetStartedMs()).UTC()
	x := txJSON{GID: m.GetGid(), State: m.GetState(), Protocol: m.GetProtocol(), Last: m.GetLastResource(),
		Started:  started,
		Age:      terminal.Age(now.Sub(started)),
		Branches: []branchJSON{}, Label: m.GetLabel(), Reason: m.GetReason(), Zxid: m.GetZxid()}
	for _, b := range m.GetBranches() {
		x.Branches = append(x.Branches, branchOf(b, now))
	}
	for _, h := range m.GetHeuristics() {
		x.Heuristics = append(x.Heuristics,
			heuristicJSON{No: h.GetNo(), Outcome: h.GetOutcome(), By: h.GetBy(), Who: h.GetWho(), Why: h.GetWhy(),
				Forgotten: h.GetForgotten(), Time: timeOf(h.GetTimeMs())})
	}
	for _, f := range m.GetForgets() {
		x.Forgets = append(x.Forgets, forgetJSON{Who: f.GetWho(), Why: f.GetWhy(), Time: timeOf(f.GetTimeMs())})
	}
	for _, a := range m.GetActs() {
		x.Acts = append(x.Acts, actOf(a))
	}
	x.Expected, x.Missing = m.GetExpected(), m.GetMissing()
	x.DecidedBy, x.Decided = m.GetDecidedBy(), timeOf(m.GetDecidedMs())
	x.Whole, x.Next = m.GetWhole(), nextStep(x)
	return x
}

// timeOf is a time of the API; nil if there is none.
func timeOf(ms int64) *time.Time {
	if ms == 0 {
		return nil
	}
	at := time.UnixMilli(ms).UTC()
	return &at
}

// atTime is a time in a sentence; empty if there is none.
func atTime(at *time.Time) string {
	if at == nil {
		return ""
	}
	return " at " + at.Format(time.RFC3339)
}

// listJSON is the contract of "tx ls -o json".
type listJSON struct {
	Transactions []txJSON `json:"transactions"`
	// Next is what --after takes to go on; empty if there is nothing more.
	Next string `json:"next"`
}

func (c *cli) txCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "tx", Short: "Look at transactions, and settle those that are stuck",
		Args: terminal.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	cmd.AddCommand(c.txListCommand(), c.txGetCommand(), c.txWaitCommand(), c.txResolveCommand(),
		c.txRetryCommand(), c.txSettleCommand(), c.txForgetCommand())
	return cmd
}

func (c *cli) txListCommand() *cobra.Command {
	var state, resource, after string
	var olderThan time.Duration
	var limit uint32
	cmd := &cobra.Command{
		Use: "ls", Short: "List transactions, newest first", Args: terminal.NoArgs,
		Long: "Lists transactions, newest first. In doubt is everything that is not finished everywhere:\n" +
			"in-doubt (branches are prepared, no decision), committing and aborting (decided, branches left).\n" +
			"Unrecorded: somebody asked for the outcome before the cluster had a decision. Two or more databases\n" +
			"will never commit it; one alone may have, of which the cluster does not hear.",
		Example: "  concord tx ls --state in-doubt --older-than 30s\n  concord tx ls --resource billing -o json\n" +
			"  concord tx ls --after 01JD2M8Q4ZK3W6T9V0X5Y7ABCR      # older ones: \"next\" in the JSON of the page " +
			"before",
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := c.dial()
			if err != nil {
				return err
			}
			defer client.Close()
			r, err := client.List(cmd.Context(),
				&concordv1.ListRequest{State: state, Resource: resource, OlderThanMs: olderThan.Milliseconds(),
					Limit: limit, After: after})
			if err != nil {
				return err
			}
			return c.printList(r)
		},
	}
	cmd.Flags().StringVar(&state, "state", "",
		strings.Join(states[:len(states)-1], ", ")+" or "+states[len(states)-1]+"; empty: all")
	cmd.Flags().DurationVar(&olderThan, "older-than", 0, "only those begun at least this long ago, such as 30s")
	cmd.Flags().StringVar(&resource, "resource", "", "only those with a branch at this resource")
	cmd.Flags().Uint32Var(&limit, "limit", 100, "at most this many")
	cmd.Flags().StringVar(&after, "after", "",
		"only those older than this GID: the page after the one that ended with it")
	complete(cmd, "state", states)
	c.completeFlag(cmd, "resource", c.resourceNames)
	c.completeFlag(cmd, "after", c.gids)
	return cmd
}

// states are what a list shows and what it can be narrowed to. In doubt are the first three.
var states = []string{"in-doubt", "committing", "aborting", "committed", "aborted", "unrecorded", "heuristic"}

func (c *cli) printList(r *concordv1.ListResponse) error {
	list, now := []txJSON{}, time.Now()
	for _, m := range r.GetTransactions() {
		list = append(list, txOf(m, now))
	}
	for _, w := range r.GetWarnings() {
		c.warn(w + ": what it holds prepared may be missing here")
	}
	if c.output == "json" {
		return c.printJSON(listJSON{Transactions: list, Next: r.GetNext()})
	}
	if len(list) == 0 {
		fmt.Fprintln(c.err, "0 transactions")
		return nil
	}
	var rows [][]string
	for _, x := range list {
		var at []string
		for _, b := range x.Branches {
			at = append(at, b.Resource)
		}
		rows = append(rows, []string{x.GID, x.State, x.Age, terminal.OrDash(strings.Join(at, ",")),
			terminal.OrDash(x.Label), terminal.OrDash(x.Reason)})
	}
	if err := terminal.PrintTable(c.out, []string{"GID", "STATE", "AGE", "RESOURCES", "LABEL", "REASON"},
		rows); err != nil {
		return err
	}
	if r.GetNext() != "" {
		fmt.Fprintln(c.err, "there are more: go on with --after "+r.GetNext()+
			", or narrow the list with --state, --resource or --older-than")
	}
	return nil
}

func (c *cli) txGetCommand() *cobra.Command {
	return &cobra.Command{
		Use: "get GID", Short: "Show one transaction with its branches and evidence", Args: gidArg,
		Long: "Shows what the cluster knows of a transaction, and the next command if it is stuck: its state and\n" +
			"decision, and of each branch its resource, what the last attempt to finish it said, and who waits for\n" +
			"its locks. Changes nothing. Exit code 3 if there is no such transaction.",
		ValidArgsFunction: c.completeFirst(c.gids),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := c.dial()
			if err != nil {
				return err
			}
			defer client.Close()
			r, err := client.Get(cmd.Context(), &concordv1.GetRequest{Gid: args[0]})
			if err != nil {
				return err
			}
			return c.printTx(txOf(r.GetTransaction(), time.Now()))
		},
	}
}

func (c *cli) printTx(x txJSON) error {
	if c.output == "json" {
		return c.printJSON(x)
	}
	fmt.Fprintf(c.out, "gid       %s\nstate     %s\nprotocol  %s\nstarted   %s (%s ago)\n", x.GID, x.State, x.Protocol,
		x.Started.Format(time.RFC3339Nano), x.Age)
	if x.Last != "" {
		fmt.Fprintf(c.out, "last      %s decides it, by its own commit\n", terminal.Cell(x.Last))
	}
	if x.Zxid != "" && x.Zxid != "0.0" {
		fmt.Fprintf(c.out, "decided   by %s%s, at zxid %s\n", x.DecidedBy, atTime(x.Decided), x.Zxid)
	}
	if x.Label != "" {
		fmt.Fprintf(c.out, "label     %s\n", terminal.Cell(x.Label))
	}
	if x.Reason != "" {
		fmt.Fprintf(c.out, "reason    %s\n", terminal.Cell(x.Reason))
	}
	if x.State == "unrecorded" {
		fmt.Fprintf(c.out, "means     %s\n", unrecordedHint)
	}
	if len(x.Branches) > 0 {
		fmt.Fprintln(c.out)
		var rows [][]string
		for _, b := range x.Branches {
			attempts, next := "-", "-"
			if b.Attempts > 0 {
				attempts = fmt.Sprint(b.Attempts)
			}
			if b.NextAttempt != nil {
				next = "in " + terminal.Age(time.Until(*b.NextAttempt))
			}
			last := terminal.OrDash(b.Error)
			if b.Failed != nil {
				last += " (" + terminal.Age(time.Since(*b.Failed)) + " ago)"
			}
			rows = append(rows, []string{fmt.Sprint(b.No), b.Resource, b.State, terminal.OrDash(b.Seen),
				terminal.OrDash(b.Evidence), terminal.OrDash(b.Holder), attempts, next, last})
		}
		if err := terminal.PrintTable(c.out,
			[]string{"NO", "RESOURCE", "STATE", "IN ITS DATABASE", "EVIDENCE", "HOLDER", "FAILED", "NEXT TRY",
				"LAST ERROR"},
			rows); err != nil {
			return err
		}
	}
	for _, b := range x.Branches {
		if b.Unseen != "" {
			fmt.Fprintf(c.out, "\nwhat %s has of branch %d, and who waits for it, is unknown: %s\n",
				terminal.Cell(b.Resource), b.No, terminal.Cell(b.Unseen))
		}
		for _, s := range b.Blocked {
			fmt.Fprintf(c.out, "\nbranch %d at %s keeps %s waiting, for %s: %s\n", b.No, b.Resource,
				terminal.Cell(s.Session), s.Waited, terminal.Cell(s.Statement))
		}
	}
	for _, h := range x.Heuristics {
		dealt := ""
		if h.Forgotten {
			dealt = " (forgotten)"
		}
		fmt.Fprintf(c.out, "\nbranch %d: %s, says %s%s: %s%s\n", h.No, h.Outcome, terminal.Cell(h.Who), atTime(h.Time),
			terminal.Cell(h.Why), dealt)
	}
	for _, f := range x.Forgets {
		fmt.Fprintf(c.out, "\nforgotten by %s%s: %s\n", terminal.Cell(f.Who), atTime(f.Time), terminal.Cell(f.Why))
	}
	if err := c.printActs(x.Acts); err != nil {
		return err
	}
	if len(x.Expected) > 0 {
		missing := "which of them are missing is not known"
		if len(x.Missing) > 0 || strings.HasPrefix(x.Whole, "yes") {
			missing = "missing: " + joined(x.Missing)
		}
		fmt.Fprintf(c.out, "\nbranches  expected: %s; %s\n", joined(x.Expected), missing)
	}
	if x.Whole != "" {
		fmt.Fprintf(c.out, "\nis every branch there? %s\n", terminal.Cell(x.Whole))
	}
	if x.Next != "" {
		fmt.Fprintf(c.out, "\nnext: %s\n", x.Next)
	}
	return nil
}

func joined(numbers []uint32) string {
	texts := make([]string, len(numbers))
	for i, n := range numbers {
		texts[i] = fmt.Sprint(n)
	}
	return cmp.Or(strings.Join(texts, ", "), "none")
}

const unrecordedHint = "two or more databases will never commit it, but one alone may have, of which the cluster " +
	"does not hear: look at the data there"

func (c *cli) txWaitCommand() *cobra.Command {
	return &cobra.Command{
		Use: "wait GID", Short: "Wait until a transaction is finished everywhere", Args: gidArg,
		ValidArgsFunction: c.completeFirst(c.gids),
		Long: "Waits until a transaction is finished everywhere and prints it. Gives up after --timeout.\n" +
			"Exit code 0 committed or aborted, 4 not finished in time, 6 a heuristic outcome, or unrecorded.\n" +
			"Of a transaction that changed one database, and was not begun with Recorded, the cluster never hears.",
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := c.dial()
			if err != nil {
				return err
			}
			defer client.Close()
			ctx, cancel := context.WithTimeout(cmd.Context(), c.timeout)
			defer cancel()
			for {
				r, err := client.Get(ctx, &concordv1.GetRequest{Gid: args[0]})
				if err != nil && (!errors.Is(err, txn.ErrNotFound) || ctx.Err() != nil) {
					return err
				}
				x := txOf(r.GetTransaction(), time.Now())
				switch {
				case err != nil: // not known yet
				case x.State == "committed" || x.State == "aborted":
					return c.printTx(x)
				case x.State == "unrecorded":
					return errors.Join(c.printTx(x),
						&terminal.ExitError{Code: terminal.ExitInDoubt, Text: unrecordedHint})
				case x.State == "heuristic" && !slices.ContainsFunc(x.Branches,
					func(b branchJSON) bool { return b.State == "prepared" }):
					return errors.Join(c.printTx(x),
						&terminal.ExitError{Code: terminal.ExitInDoubt,
							Text: "a branch did not end as decided: see \"concord tx get\", then \"concord tx " +
								"forget\""})
				}
				select {
				case <-time.After(200 * time.Millisecond):
				case <-ctx.Done():
					return &terminal.ExitError{Code: terminal.ExitUnavailable,
						Text: waitOver(args[0], x.State, c.timeout)}
				}
			}
		},
	}
}

func waitOver(gid, state string, timeout time.Duration) string {
	if state == "" {
		return fmt.Sprintf("nothing is recorded of %s after %v: it is in progress, was rolled back, or changed one "+
			"database, which decided it alone; look at the data there", gid, timeout)
	}
	return fmt.Sprintf("%s is not finished after %v: it is %s; see \"concord tx get %s\"", gid, timeout, state, gid)
}

func (c *cli) txResolveCommand() *cobra.Command {
	var commit, abort, force, yes bool
	var reason, last string
	var resources []string
	cmd := &cobra.Command{
		Use: "resolve GID --commit|--abort --reason TEXT", Short: "Decide a transaction that has no decision",
		Args: gidArg, ValidArgsFunction: c.completeFirst(c.gids),
		Long: "Makes the operator's decision for a transaction whose branches are prepared and whose decision\n" +
			"nobody has made. The decision goes into the replicated log with the reason, and the branches are\n" +
			"finished by it. A decision that exists is never changed (exit code 5).\n\n" +
			"To commit, all databases are asked which branches there are. Prepared branches say which others their\n" +
			"transaction has, and it commits only if each of them is prepared or committed; if not, the\n" +
			"transaction is not whole, and --abort is what is left. Where no branch says that (those behind an\n" +
			"agent, for example), --resources is needed: all databases that the application changes in such a\n" +
			"transaction. Each of these, and no other, must have a prepared branch then.\n\n" +
			"A gid of which neither the log nor any database has heard is not found (exit code 3): as a rule it is\n" +
			"mistyped. --force aborts it all the same, so that whoever comes with it later is too late.\n\n" +
			"A transaction with a last resource (its gid ends with M) is decided there: whatever is asked for,\n" +
			"that database is asked, and if it has not committed it never will. Where no prepared branch names\n" +
			"it, --last-resource does.\n\n" +
			"Left alone, such a transaction is aborted by itself when the lease of its client ends or, without\n" +
			"one, once it is older than transaction.max_age.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if commit == abort {
				return terminal.Usagef("give one of --commit and --abort")
			}
			if reason == "" {
				return terminal.Usagef("--reason is missing: say why, it is kept with the transaction")
			}
			if abort && len(resources) > 0 {
				return terminal.Usagef("--resources goes with --commit: to abort, nothing has to be known of the " +
					"databases")
			}
			if commit && force {
				return terminal.Usagef("--force goes with --abort: nothing can be committed that is not there")
			}
			decision := "commit"
			if abort {
				decision = "abort"
			}
			if err := c.confirm(yes, args[0],
				fmt.Sprintf("This decides to %s %s for good.", decision, args[0])); err != nil {
				return err
			}
			client, err := c.dial()
			if err != nil {
				return err
			}
			defer client.Close()
			r, err := client.Resolve(cmd.Context(),
				&concordv1.ResolveRequest{Gid: args[0], Decision: decision, Who: operator(), Reason: reason,
					Resources: resources, Force: force, LastResource: last})
			if err != nil {
				return err
			}
			if c.output == "json" {
				return c.printJSON(map[string]string{"gid": args[0], "decision": r.GetDecision(), "zxid": r.GetZxid()})
			}
			fmt.Fprintf(c.out, "%s: %s, at zxid %s\n", args[0], r.GetDecision(), r.GetZxid())
			return nil
		},
	}
	cmd.Flags().BoolVar(&commit, "commit", false, "decide to commit")
	cmd.Flags().BoolVar(&abort, "abort", false, "decide to abort")
	cmd.Flags().BoolVar(&force, "force", false, "with --abort: also if nobody has heard of it")
	cmd.Flags().StringSliceVar(&resources, "resources", nil,
		"with --commit, where the branches do not say it: all databases that the transaction changed")
	cmd.Flags().StringVar(&last, "last-resource", "", "where no branch says it: the resource that decides it")
	c.completeFlag(cmd, "last-resource", c.resourceNames)
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the record")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

func (c *cli) txForgetCommand() *cobra.Command {
	var reason string
	var yes bool
	cmd := &cobra.Command{
		Use: "forget GID --reason TEXT", Short: "Say that a heuristic outcome was dealt with", Args: gidArg,
		ValidArgsFunction: c.completeFirst(c.gids),
		Long: "Ends the alarm of a transaction of which a branch did not end as decided, once its data was put\n" +
			"right by hand. The record of what happened, and this act, are kept.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if reason == "" {
				return terminal.Usagef("--reason is missing: say what was done, it is kept with the transaction")
			}
			if err := c.confirm(yes, args[0], fmt.Sprintf("This ends the alarm of %s.", args[0])); err != nil {
				return err
			}
			client, err := c.dial()
			if err != nil {
				return err
			}
			defer client.Close()
			if _, err := client.Forget(cmd.Context(),
				&concordv1.ForgetRequest{Gid: args[0], Who: operator(), Reason: reason}); err != nil {
				return err
			}
			if c.output == "json" {
				return c.printJSON(map[string]string{"gid": args[0], "forgotten": "yes"})
			}
			fmt.Fprintf(c.out, "%s: forgotten\n", args[0])
			return nil
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "what was done, for the record")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

// confirm lets a person at a terminal type the gid again. Without one, --yes is needed.
func (c *cli) confirm(yes bool, gid, what string) error {
	if yes {
		return nil
	}
	if !terminal.IsTerminal(c.in) || !terminal.IsTerminal(c.messages) {
		return terminal.Usagef("%s Confirm with --yes", what)
	}
	fmt.Fprintf(c.err, "%s Type %s to go on: ", what, gid)
	line, err := bufio.NewReader(c.in).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if strings.TrimSpace(line) != gid {
		return terminal.Usagef("not confirmed: nothing was done")
	}
	return nil
}

// operator names who acts, for the record.
func operator() string {
	name := "unknown"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if host, err := os.Hostname(); err == nil {
		name += "@" + host
	}
	return name[:min(len(name), txn.MaxResourceName)]
}

func branchOf(b *concordv1.Branch, now time.Time) branchJSON {
	j := branchJSON{No: b.GetNo(), Resource: b.GetResource(), State: b.GetState(),
		Evidence: b.GetEvidence(), Holder: b.GetHolder(), Error: b.GetError(), Attempts: b.GetAttempts(),
		Failed: timeOf(b.GetErrorMs()), Seen: b.GetSeen(), Unseen: b.GetUnseen()}
	if at := time.UnixMilli(b.GetNextAttemptMs()).UTC(); b.GetNextAttemptMs() > 0 && at.After(now) {
		j.NextAttempt = &at
	}
	for _, s := range b.GetBlocked() {
		j.Blocked = append(j.Blocked, blockedJSON{Session: s.GetSession(),
			Waited: terminal.Age(time.Duration(s.GetWaitedMs()) * time.Millisecond), Statement: s.GetStatement()})
	}
	return j
}

// nextStep is the command that somebody who looks at a transaction needs next; empty if none.
func nextStep(x txJSON) string {
	failing := slices.IndexFunc(x.Branches, func(b branchJSON) bool { return b.State == "prepared" && b.Error != "" })
	switch {
	case x.State == "heuristic":
		return fmt.Sprintf("put the data right by hand, then: concord tx forget %s --reason TEXT", x.GID)
	case x.State == "in-doubt" && x.Protocol != "three_phase" && strings.HasPrefix(x.Whole, "yes"):
		return fmt.Sprintf("it is aborted by itself once its client is gone; to decide now: concord tx resolve %s "+
			"--abort --reason TEXT (or --commit, since it is whole)", x.GID)
	case x.State == "in-doubt" && x.Protocol != "three_phase":
		return fmt.Sprintf("it is aborted by itself once its client is gone; to decide now: concord tx resolve %s "+
			"--abort --reason TEXT", x.GID)
	case failing >= 0 && (x.State == "committing" || x.State == "aborting"):
		b := x.Branches[failing]
		return fmt.Sprintf("concord resource check %s; to try at once: concord tx retry %s; if its database "+
			"is lost for good: concord tx settle %s/%d --abandon --reason TEXT",
			b.Resource, x.GID, x.GID, b.No)
	case x.State == "committing" || x.State == "aborting":
		return fmt.Sprintf("nothing: the cluster finishes it; to do it at once: concord tx retry %s", x.GID)
	}
	return ""
}
