// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/spf13/cobra"

	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/cmd/internal/terminal"
)

func (c *cli) resourceCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "resource", Short: "Look at the databases that take part", Args: terminal.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	cmd.AddCommand(
		&cobra.Command{
			Use: "ls", Short: "List resources, whether they are fit, and which database each one is",
			Args: terminal.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error { return c.resourceList(cmd) },
		},
		&cobra.Command{
			Use: "check [NAME]", Short: "Run the preflight: version, settings, privileges, evidence",
			Long: "Asks one resource, or all, whether it is fit to take part in transactions, and says what " +
				"to\nchange. Exit code 1 if something is wrong.",
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
		})
	return cmd
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
			Error: m.GetError(), Findings: []findingJSON{}}
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

func (c *cli) printReports(reports []reportJSON) error {
	for _, r := range reports {
		fmt.Fprintf(c.out, "%s (%s %s): %s\n", terminal.Cell(r.Name), terminal.Cell(r.Driver),
			terminal.OrDash(terminal.Cell(r.Version)), map[bool]string{true: "fit", false: "NOT FIT"}[r.OK])
		if r.Error != "" {
			fmt.Fprintf(c.out, "  PROBLEM  %s\n", terminal.Cell(r.Error))
		}
		for _, f := range r.Findings {
			mark := "ok     "
			switch {
			case f.Problem:
				mark = "PROBLEM"
			case f.Fix != "":
				mark = "note   "
			}
			fmt.Fprintf(c.out, "  %s  %s: %s\n", mark, terminal.Cell(f.What), terminal.Cell(f.Detail))
			if f.Fix != "" {
				fmt.Fprintf(c.out, "           -> %s\n", terminal.Cell(f.Fix))
			}
		}
	}
	return nil
}
