// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/cmd/internal/terminal"
)

func (c *cli) txSettleCommand() *cobra.Command {
	var commit, abort, abandon, yes bool
	var resource, reason string
	cmd := &cobra.Command{
		Use:   "settle GID/NO --commit|--abort|--abandon --reason TEXT",
		Short: "End, or give up, one branch that nothing else can end",
		Long: "--commit and --abort end one prepared branch in its database: one that \"concord recover GID\"\n" +
			"reports, because the cluster will never end it. It belongs to another cluster, is older than what\n" +
			"the log remembers, is not among the branches that its transaction committed, or was given up. The\n" +
			"branches of one transaction belong together: commit them all, or abort them all. Whatever has a\n" +
			"decision, or can have one, is refused, with the command for it.\n\n" +
			"--abandon gives up a branch of a decided transaction that the cluster tries to finish and cannot, as\n" +
			"its LAST ERROR in \"concord tx get\" says. The branch is recorded as heuristic-hazard with the\n" +
			"reason, nobody works on it any longer, and its transaction ends with the other branches. What is\n" +
			"true in its database is for you to find out and to put right by hand; then end the alarm with\n" +
			"\"concord tx forget\".\n\n" +
			"Exit code 3 no such branch, 4 its database cannot be asked, 5 refused.",
		Example: "  concord tx settle 01JD7Z0B6Q4YV3M2T1S0R9P8N0/2 --abort --reason \"the cluster of the old site " +
			"is lost\"\n  concord tx settle 01JD7Z0B6Q4YV3M2T1S0R9P8N0/2 --abandon --reason \"the database was " +
			"dropped\"",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return terminal.Usagef("want GID/NO, one branch of one transaction as in \"concord tx get\"")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			gid, no, err := branchArg(args[0])
			if err != nil {
				return err
			}
			action, what := "abandon", "This gives up branch %d of %s: the cluster will never finish it."
			switch {
			case commit && !abort && !abandon:
				action, what = "commit", "This commits branch %d of %s in its database."
			case abort && !commit && !abandon:
				action, what = "abort", "This rolls back branch %d of %s in its database."
			case !abandon || commit || abort:
				return terminal.Usagef("give one of --commit, --abort and --abandon")
			}
			if abandon && resource != "" {
				return terminal.Usagef("--resource goes with --commit and --abort: of what is given up the log knows " +
					"where it is")
			}
			if reason == "" {
				return terminal.Usagef("--reason is missing: say why, it is kept with the transaction")
			}
			if err := c.confirm(yes, args[0], fmt.Sprintf(what, no, gid)); err != nil {
				return err
			}
			client, err := c.dial()
			if err != nil {
				return err
			}
			defer client.Close()
			r, err := client.Settle(cmd.Context(), &concordv1.SettleRequest{Gid: gid, No: no, Action: action,
				Resource: resource, Who: operator(), Reason: reason})
			if err != nil {
				return err
			}
			return c.printSettled(gid, no, action, r)
		},
	}
	cmd.Flags().BoolVar(&commit, "commit", false, "commit it in its database")
	cmd.Flags().BoolVar(&abort, "abort", false, "roll it back in its database")
	cmd.Flags().BoolVar(&abandon, "abandon", false, "record it as a hazard and leave it alone")
	cmd.Flags().StringVar(&resource, "resource", "", "with --commit and --abort: which one, if several list it")
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the record")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

func (c *cli) printSettled(gid string, no uint32, action string, r *concordv1.SettleResponse) error {
	if c.output == "json" {
		j := map[string]any{"gid": gid, "no": no, "zxid": r.GetZxid()}
		if action == "abandon" {
			j["outcome"] = "heuristic-hazard"
		} else {
			j["resource"], j["action"], j["result"] = r.GetResource(), action, r.GetResult()
		}
		return c.printJSON(j)
	}
	if action == "abandon" {
		fmt.Fprintf(c.out, "%s/%d: given up, heuristic-hazard; see what is true in its database, then run \"concord "+
			"tx forget %[1]s\"\n", gid, no)
		return nil
	}
	fmt.Fprintf(c.out, "%s/%d: %s at %s, %s; \"concord recover %[1]s\" shows what is left of the transaction\n", gid,
		no, action, terminal.Cell(r.GetResource()), r.GetResult())
	return nil
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

func (c *cli) txRetryCommand() *cobra.Command {
	var branch int
	cmd := &cobra.Command{
		Use: "retry GID", Short: "Have the cluster try at once to finish a transaction", Args: gidArg,
		Long: "A branch that could not be finished is tried again after a pause that grows to half a minute, or\n" +
			"when its database is seen to be back. This ends the pause. It decides nothing, and does not wait for\n" +
			"the result: see \"concord tx get\". Exit code 3 no such transaction, 5 there is nothing to try.",
		Example: "  concord tx retry 01JD7Z0B6Q4YV3M2T1S0R9P8N0\n" +
			"  concord tx retry 01JD7Z0B6Q4YV3M2T1S0R9P8N0 --branch 2",
		ValidArgsFunction: c.completeFirst(c.gids),
		RunE: func(cmd *cobra.Command, args []string) error {
			req := &concordv1.RetryRequest{Gid: args[0]}
			if cmd.Flags().Changed("branch") {
				if branch < 0 || branch > math.MaxUint8 {
					return terminal.Usagef("--branch %d is not the number of a branch, as in \"concord tx get\"",
						branch)
				}
				req.No = proto.Uint32(uint32(branch))
			}
			client, err := c.dial()
			if err != nil {
				return err
			}
			defer client.Close()
			r, err := client.Retry(cmd.Context(), req)
			if err != nil {
				return err
			}
			if c.output == "json" {
				return c.printJSON(map[string]any{"gid": args[0], "branches": r.GetBranches()})
			}
			fmt.Fprintf(c.out, "%s: %s tried now; see \"concord tx get %[1]s\"\n", args[0],
				terminal.Plural(int(r.GetBranches()), "branch is", "branches are"))
			return nil
		},
	}
	cmd.Flags().IntVar(&branch, "branch", 0, "only this one")
	return cmd
}
