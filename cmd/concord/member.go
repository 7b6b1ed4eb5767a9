// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/cmd/internal/terminal"
)

func (c *cli) memberCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "member", Short: "List, add and remove members, or replace the disk of one",
		Args: terminal.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	cmd.AddCommand(c.memberListCommand(), c.memberAddCommand(), c.memberRemoveCommand(), c.memberReplaceCommand())
	return cmd
}

// memberArg reads the one argument of a command about a member.
func memberArg(args []string) (uint64, error) {
	if len(args) != 1 {
		return 0, terminal.Usagef("want exactly one member ID: see \"concord member ls\"")
	}
	id, err := strconv.ParseUint(args[0], 10, 64)
	if err != nil || id == 0 {
		return 0, terminal.Usagef("%.20q is not a member ID: a number above 0; see \"concord member ls\"", args[0])
	}
	return id, nil
}

// requestKey tells a repeated request from another.
func requestKey() string { return rand.Text() }

const noReason = "not given"

// memberJSON is the contract of "member ls -o json".
type memberJSON struct {
	ID    uint64 `json:"id"`
	Role  string `json:"role"`
	State string `json:"state"`
	Lag   uint64 `json:"lag"`
	Peer  string `json:"peer"`
	API   string `json:"api"`
}

func membersOf(s *concordv1.StatusResponse) []memberJSON {
	out := []memberJSON{}
	for _, n := range s.GetNodes() {
		out = append(out, memberJSON{ID: n.GetId(), Role: n.GetRole(), State: n.GetState(), Lag: n.GetLag(),
			Peer: n.GetPeer(), API: n.GetApi()})
	}
	return out
}

func (c *cli) memberListCommand() *cobra.Command {
	return &cobra.Command{
		Use: "ls", Short: "List the members of the cluster", Args: terminal.NoArgs,
		Long: "Lists the members according to the log, as known to the node that answers. A learner is a node on\n" +
			"its way to becoming a voter: it counts in no quorum until it has caught up.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := c.dial()
			if err != nil {
				return err
			}
			defer client.Close()
			s, err := client.Status(cmd.Context(), &concordv1.StatusRequest{})
			if err != nil {
				return err
			}
			if s.GetCluster() == "" { // what it lists is its configuration
				return &terminal.ExitError{Code: terminal.ExitUnavailable,
					Text: fmt.Sprintf("node %d belongs to no cluster yet, so it does not know the members: ask "+
						"another node, with --addr", s.GetNode())}
			}
			members := membersOf(s)
			if c.output == "json" {
				return c.printJSON(members)
			}
			var rows [][]string
			for _, m := range members {
				rows = append(rows, []string{fmt.Sprint(m.ID), m.Role, m.State, fmt.Sprint(m.Lag), m.Peer, m.API})
			}
			return terminal.PrintTable(c.out, []string{"NODE", "ROLE", "STATE", "LAG", "PEER", "API"}, rows)
		},
	}
}

func (c *cli) memberAddCommand() *cobra.Command {
	var r concordv1.AddMemberRequest
	var observer bool
	var wait time.Duration
	cmd := &cobra.Command{
		Use: "add ID --peer ADDR --api ADDR [--observer]", Short: "Add a node to the cluster",
		Long: "Adds a node: a voter or, with --observer, a member that counts in no quorum. Start the new node\n" +
			"before or after, with an empty data_dir and a configuration whose \"members\" are the existing ones\n" +
			"and itself. A voter learns first; it counts when it has caught up, and the command waits for\n" +
			"that. If the command gives up, the node keeps learning: run it again to keep waiting, or take the\n" +
			"node back with \"concord member remove\". One node at a time.",
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if r.Node, err = memberArg(args); err != nil {
				return err
			}
			if r.Peer == "" || r.Api == "" {
				return terminal.Usagef("--peer and --api are needed: where the other nodes and where clients reach "+
					"node %d, host:port", r.Node)
			}
			r.Role, r.Who, r.Key = "voter", operator(), requestKey()
			if observer {
				r.Role = "observer"
			}
			client, err := c.dial()
			if err != nil {
				return err
			}
			defer client.Close()
			if _, err := client.AddMember(cmd.Context(), &r); err != nil {
				return err
			}
			m, err := c.joined(cmd.Context(), client, r.Node, r.Role, wait)
			if err != nil {
				return err
			}
			if c.output == "json" {
				return c.printJSON(m)
			}
			fmt.Fprintf(c.out, "node %d is a member: %s\n", m.ID, m.Role)
			return nil
		},
	}
	cmd.Flags().StringVar(&r.Peer, "peer", "", "address at which the other nodes reach it, host:port")
	cmd.Flags().StringVar(&r.Api, "api", "", "address at which clients reach it, host:port")
	cmd.Flags().BoolVar(&observer, "observer", false, "in no quorum")
	cmd.Flags().StringVar(&r.Reason, "reason", noReason, "why, for the record")
	cmd.Flags().DurationVar(&wait, "wait", time.Minute, "how long to wait until a voter has caught up; 0: do not "+
		"wait")
	return cmd
}

// joined waits until a node has the role that it was added for.
func (c *cli) joined(ctx context.Context, client *api.Client, id uint64, role string, wait time.Duration) (m memberJSON,
	err error) {
	for deadline := time.Now().Add(wait); ; {
		s, err := client.Status(ctx, &concordv1.StatusRequest{})
		if err != nil {
			return m, err
		}
		if i := slices.IndexFunc(membersOf(s), func(m memberJSON) bool { return m.ID == id }); i >= 0 {
			m = membersOf(s)[i]
		}
		switch {
		case m.Role == role, wait == 0 && m.Role != "":
			return m, nil
		case time.Now().After(deadline) && m.Role == "":
			return m, &terminal.ExitError{Code: terminal.ExitUnavailable,
				Text: fmt.Sprintf("node %d was added, but the node that answers does not know it yet: see \"concord "+
					"member ls\" in a moment", id)}
		case time.Now().After(deadline):
			return m, &terminal.ExitError{Code: terminal.ExitUnavailable,
				Text: fmt.Sprintf("node %d is a %s and has not caught up within %v (%s, %d entries behind): it "+
					"becomes a voter by itself when it has. Start it if it is not running, run this command again "+
					"to keep waiting, or take it back with \"concord member remove "+
					"%d\"", id, m.Role, wait, m.State, m.Lag, id)}
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return m, ctx.Err()
		}
	}
}

func (c *cli) memberRemoveCommand() *cobra.Command {
	var r concordv1.RemoveMemberRequest
	cmd := &cobra.Command{
		Use: "remove ID", Short: "Remove a node from the cluster",
		Long: "Removes a node from the cluster. A leader hands over first. It is refused when the voters that are " +
			"left\n" +
			"and follow the leader would be no majority. When the command is done the node can be switched off;\n" +
			"it exits by itself with code 2, because the others tell it that it was removed.",
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if r.Node, err = memberArg(args); err != nil {
				return err
			}
			r.Who, r.Key = operator(), requestKey()
			client, err := c.dial()
			if err != nil {
				return err
			}
			defer client.Close()
			if _, err := client.RemoveMember(cmd.Context(), &r); err != nil {
				return err
			}
			if c.output == "json" {
				return c.printJSON(map[string]uint64{"removed": r.Node})
			}
			fmt.Fprintf(c.out, "node %d is no longer a member: it can be switched off\n", r.Node)
			return nil
		},
	}
	cmd.Flags().StringVar(&r.Reason, "reason", noReason, "why, for the record")
	return cmd
}

func (c *cli) leadCommand() *cobra.Command {
	var r concordv1.TransferLeadershipRequest
	cmd := &cobra.Command{
		Use: "lead NODE", Short: "Move leadership to a node",
		Long: "Makes another voter lead, for example before the leader is stopped for maintenance: the leader " +
			"takes no\n" +
			"more transactions for a moment, waits until the node has everything, and hands over. Exit code 4\n" +
			"if the node cannot take over now, in which case the leader keeps leading.",
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if r.Node, err = memberArg(args); err != nil {
				return err
			}
			r.Who = operator()
			client, err := c.dial()
			if err != nil {
				return err
			}
			defer client.Close()
			if _, err := client.TransferLeadership(cmd.Context(), &r); err != nil {
				return err
			}
			if c.output == "json" {
				return c.printJSON(map[string]uint64{"leader": r.Node})
			}
			fmt.Fprintf(c.out, "node %d leads\n", r.Node)
			return nil
		},
	}
	cmd.Flags().StringVar(&r.Reason, "reason", noReason, "why, for the record")
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
				return terminal.Usagef("want exactly one member ID: see \"concord status\"")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := strconv.ParseUint(args[0], 10, 64)
			if err != nil || id == 0 {
				return terminal.Usagef("%.20q is not a member ID: see \"concord status\"", args[0])
			}
			if reason == "" {
				return terminal.Usagef("--reason is missing: say what happened to the disk, it is kept in the log")
			}
			if err := c.confirm(yes, args[0],
				fmt.Sprintf("This gives up the old disk of node %d for good.", id)); err != nil {
				return err
			}
			client, err := c.dial()
			if err != nil {
				return err
			}
			defer client.Close()
			if _, err := client.ReplaceMember(cmd.Context(),
				&concordv1.ReplaceMemberRequest{Node: id, Who: operator(), Reason: reason}); err != nil {
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
