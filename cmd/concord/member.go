// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	concordv1 "github.com/concordtx/concord/api/concord/v1"
)

func (c *cli) memberCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "member", Short: "Replace the disk of a node", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	cmd.AddCommand(c.memberReplaceCommand())
	return cmd
}

func (c *cli) memberReplaceCommand() *cobra.Command {
	var reason string
	var yes bool
	cmd := &cobra.Command{
		Use: "replace ID --reason TEXT", Short: "Admit a node whose disk was lost for good",
		Long: "A node that lost its disk has forgotten what it promised, so the others refuse it. This command\n" +
			"says that its old disk will never come back: the next store that speaks for the node is admitted,\n" +
			"and the node fetches everything from the leader. A majority of the other nodes must run. Do it for\n" +
			"one node at a time, and wait until \"concord status\" shows no lag before the next.",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usagef("want exactly one member ID: see \"concord status\"")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := strconv.ParseUint(args[0], 10, 64)
			if err != nil || id == 0 {
				return usagef("%.20q is not a member ID: see \"concord status\"", args[0])
			}
			if reason == "" {
				return usagef("--reason is missing: say what happened to the disk, it is kept in the log")
			}
			if err := c.confirm(yes, args[0], fmt.Sprintf("This gives up the old disk of node %d for good.", id)); err != nil {
				return err
			}
			client, err := c.dial()
			if err != nil {
				return err
			}
			defer client.Close()
			if _, err := client.ReplaceMember(cmd.Context(), &concordv1.ReplaceMemberRequest{Node: id, Who: operator(), Reason: reason}); err != nil {
				return err
			}
			if c.output == "json" {
				return c.printJSON(map[string]uint64{"replaced": id})
			}
			fmt.Fprintf(c.out, "node %d: the next store that speaks for it is admitted\n", id)
			return nil
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "what happened to the disk, for the record")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}
