// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	concordv1 "github.com/concordtx/concord/api/concord/v1"
)

// statusJSON is the contract of "status -o json".
type statusJSON struct {
	Cluster   string         `json:"cluster"`
	Node      uint64         `json:"node"`
	Leader    uint64         `json:"leader"`
	Epoch     uint32         `json:"epoch"`
	Nodes     []nodeJSON     `json:"nodes"`
	Resources []resourceJSON `json:"resources"`
	InDoubt   uint64         `json:"in_doubt"`
	Heuristic uint64         `json:"heuristic"`
	Warnings  []string       `json:"warnings"`
	// Zxid is the position in the log that the state of the answering node reflects.
	Zxid string `json:"zxid"`
	// CutOff is for how long the node has known no leader, empty if that is not too long.
	CutOff string `json:"cut_off"`
}

type nodeJSON struct {
	ID        uint64 `json:"id"`
	Role      string `json:"role"`
	State     string `json:"state"`
	Epoch     uint32 `json:"epoch"`
	Zxid      string `json:"zxid"`
	Lag       uint64 `json:"lag"`
	Reachable bool   `json:"reachable"`
	API       string `json:"api"`
}

type resourceJSON struct {
	Name    string `json:"name"`
	Driver  string `json:"driver"`
	OK      bool   `json:"ok"`
	Error   string `json:"error"`
	InDoubt uint64 `json:"in_doubt"`
	// Oldest is the age of the oldest prepared branch, empty if there is none.
	Oldest   string `json:"oldest"`
	Identity string `json:"identity"`
	Foreign  uint64 `json:"foreign"`
}

func (c *cli) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Show members, leader, lag, resources and what is in doubt", Args: noArgs,
		Long: "Shows the cluster as the node sees it that answers. Counts of prepared branches come from\n" +
			"the leader's scans: ask the leader (--addr) for them. A node that is cut off from the others says\n" +
			"so: it shows an old state. Exit code 4 if the cluster has no leader.",
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
			if err := c.printStatus(statusOf(s)); err != nil {
				return err
			}
			if s.GetLeader() == 0 {
				return &exitError{exitUnavailable, "the cluster has no leader that this node knows of: a majority of the voters must run and reach each other"}
			}
			return nil
		},
	}
}

func statusOf(s *concordv1.StatusResponse) statusJSON {
	out := statusJSON{Cluster: s.GetCluster(), Node: s.GetNode(), Leader: s.GetLeader(), Epoch: s.GetEpoch(), InDoubt: s.GetInDoubt(),
		Heuristic: s.GetHeuristic(), Nodes: []nodeJSON{}, Resources: resourcesOf(s.GetResources()), Warnings: append([]string{}, s.GetWarnings()...), Zxid: s.GetZxid()}
	if ms := s.GetCutOffMs(); ms > 0 {
		out.CutOff = age(time.Duration(ms) * time.Millisecond)
	}
	for _, n := range s.GetNodes() {
		out.Nodes = append(out.Nodes, nodeJSON{ID: n.GetId(), Role: n.GetRole(), State: n.GetState(), Epoch: n.GetEpoch(),
			Zxid: n.GetZxid(), Lag: n.GetLag(), Reachable: n.GetReachable(), API: n.GetApi()})
	}
	return out
}

func resourcesOf(list []*concordv1.ResourceStatus) []resourceJSON {
	out := []resourceJSON{}
	for _, r := range list {
		oldest := ""
		if r.GetOldestMs() > 0 {
			oldest = age(time.Duration(r.GetOldestMs()) * time.Millisecond)
		}
		out = append(out, resourceJSON{Name: r.GetName(), Driver: r.GetDriver(), OK: r.GetOk(), Error: r.GetError(), InDoubt: r.GetInDoubt(),
			Oldest: oldest, Identity: r.GetIdentity(), Foreign: r.GetForeign()})
	}
	return out
}

func (c *cli) printStatus(s statusJSON) error {
	if c.output == "json" {
		return c.printJSON(s)
	}
	leader := "none"
	if s.Leader != 0 {
		leader = fmt.Sprintf("node %d", s.Leader)
	}
	fmt.Fprintf(c.out, "cluster %s  leader %s  epoch %d  in doubt %d  heuristic %d  (as node %d sees it, at zxid %s)\n",
		orDash(s.Cluster), leader, s.Epoch, s.InDoubt, s.Heuristic, s.Node, orDash(s.Zxid))
	if s.CutOff != "" {
		fmt.Fprintf(c.out, "node %d has been cut off for %s: this is what it knew then\n", s.Node, s.CutOff)
	}
	fmt.Fprintln(c.out)
	var rows [][]string
	for _, n := range s.Nodes {
		rows = append(rows, []string{fmt.Sprint(n.ID), n.Role, n.State, fmt.Sprint(n.Epoch), n.Zxid, fmt.Sprint(n.Lag), yesNo(n.Reachable), n.API})
	}
	if err := printTable(c.out, []string{"NODE", "ROLE", "STATE", "EPOCH", "ZXID", "LAG", "REACHABLE", "API"}, rows); err != nil {
		return err
	}
	if len(s.Resources) > 0 {
		fmt.Fprintln(c.out)
		if err := c.printResources(s.Resources); err != nil {
			return err
		}
	}
	for _, w := range s.Warnings {
		fmt.Fprintln(c.err, "warning: "+w)
	}
	return nil
}

func (c *cli) printResources(resources []resourceJSON) error {
	var rows [][]string
	for _, r := range resources {
		rows = append(rows, []string{r.Name, r.Driver, yesNo(r.OK), fmt.Sprint(r.InDoubt), orDash(r.Oldest), orDash(r.Identity), orDash(r.Error)})
	}
	return printTable(c.out, []string{"RESOURCE", "DRIVER", "OK", "IN DOUBT", "OLDEST", "IDENTITY", "ERROR"}, rows)
}
