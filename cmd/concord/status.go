// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/cmd/internal/terminal"
)

// statusJSON is the contract of "status -o json".
type statusJSON struct {
	Cluster   string         `json:"cluster"`
	Node      uint64         `json:"node"`
	Leader    uint64         `json:"leader"`
	Epoch     uint32         `json:"epoch"`
	Nodes     []nodeJSON     `json:"nodes"`
	Resources []resourceJSON `json:"resources"`
	// Known says whether the answering node knows what the leader knows. If not, that is null.
	Known     bool    `json:"known"`
	InDoubt   *uint64 `json:"in_doubt"`
	Heuristic *uint64 `json:"heuristic"`
	// Oldest is the age of the oldest transaction in doubt, empty if there is none.
	Oldest *string `json:"oldest"`
	// Incomplete says that in_doubt is "at least": a resource has not been listed yet.
	Incomplete bool     `json:"incomplete"`
	Warnings   []string `json:"warnings"`
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
	Name   string `json:"name"`
	Driver string `json:"driver"`
	// Known says whether this is what the leader knows. If not, ok and error are what the
	// answering node finds, and the rest is null.
	Known   bool    `json:"known"`
	OK      bool    `json:"ok"`
	Error   string  `json:"error"`
	InDoubt *uint64 `json:"in_doubt"`
	// Oldest is the age of the oldest branch in doubt, empty if there is none.
	Oldest   *string `json:"oldest"`
	Identity string  `json:"identity"`
	Foreign  *uint64 `json:"foreign"`
	// Listed says whether the leader has listed it. If not, in_doubt is "at least".
	Listed bool `json:"listed"`
	// OwnError is what the answering node itself finds wrong.
	OwnError string `json:"own_error"`
	// HighWater is the position in the log that the database is known to have, empty if none is.
	HighWater string `json:"high_water"`
	// Quarantine is null unless the database was set back and nobody has accepted it yet.
	Quarantine *quarantineJSON `json:"quarantine"`
}

type quarantineJSON struct {
	Has        string    `json:"has"`
	Remembered string    `json:"remembered"`
	Since      time.Time `json:"since"`
}

func quarantineOf(q *concordv1.Quarantine) *quarantineJSON {
	if q == nil {
		return nil
	}
	return &quarantineJSON{Has: q.GetHas(), Remembered: q.GetRemembered(), Since: time.UnixMilli(q.GetSinceMs()).UTC()}
}

func (c *cli) statusCommand() *cobra.Command {
	var watch bool
	var every time.Duration
	cmd := &cobra.Command{
		Use: "status", Short: "Show members, leader, lag, resources and what is in doubt", Args: terminal.NoArgs,
		Long: "Shows the cluster as seen by the node that answers, and what only the leader knows: what is in\n" +
			"doubt, and the state of the resources. Where the node has not heard of a leader for some seconds,\n" +
			"that is \"unknown here\" (JSON: null). A node that is cut off from the others says so: it shows an old\n" +
			"state. Exit code 4 if the cluster has no leader.\n" +
			"With --watch it shows this again and again until it is interrupted; with -o json, one object each time.",
		Example: "  concord status --watch --interval 1s",
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := c.dial()
			if err != nil {
				return err
			}
			defer client.Close()
			if watch {
				return c.watchStatus(cmd.Context(), client, every)
			}
			return c.showStatus(cmd.Context(), client)
		},
	}
	cmd.Flags().BoolVar(&watch, "watch", false, "repeat until interrupted")
	cmd.Flags().DurationVar(&every, "interval", 2*time.Second, "how often, with --watch")
	return cmd
}

func (c *cli) showStatus(ctx context.Context, client *api.Client) error {
	s, err := client.Status(ctx, &concordv1.StatusRequest{})
	if err != nil {
		return err
	}
	if err := c.printStatus(statusOf(s)); err != nil {
		return err
	}
	if s.GetLeader() == 0 {
		return &terminal.ExitError{Code: terminal.ExitUnavailable,
			Text: "the cluster has no leader that this node knows of: a majority of the voters must run and reach " +
				"each other"}
	}
	return nil
}

// watchStatus shows the status until ctx ends, which is no failure. What is wrong meanwhile is shown, and may pass.
func (c *cli) watchStatus(ctx context.Context, client *api.Client, every time.Duration) error {
	if every <= 0 {
		return terminal.Usagef("--interval %v: want a positive duration, such as 2s", every)
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		if terminal.IsTerminal(c.screen) && c.output == "table" {
			fmt.Fprint(c.screen, clearScreen)
		}
		if err := c.showStatus(ctx, client); err != nil && ctx.Err() == nil {
			fmt.Fprintln(c.err, "concord: "+err.Error())
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// clearScreen empties a terminal and goes to its upper left.
const clearScreen = "\x1b[H\x1b[2J"

func statusOf(s *concordv1.StatusResponse) statusJSON {
	out := statusJSON{Cluster: s.GetCluster(), Node: s.GetNode(), Leader: s.GetLeader(), Epoch: s.GetEpoch(),
		Known: s.GetKnown(),
		Nodes: []nodeJSON{}, Resources: resourcesOf(s.GetResources()), Warnings: append([]string{}, s.GetWarnings()...),
		Zxid: s.GetZxid()}
	if out.Known {
		oldest := ageMs(s.GetOldestMs())
		out.InDoubt, out.Heuristic, out.Oldest, out.Incomplete = &s.InDoubt, &s.Heuristic, &oldest, s.GetIncomplete()
	}
	out.CutOff = ageMs(s.GetCutOffMs())
	for _, n := range s.GetNodes() {
		out.Nodes = append(out.Nodes, nodeJSON{ID: n.GetId(), Role: n.GetRole(), State: n.GetState(),
			Epoch: n.GetEpoch(),
			Zxid:  n.GetZxid(), Lag: n.GetLag(), Reachable: n.GetReachable(), API: n.GetApi()})
	}
	return out
}

func resourcesOf(list []*concordv1.ResourceStatus) []resourceJSON {
	out := []resourceJSON{}
	for _, r := range list {
		j := resourceJSON{Name: r.GetName(), Driver: r.GetDriver(), Known: r.GetKnown(), OK: r.GetOk(),
			Error:    r.GetError(),
			Identity: r.GetIdentity(), Listed: r.GetListed(), OwnError: r.GetOwnError(),
			HighWater: r.GetHighWater(), Quarantine: quarantineOf(r.GetQuarantine())}
		if j.Known {
			oldest := ageMs(r.GetOldestMs())
			j.InDoubt, j.Oldest = &r.InDoubt, &oldest
		}
		if j.Listed {
			j.Foreign = &r.Foreign
		}
		out = append(out, j)
	}
	return out
}

// ageMs is empty for 0: there is nothing that has an age.
func ageMs(ms int64) string {
	if ms <= 0 {
		return ""
	}
	return terminal.Age(time.Duration(ms) * time.Millisecond)
}

// unknownHere is printed for what the answering node does not know: never a zero.
const unknownHere = "unknown here"

func countOr(n *uint64, atLeast bool) string {
	switch {
	case n == nil:
		return unknownHere
	case atLeast:
		return fmt.Sprintf("at least %d", *n)
	}
	return fmt.Sprint(*n)
}

func ageOr(oldest *string) string {
	if oldest == nil {
		return unknownHere
	}
	return terminal.OrDash(*oldest)
}

func (c *cli) printStatus(s statusJSON) error {
	if c.output == "json" {
		return c.printJSON(s)
	}
	leader := "none"
	if s.Leader != 0 {
		leader = fmt.Sprintf("node %d", s.Leader)
	}
	oldest := ""
	if s.Oldest != nil && *s.Oldest != "" {
		oldest = " (oldest " + *s.Oldest + ")"
	}
	fmt.Fprintf(c.out, "cluster %s  leader %s  epoch %d  in doubt %s%s  heuristic %s  (as node %d sees it, at zxid "+
		"%s)\n",
		terminal.OrDash(s.Cluster), leader, s.Epoch, countOr(s.InDoubt, s.Incomplete), oldest,
		countOr(s.Heuristic, false), s.Node, terminal.OrDash(s.Zxid))
	if s.CutOff != "" {
		fmt.Fprintf(c.out, "node %d has been cut off for %s: this is what it knew then\n", s.Node, s.CutOff)
	}
	fmt.Fprintln(c.out)
	var rows [][]string
	for _, n := range s.Nodes {
		rows = append(rows, []string{fmt.Sprint(n.ID), n.Role, n.State, fmt.Sprint(n.Epoch), n.Zxid, fmt.Sprint(n.Lag),
			terminal.YesNo(n.Reachable), n.API})
	}
	if err := terminal.PrintTable(c.out, []string{"NODE", "ROLE", "STATE", "EPOCH", "ZXID", "LAG", "REACHABLE", "API"},
		rows); err != nil {
		return err
	}
	if len(s.Resources) > 0 {
		fmt.Fprintln(c.out)
		if err := c.printResources(s.Resources); err != nil {
			return err
		}
	}
	for _, w := range s.Warnings {
		c.warn(w)
	}
	return nil
}

func (c *cli) printResources(resources []resourceJSON) error {
	var rows [][]string
	for _, r := range resources {
		ok, why := terminal.YesNo(r.OK), r.Error
		if !r.Known {
			ok = unknownHere
		}
		if r.Quarantine != nil {
			ok = "quarantined"
		}
		if r.OwnError != "" && r.OwnError != r.Error {
			why = strings.TrimPrefix(why+"; here: "+r.OwnError, "; ")
		}
		rows = append(rows, []string{r.Name, r.Driver, ok, countOr(r.InDoubt, !r.Listed), ageOr(r.Oldest),
			countOr(r.Foreign, false), terminal.OrDash(r.Identity), terminal.OrDash(why)})
	}
	return terminal.PrintTable(c.out, []string{"RESOURCE", "DRIVER", "OK", "IN DOUBT", "OLDEST", "FOREIGN", "IDENTITY",
		"ERROR"}, rows)
}

// The exit codes of checks are those that monitoring systems of the Nagios family agree on.
const (
	checkOK = iota
	checkWarning
	checkCritical
	checkUnknown
)

func (c *cli) checkCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "check", Short: "Answer monitoring systems", Args: terminal.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	var warn, crit time.Duration
	inDoubt := &cobra.Command{
		Use: "in-doubt", Short: "Check that nothing stays in doubt, for Nagios and the like", Args: terminal.NoArgs,
		Long: "Prints one line, with performance data, and exits with the codes of Nagios: 0 OK, 1 WARNING,\n" +
			"2 CRITICAL, 3 UNKNOWN. A heuristic outcome that nobody has dealt with is critical, too. Unknown\n" +
			"means that no node answers, or the node that does has not heard of a leader for some seconds.",
		Example: "  concord check in-doubt --warn 30s --crit 5m",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if warn <= 0 || crit < warn {
				return &terminal.ExitError{Code: checkUnknown, Text: "--warn must be above 0 and --crit not below " +
					"it: try --warn 30s --crit 5m"}
			}
			client, err := c.dial()
			if err != nil {
				return &terminal.ExitError{Code: checkUnknown, Text: err.Error()}
			}
			defer client.Close()
			s, err := client.Status(cmd.Context(), &concordv1.StatusRequest{})
			if err != nil {
				fmt.Fprintf(c.out, "CONCORD UNKNOWN - %s\n", terminal.Cell(err.Error()))
				return &terminal.ExitError{Code: checkUnknown}
			}
			code, line := checkInDoubt(s, warn, crit)
			fmt.Fprintln(c.out, line)
			if code != checkOK {
				return &terminal.ExitError{Code: code}
			}
			return nil
		},
	}
	inDoubt.Flags().DurationVar(&warn, "warn", 30*time.Second, "warn of anything in doubt for this long")
	inDoubt.Flags().DurationVar(&crit, "crit", 5*time.Minute, "and call it critical after this long")
	cmd.AddCommand(inDoubt)
	return cmd
}

// checkInDoubt judges what a node knows, and says so in a line as plug-ins of Nagios print it.
func checkInDoubt(s *concordv1.StatusResponse, warn, crit time.Duration) (code int, line string) {
	if !s.GetKnown() {
		return checkUnknown, "CONCORD UNKNOWN - the node has not heard of a leader: see \"concord status\""
	}
	oldest := time.Duration(s.GetOldestMs()) * time.Millisecond
	text := fmt.Sprintf("%d in doubt, the oldest for %s, %d heuristic", s.GetInDoubt(), terminal.Age(oldest),
		s.GetHeuristic())
	if s.GetIncomplete() {
		text += ", at least: a resource has not been listed yet"
	}
	word := "OK"
	switch {
	case s.GetHeuristic() > 0:
		code, word, text = checkCritical, "CRITICAL", text+": see \"concord tx ls --state heuristic\""
	case oldest >= crit:
		code, word, text = checkCritical, "CRITICAL", text+": see \"concord tx ls --state in-doubt\""
	case oldest >= warn:
		code, word, text = checkWarning, "WARNING", text+": see \"concord tx ls --state in-doubt\""
	}
	return code, fmt.Sprintf("CONCORD %s - %s | in_doubt=%d oldest=%.3fs;%.0f;%.0f heuristic=%d", word, text,
		s.GetInDoubt(), oldest.Seconds(), warn.Seconds(), crit.Seconds(), s.GetHeuristic())
}
