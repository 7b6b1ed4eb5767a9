// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/cmd/internal/terminal"
)

func (c *cli) txSettleCommand() *cobra.Command {
	var abandon, yes bool
	var reason string
	cmd := &cobra.Command{
		Use: "settle GID/NO --abandon --reason TEXT", Short: "Give up one branch that nothing else can end",
		Long: "Gives up one branch of a decided transaction that the cluster tries to finish and cannot, as its " +
			"LAST\n" +
			"ERROR in \"concord tx get\" says. The branch is recorded as heuristic-hazard with the reason, nobody " +
			"works\n" +
			"on it any more, and its transaction ends with the other branches. What is true in its database is for\n" +
			"you to find out and to put right by hand; then end the alarm with \"concord tx forget\".\n" +
			"Exit code 3 no such branch, 5 it is finished or on record already.",
		Example: "  concord tx settle 01JD7Z0B6Q4YV3M2T1S0R9P8N0/2 --abandon --reason \"the database was dropped\"",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return terminal.Usagef("want GID/NO, one branch of one transaction as in \"concord tx get\"")
			}
			_, _, err := branchArg(args[0])
			return err
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if !abandon {
				return terminal.Usagef("--abandon is missing: it is the only way to settle a branch by hand")
			}
			if reason == "" {
				return terminal.Usagef("--reason is missing: say why, it is kept with the transaction")
			}
			gid, no, err := branchArg(args[0])
			if err != nil {
				return err
			}
			if err := c.confirm(yes, args[0],
				fmt.Sprintf("This gives up branch %d of %s: the cluster will never finish it.", no, gid)); err != nil {
				return err
			}
			client, err := c.dial()
			if err != nil {
				return err
			}
			defer client.Close()
			r, err := client.Settle(cmd.Context(),
				&concordv1.SettleRequest{Gid: gid, No: no, Action: "abandon", Who: operator(), Reason: reason})
			if err != nil {
				return err
			}
			if c.output == "json" {
				return c.printJSON(map[string]any{"gid": gid, "no": no, "outcome": "heuristic-hazard",
					"zxid": r.GetZxid()})
			}
			fmt.Fprintf(c.out, "%s/%d: given up, heuristic-hazard; see what is true in its database, then run "+
				"\"concord tx forget %[1]s\"\n", gid, no)
			return nil
		},
	}
	cmd.Flags().BoolVar(&abandon, "abandon", false, "record it as a hazard and leave it alone")
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the record")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

// branchArg takes GID/NO apart.
func branchArg(arg string) (gid string, no uint32, err error) {
	gid, number, ok := strings.Cut(arg, "/")
	n, err := strconv.ParseUint(number, 10, 32)
	if !ok || err != nil || strconv.FormatUint(n, 10) != number {
		return "", 0, terminal.Usagef("%.60q is not GID/NO, such as 01JD7Z0B6Q4YV3M2T1S0R9P8N0/2", arg)
	}
	if _, err := api.ParseID("gid", gid); err != nil {
		return "", 0, terminal.Usagef("%v", err)
	}
	branch, err := api.ParseBranchNo("no", uint32(n))
	if err != nil {
		return "", 0, terminal.Usagef("%v", err)
	}
	return gid, uint32(branch), nil
}
