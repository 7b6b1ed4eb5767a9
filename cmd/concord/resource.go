// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/cmd/internal/terminal"
)

func (c *cli) resourceCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "resource", Short: "Look at the databases that take part", Args: terminal.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	cmd.AddCommand(
		&cobra.Command{
			Use: "ls", Short: "List resources, whether they are fit, and which database each one is",
			Long: "Lists the resources of the cluster as its leader last saw them: whether each is up, what it " +
				"holds\nprepared, and which database it is. \"concord resource check\" asks the databases now.",
			Args: terminal.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error { return c.resourceList(cmd) },
		},
		&cobra.Command{
			Use: "check [NAME]", Short: "Run the preflight: version, settings, privileges, evidence",
			Long: "Asks one resource, or all, whether it is fit to take part in transactions, and says what " +
				"to\nchange, and what each can be: a branch that is prepared beside others, the last resource of a\n" +
				"transaction (WithLastResource), or both. Exit code 1 if something is wrong.",
			Args: func(cmd *cobra.Command, args []string) error {
				if len(args) > 1 {
					return terminal.Usagef("want at most one NAME: see \"concord resource ls\"")
				}
				return nil
			},
			RunE: func(cmd *cobra.Command, args []string) error {
				name := ""
				if len(args) == 1 {
					name = args[0]
				}
				return c.resourceCheck(cmd, name)
			},
			ValidArgsFunction: c.completeFirst(c.resourceNames),
		},
		&cobra.Command{
			Use: "report NAME", Short: "List what a database that was set back lacks of what was told committed",
			Long: "Compares a quarantined database with the decisions that the cluster keeps, and lists by gid each\n" +
				"branch that was told committed after the position in the log that the database has:\n" +
				"  missing         it is not there: restore it by hand, or tell whom it concerns\n" +
				"  unknown         it may be there, its evidence having been removed, or be missing: look\n" +
				"  prepared-again  the database has it prepared: it is committed once you accept\n" +
				"  present         its evidence is there\n" +
				"Nothing is changed. Exit code 3 no such resource, 5 it is not quarantined, 6 something is missing " +
				"or\nunknown.",
			Example: "  concord resource report orders -o json",
			Args:    oneResource,
			RunE: func(cmd *cobra.Command, args []string) error {
				return c.resourceReport(cmd, args[0])
			},
			ValidArgsFunction: c.completeFirst(c.resourceNames),
		},
		c.resourceAcceptCommand())
	return cmd
}

func oneResource(_ *cobra.Command, args []string) error {
	if len(args) != 1 {
		return terminal.Usagef("want one NAME: see \"concord resource ls\"")
	}
	return nil
}

func (c *cli) resourceAcceptCommand() *cobra.Command {
	var yes bool
	var reason string
	cmd := &cobra.Command{
		Use: "accept NAME --reason TEXT", Short: "Go on with a database that was set back, as it is",
		Long: "Ends the quarantine of a database that was set back. What \"concord resource report\" lists as\n" +
			"missing stays so. Branches that are prepared there end as the log has it, new transactions are taken\n" +
			"again, and what is decided, not there and not proven is recorded as heuristic. Who, when and why are\n" +
			"kept in the log. Exit code 3 no such resource, 5 it is not quarantined.",
		Example: "  concord resource accept orders --reason \"restored from Sunday's backup, 3 orders entered again\"",
		Args:    oneResource,
		RunE: func(cmd *cobra.Command, args []string) error {
			if reason == "" {
				return terminal.Usagef("--reason is missing: say why, it is kept in the log")
			}
			if err := c.confirm(yes, args[0],
				fmt.Sprintf("This goes on with %s as it is: what is missing there stays so.", args[0])); err != nil {
				return err
			}
			client, err := c.dial()
			if err != nil {
				return err
			}
			defer client.Close()
			r, err := client.AcceptResource(cmd.Context(),
				&concordv1.AcceptResourceRequest{Name: args[0], Who: operator(), Reason: reason})
			if err != nil {
				return err
			}
			if c.output == "json" {
				return c.printJSON(map[string]any{"name": args[0], "accepted": true, "zxid": r.GetZxid()})
			}
			fmt.Fprintf(c.out, "%s: accepted as it is; its open branches are finished now: see \"concord tx ls\"\n",
				args[0])
			return nil
		},
		ValidArgsFunction: c.completeFirst(c.resourceNames),
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the record")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

type setBackJSON struct {
	Name          string         `json:"name"`
	Quarantine    quarantineJSON `json:"quarantine"`
	Missing       uint64         `json:"missing"`
	Unknown       uint64         `json:"unknown"`
	PreparedAgain uint64         `json:"prepared_again"`
	Present       uint64         `json:"present"`
	// BackTo is the birth of the oldest transaction that was looked at; null: all that are kept.
	BackTo   *time.Time `json:"back_to"`
	Branches []toldJSON `json:"branches"`
}

type toldJSON struct {
	GID     string    `json:"gid"`
	No      uint32    `json:"no"`
	Label   string    `json:"label"`
	Begun   time.Time `json:"begun"`
	Decided string    `json:"decided"`
	Fate    string    `json:"fate"`
	Ended   bool      `json:"ended"`
}

func (c *cli) resourceReport(cmd *cobra.Command, name string) error {
	client, err := c.dial()
	if err != nil {
		return err
	}
	defer client.Close()
	r, err := client.ReportResource(cmd.Context(), &concordv1.ReportResourceRequest{Name: name})
	if err != nil {
		return err
	}
	report := setBackJSON{Name: r.GetName(), Missing: r.GetMissing(), Unknown: r.GetUnknown(),
		PreparedAgain: r.GetPreparedAgain(), Present: r.GetPresent(), Branches: []toldJSON{}}
	if q := quarantineOf(r.GetQuarantine()); q != nil {
		report.Quarantine = *q
	}
	if ms := r.GetBackToMs(); ms != 0 {
		at := time.UnixMilli(ms).UTC()
		report.BackTo = &at
	}
	for _, b := range r.GetBranches() {
		id, err := api.ParseID("gid", b.GetGid())
		if err != nil {
			return err
		}
		report.Branches = append(report.Branches, toldJSON{GID: b.GetGid(), No: b.GetNo(), Label: b.GetLabel(),
			Begun: id.Time().UTC(), Decided: b.GetDecided(), Fate: b.GetFate(), Ended: b.GetEnded()})
	}
	if c.output == "json" {
		err = c.printJSON(report)
	} else {
		err = c.printSetBack(report)
	}
	if err == nil && report.Missing+report.Unknown > 0 {
		err = &terminal.ExitError{Code: terminal.ExitInDoubt, Text: fmt.Sprintf("%d branches that were told "+
			"committed are missing, and %d may be: put right what matters, then run \"concord resource accept %s "+
			"--reason TEXT\"",
			report.Missing, report.Unknown, name)}
	}
	return err
}

func (c *cli) printSetBack(r setBackJSON) error {
	fmt.Fprintf(c.out, "%s: set back, quarantined since %s: it has the log up to %s, the cluster remembers %s\n",
		terminal.Cell(r.Name), r.Quarantine.Since.Format(time.RFC3339), terminal.OrDash(r.Quarantine.Has),
		r.Quarantine.Remembered)
	fmt.Fprintf(c.out, "told committed after that: %d missing, %d unknown, %d prepared again, %d present\n\n",
		r.Missing, r.Unknown, r.PreparedAgain, r.Present)
	var rows [][]string
	for _, b := range r.Branches {
		rows = append(rows, []string{fmt.Sprintf("%s/%d", b.GID, b.No), b.Fate, b.Begun.Format(time.RFC3339), b.Decided,
			terminal.YesNo(b.Ended), terminal.OrDash(terminal.Cell(b.Label))})
	}
	if len(rows) == 0 {
		return nil
	}
	return terminal.PrintTable(c.out, []string{"BRANCH", "FATE", "BEGUN", "DECIDED", "ENDED", "LABEL"}, rows)
}

func (c *cli) resourceList(cmd *cobra.Command) error {
	client, err := c.dial()
	if err != nil {
		return err
	}
	defer client.Close()
	r, err := client.Resources(cmd.Context(), &concordv1.ResourcesRequest{})
	if err != nil {
		return err
	}
	resources := resourcesOf(r.GetResources())
	if c.output == "json" {
		return c.printJSON(resources)
	}
	if len(resources) == 0 {
		fmt.Fprintln(c.err, "no resources: add them to \"resources\" in the configuration of all nodes")
		return nil
	}
	return c.printResources(resources)
}

type reportJSON struct {
	Name     string        `json:"name"`
	Driver   string        `json:"driver"`
	Version  string        `json:"version"`
	OK       bool          `json:"ok"`
	Error    string        `json:"error"`
	Findings []findingJSON `json:"findings"`
	// CanBe has "branch", which is prepared beside others, and "last_resource"; the other two say why not.
	CanBe           []string `json:"can_be"`
	NotBranch       string   `json:"not_branch"`
	NotLastResource string   `json:"not_last_resource"`
}

type findingJSON struct {
	What    string `json:"what"`
	Detail  string `json:"detail"`
	Problem bool   `json:"problem"`
	Fix     string `json:"fix"`
}

func (c *cli) resourceCheck(cmd *cobra.Command, name string) error {
	client, err := c.dial()
	if err != nil {
		return err
	}
	defer client.Close()
	r, err := client.CheckResource(cmd.Context(), &concordv1.CheckResourceRequest{Name: name})
	if err != nil {
		return err
	}
	reports, ok := []reportJSON{}, true
	for _, m := range r.GetReports() {
		report := reportJSON{Name: m.GetName(), Driver: m.GetDriver(), Version: m.GetVersion(), OK: m.GetOk(),
			Error: m.GetError(), Findings: []findingJSON{}, CanBe: canBe(m), NotBranch: m.GetNotBranch(),
			NotLastResource: m.GetNotLastResource()}
		for _, f := range m.GetFindings() {
			report.Findings = append(report.Findings,
				findingJSON{What: f.GetWhat(), Detail: f.GetDetail(), Problem: f.GetProblem(), Fix: f.GetFix()})
		}
		reports, ok = append(reports, report), ok && report.OK
	}
	if c.output == "json" {
		err = c.printJSON(reports)
	} else {
		err = c.printReports(reports)
	}
	if err == nil && !ok {
		err = &terminal.ExitError{Code: terminal.ExitFailed,
			Text: "not every resource is fit to take part: see the lines marked PROBLEM"}
	}
	return err
}

// canBe says what a database can be in a transaction. One that could not be asked, or has a problem, is nothing.
func canBe(m *concordv1.ResourceReport) []string {
	can := []string{}
	if m.GetOk() && m.GetNotBranch() == "" {
		can = append(can, "branch")
	}
	if m.GetOk() && m.GetNotLastResource() == "" {
		can = append(can, "last_resource")
	}
	return can
}

// role says the same in words.
func (r reportJSON) role() string {
	var why []string
	if r.NotBranch != "" {
		why = append(why, "no branch beside others: "+r.NotBranch)
	}
	if r.NotLastResource != "" {
		why = append(why, "no last resource: "+r.NotLastResource)
	}
	text := "nothing"
	switch {
	case len(r.CanBe) == 2:
		text = "a branch beside others, or the last resource"
	case slices.Contains(r.CanBe, "branch"):
		text = "a branch beside others"
	case slices.Contains(r.CanBe, "last_resource"):
		text = "the last resource, or alone"
	}
	if len(why) > 0 {
		text += " (" + strings.Join(why, "; ") + ")"
	}
	return text
}

func (c *cli) printReports(reports []reportJSON) error {
	for _, r := range reports {
		fmt.Fprintf(c.out, "%s (%s %s): %s\n", terminal.Cell(r.Name), terminal.Cell(r.Driver),
			terminal.OrDash(terminal.Cell(r.Version)), map[bool]string{true: "fit", false: "NOT FIT"}[r.OK])
		if r.Error != "" {
			fmt.Fprintf(c.out, "  PROBLEM  %s\n", terminal.Cell(r.Error))
		}
		if r.Error == "" {
			mark := map[bool]string{true: "PROBLEM", false: "ok     "}[len(r.CanBe) == 0]
			fmt.Fprintf(c.out, "  %s  can be %s\n", mark, terminal.Cell(r.role()))
		}
		for _, f := range r.Findings {
			mark, colour := "ok     ", terminal.Green
			switch {
			case f.Problem:
				mark, colour = "PROBLEM", terminal.Red
			case f.Fix != "":
				mark, colour = "note   ", terminal.Bold
			}
			fmt.Fprint(c.out, "  ")
			if err := terminal.Paint(c.out, colour, mark); err != nil {
				return err
			}
			fmt.Fprintf(c.out, "  %s: %s\n", terminal.Cell(f.What), terminal.Cell(f.Detail))
			if f.Fix != "" {
				// SQL of several lines means the same in one, which can be pasted.
				fmt.Fprintf(c.out, "           -> %s\n", terminal.Cell(strings.Join(strings.Fields(f.Fix), " ")))
			}
		}
	}
	return nil
}
