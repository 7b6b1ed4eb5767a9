// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/cmd/internal/terminal"
)

func (c *cli) recoverCommand() *cobra.Command {
	var apply bool
	var reason string
	cmd := &cobra.Command{
		Use: "recover [GID]", Short: "Show what recovery would do about every prepared branch, and do it",
		Long: "Lists what each resource holds prepared, what the log says about it and what follows: commit,\n" +
			"rollback, abort (let the log decide first), leave (its transaction may be alive) or report (nothing\n" +
			"may be done). The cluster does the same by itself every few seconds; --apply does it now.\n" +
			"Exit code 6 if prepared branches remain.",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return terminal.Usagef("want at most one GID: without one, all that is prepared is shown")
			}
			return nil
		},
		ValidArgsFunction: c.completeFirst(c.gids),
		RunE: func(cmd *cobra.Command, args []string) error {
			if reason != "" && !apply {
				return terminal.Usagef("--reason goes with --apply: to look needs none")
			}
			client, err := c.dial()
			if err != nil {
				return err
			}
			defer client.Close()
			req := &concordv1.RecoverRequest{Apply: apply}
			if apply {
				req.Who, req.Reason = operator(), reason
			}
			if len(args) == 1 {
				req.Gid = args[0]
			}
			r, err := client.Recover(cmd.Context(), req)
			if err != nil {
				return err
			}
			return c.printRecover(r)
		},
	}
	cmd.Flags().BoolVar(&apply, "apply", false, "do it (default: only show it)")
	cmd.Flags().StringVar(&reason, "reason", "", "with --apply: why, for the record")
	return cmd
}

type actionJSON struct {
	GID      string     `json:"gid"`
	No       uint32     `json:"no"`
	Resource string     `json:"resource"`
	Action   string     `json:"action"`
	Why      string     `json:"why"`
	Result   string     `json:"result"`
	Error    string     `json:"error"`
	Prepared *time.Time `json:"prepared"`
}

func (c *cli) printRecover(r *concordv1.RecoverResponse) error {
	actions, left := []actionJSON{}, 0
	for _, a := range r.GetActions() {
		j := actionJSON{GID: a.GetGid(), No: a.GetNo(), Resource: a.GetResource(), Action: a.GetAction(),
			Why: a.GetWhy(), Result: a.GetResult(), Error: a.GetError()}
		if ms := a.GetPreparedMs(); ms != 0 {
			at := time.UnixMilli(ms).UTC()
			j.Prepared = &at
		}
		if !slices.Contains([]string{"done", "already-done"}, j.Result) {
			left++
		}
		actions = append(actions, j)
	}
	for _, w := range r.GetWarnings() {
		c.warn(w)
	}
	if r.GetWhole() != "" {
		fmt.Fprintf(c.err, "is every branch there? %s\n", terminal.Cell(r.GetWhole()))
	}
	if c.output == "json" {
		if err := c.printJSON(actions); err != nil {
			return err
		}
	} else if len(actions) == 0 {
		fmt.Fprintln(c.err, "0 prepared branches")
	} else {
		var rows [][]string
		for _, a := range actions {
			result := a.Result
			if a.Error != "" {
				result += ": " + a.Error
			}
			rows = append(rows, []string{a.GID, fmt.Sprint(a.No), a.Resource, a.Action, terminal.OrDash(result), a.Why})
		}
		if err := terminal.PrintTable(c.out, []string{"GID", "NO", "RESOURCE", "ACTION", "RESULT", "WHY"},
			rows); err != nil {
			return err
		}
	}
	switch {
	case left > 0:
		return &terminal.ExitError{Code: terminal.ExitInDoubt,
			Text: terminal.Plural(left, "prepared branch remains", "prepared branches remain")}
	case len(r.GetWarnings()) > 0:
		return &terminal.ExitError{Code: terminal.ExitInDoubt,
			Text: "prepared branches may remain that are not shown: see the warnings"}
	}
	return nil
}
