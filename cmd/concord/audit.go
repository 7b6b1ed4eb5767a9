// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/cmd/internal/terminal"
)

func (c *cli) auditCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "audit", Short: "Look at what people did to the cluster", Args: terminal.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	cmd.AddCommand(c.auditListCommand())
	return cmd
}

func (c *cli) auditListCommand() *cobra.Command {
	var who, gid string
	var since time.Duration
	var limit uint32
	var before uint64
	cmd := &cobra.Command{
		Use: "ls", Short: "List what people did, newest first", Args: terminal.NoArgs,
		Long: "Lists what people did to the cluster, newest first: who (by certificate or token, and as whom he\n" +
			"signed), from where (his address, and the node that he called; -o json has his roles as well), when,\n" +
			"with which command, about what and why, and how it ended: done, refused (nothing was done), begun (it\n" +
			"is under way) or unknown (nobody saw the end, and it may have been done). The log has it before\n" +
			"anything is done. It keeps the last 10,000, for as long as outcomes of transactions.",
		Example: "  concord audit ls --since 24h\n  concord audit ls --who alice -o json\n" +
			"  concord audit ls --before 1200      # older ones: \"next\" in the JSON of the page before",
		RunE: func(cmd *cobra.Command, _ []string) error {
			req := &concordv1.AuditRequest{Who: who, Gid: gid, Limit: limit, Before: before}
			if since > 0 {
				req.SinceMs = time.Now().Add(-since).UnixMilli()
			}
			client, err := c.dial()
			if err != nil {
				return err
			}
			defer client.Close()
			r, err := client.Audit(cmd.Context(), req)
			if err != nil {
				return err
			}
			return c.printAudit(r)
		},
	}
	cmd.Flags().DurationVar(&since, "since", 0, "only what was done at most this long ago, such as 24h")
	cmd.Flags().StringVar(&who, "who", "", "only what this one did, by certificate, token or signature")
	cmd.Flags().StringVar(&gid, "gid", "", "only what was done about this transaction")
	cmd.Flags().Uint32Var(&limit, "limit", 100, "at most this many")
	cmd.Flags().Uint64Var(&before, "before", 0, "only those before this NO: the page after the one that ended with it")
	c.completeFlag(cmd, "gid", c.gids)
	return cmd
}

// auditJSON is the contract of "audit ls -o json".
type auditJSON struct {
	Acts []actJSON `json:"acts"`
	// Next is what --before takes to go on; 0 if there is nothing more.
	Next uint64 `json:"next"`
}

type actJSON struct {
	No       uint64    `json:"no"`
	Time     time.Time `json:"time"`
	Subject  string    `json:"subject"`
	Who      string    `json:"who"`
	Command  string    `json:"command"`
	GID      string    `json:"gid,omitempty"`
	Branch   *uint32   `json:"branch,omitempty"`
	Resource string    `json:"resource,omitempty"`
	Node     uint64    `json:"node,omitempty"`
	Reason   string    `json:"reason"`
	Outcome  string    `json:"outcome"`
	Says     string    `json:"says,omitempty"`
	Roles    string    `json:"roles,omitempty"`
	Address  string    `json:"address,omitempty"`
	Called   uint64    `json:"called,omitempty"`
}

func actOf(m *concordv1.Act) actJSON {
	return actJSON{No: m.GetNo(), Time: time.UnixMilli(m.GetTimeMs()).UTC(), Subject: m.GetSubject(), Who: m.GetWho(),
		Command: m.GetCommand(), GID: m.GetGid(), Branch: m.Branch, Resource: m.GetResource(), Node: m.GetNode(),
		Reason: m.GetReason(), Outcome: m.GetOutcome(), Says: m.GetSays(), Roles: m.GetRoles(), Address: m.GetAddress(),
		Called: m.GetCalled()}
}

// from is from where it was called; empty: the log does not say.
func (a actJSON) from() string {
	if a.Called == 0 {
		return ""
	}
	return fmt.Sprintf("%s at node %d", terminal.OrDash(a.Address), a.Called)
}

// by is who did it, and as whom that one signed.
func (a actJSON) by() string {
	if a.Subject != "" && a.Who != "" && a.Subject != a.Who {
		return a.Subject + " (signed " + a.Who + ")"
	}
	return a.Subject + strings.TrimPrefix(a.Who, a.Subject)
}

// about is what it was done to.
func (a actJSON) about() string {
	var words []string
	if a.GID != "" && a.Branch != nil {
		words = append(words, fmt.Sprintf("%s/%d", a.GID, *a.Branch))
	} else if a.GID != "" {
		words = append(words, a.GID)
	}
	if a.Resource != "" {
		words = append(words, a.Resource)
	}
	if a.Node != 0 {
		words = append(words, fmt.Sprintf("node %d", a.Node))
	}
	return strings.Join(words, " ")
}

// ended is how it ended, with what that was about.
func (a actJSON) ended() string {
	if a.Says == "" {
		return a.Outcome
	}
	return a.Outcome + ": " + a.Says
}

func (c *cli) printAudit(r *concordv1.AuditResponse) error {
	list := auditJSON{Acts: []actJSON{}, Next: r.GetNext()}
	for _, m := range r.GetActs() {
		list.Acts = append(list.Acts, actOf(m))
	}
	if c.output == "json" {
		return c.printJSON(list)
	}
	if len(list.Acts) == 0 {
		fmt.Fprintln(c.err, "0 acts")
		return nil
	}
	var rows [][]string
	for _, a := range list.Acts {
		rows = append(rows, []string{fmt.Sprint(a.No), a.Time.Format(time.RFC3339), terminal.OrDash(a.by()),
			terminal.OrDash(a.from()), a.Command, terminal.OrDash(a.about()), terminal.OrDash(a.Reason), a.ended()})
	}
	err := terminal.PrintTable(c.out,
		[]string{"NO", "TIME", "WHO", "FROM", "COMMAND", "ABOUT", "REASON", "OUTCOME"}, rows)
	if err == nil && list.Next != 0 {
		fmt.Fprintf(c.err, "there are more: go on with --before %d, or narrow the list with --since, --who or --gid\n",
			list.Next)
	}
	return err
}

// printActs shows what was done about one transaction.
func (c *cli) printActs(acts []actJSON) error {
	if len(acts) == 0 {
		return nil
	}
	var rows [][]string
	for _, a := range acts {
		rows = append(rows, []string{a.Time.Format(time.RFC3339), terminal.OrDash(a.by()), a.Command,
			terminal.OrDash(a.Reason), a.ended()})
	}
	fmt.Fprintln(c.out)
	return terminal.PrintTable(c.out, []string{"TIME", "WHO", "COMMAND", "REASON", "OUTCOME"}, rows)
}
