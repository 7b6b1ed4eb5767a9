// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
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
			"may be done). The cluster does the same by itself every few seconds; --apply does it now, on all\n" +
			"resources side by side. A resource that does not answer within three seconds is named, and holds up no\n" +
			"other; with --apply it is worked on as soon as it has answered.\n" +
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
			found := recovered{apply: apply, at: map[string]int{}}
			draws := terminal.IsTerminal(c.messages)
			err = client.Recover(cmd.Context(), req, func(r *concordv1.RecoverResponse) error {
				found.add(r)
				for _, p := range r.GetPending() {
					if draws {
						fmt.Fprintln(c.err)
					}
					c.warn(p)
				}
				if draws {
					fmt.Fprintf(c.err, "\r%s", found.bar())
				}
				return nil
			})
			if draws {
				fmt.Fprintln(c.err)
			}
			return errors.Join(c.printRecover(found), err)
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

// recovered is what was heard of a recovery.
type recovered struct {
	apply    bool
	actions  []actionJSON
	at       map[string]int // in actions, by branch and resource
	warnings []string
	whole    string
	due      int // that are to be carried out, of which so many were
	tried    int
}

// add notes a piece. An action that was carried out comes again, with its result.
func (r *recovered) add(m *concordv1.RecoverResponse) {
	r.warnings = append(r.warnings, m.GetWarnings()...)
	r.whole += m.GetWhole()
	for _, a := range m.GetActions() {
		j := actionJSON{GID: a.GetGid(), No: a.GetNo(), Resource: a.GetResource(), Action: a.GetAction(),
			Why: a.GetWhy(), Result: a.GetResult(), Error: a.GetError(), Prepared: timeOf(a.GetPreparedMs())}
		key := fmt.Sprintf("%s/%d/%s", j.GID, j.No, j.Resource)
		i, again := r.at[key]
		switch {
		case !again:
			i = len(r.actions)
			r.at[key], r.actions = i, append(r.actions, j)
			if r.apply && !slices.Contains([]string{"leave", "report"}, j.Action) {
				r.due++
			}
		case r.actions[i].Result == "" && j.Result != "":
			r.tried++
		}
		r.actions[i] = j
	}
}

// barWidth is how many characters a bar has.
const barWidth = 30

// bar is a line that shows how far a recovery is.
func (r *recovered) bar() string {
	if !r.apply {
		return terminal.Plural(len(r.actions), "prepared branch", "prepared branches")
	}
	done := 0
	if r.due > 0 {
		done = barWidth * r.tried / r.due
	}
	return fmt.Sprintf("[%s%s] %d of %s", strings.Repeat("=", done), strings.Repeat(" ", barWidth-done), r.tried,
		terminal.Plural(r.due, "branch", "branches"))
}

func (c *cli) printRecover(r recovered) error {
	actions, left := append([]actionJSON{}, r.actions...), 0
	slices.SortFunc(actions, func(a, b actionJSON) int {
		return cmp.Or(cmp.Compare(a.GID, b.GID), cmp.Compare(a.Resource, b.Resource), cmp.Compare(a.No, b.No))
	})
	for _, a := range actions {
		if !slices.Contains([]string{"done", "already-done"}, a.Result) {
			left++
		}
	}
	for _, w := range r.warnings {
		c.warn(w)
	}
	if r.whole != "" {
		fmt.Fprintf(c.err, "is every branch there? %s\n", terminal.Cell(r.whole))
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
	case len(r.warnings) > 0:
		return &terminal.ExitError{Code: terminal.ExitInDoubt,
			Text: "prepared branches may remain that are not shown: see the warnings"}
	}
	return nil
}
