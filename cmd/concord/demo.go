// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/cmd/concord/demo"
	"github.com/concordtx/concord/cmd/internal/terminal"
)

func (c *cli) demoCommand() *cobra.Command {
	var o demo.Options
	cmd := &cobra.Command{
		Use: "demo", Short: "Run three nodes and three banks, move money and kill leaders, in one process",
		Args: terminal.NoArgs,
		Long: "Starts three coordinator nodes in this process, moves money between banks in transactions over\n" +
			"two of them, stops the leader without warning now and then, and checks at the end that no money\n" +
			"was created or lost and nothing is in doubt. The banks are embedded key-value stores in a temporary\n" +
			"directory or, with --config, the databases under \"resources\" in FILE, where a table\n" +
			"concord_demo_account is created.\n\n" +
			"With --protocol two_phase or three_phase each bank is behind an agent of its own; with last_resource\n" +
			"the second bank of each transfer decides it, by its own commit. With --kill-coordinators all nodes die\n" +
			"together, once, instead of leaders: in three phases the agents finish what they voted for among\n" +
			"themselves, in two it stays in doubt until the nodes are back. The exit code is 0 only if the sum\n" +
			"is right and nothing is in doubt.",
		Example: "  concord demo\n  concord demo --protocol three_phase --kill-coordinators\n  concord demo " +
			"--transfers 20000 --workers 32 --kill-leader 5 -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.Transfers < 1 || o.Workers < 1 || o.Kills < 0 {
				return terminal.Usagef("--transfers and --workers are at least 1, --kill-leader at least 0")
			}
			switch {
			case o.Protocol != "" && o.Protocol != concord.TwoPhase && o.Protocol != concord.ThreePhase &&
				o.Protocol != demo.LastResource:
				return terminal.Usagef("--protocol is %q: want %s, %s or %s", o.Protocol, concord.TwoPhase,
					concord.ThreePhase, demo.LastResource)
			case o.Protocol != "" && o.Protocol != demo.LastResource && o.Config != "":
				return terminal.Usagef("--protocol is for banks behind agents of this process, and --config for " +
					"databases that it reaches itself: leave one of them out")
			case o.KillCoordinators && (o.Protocol == "" || o.Protocol == demo.LastResource):
				return terminal.Usagef("--kill-coordinators shows what agents do: add --protocol %s or %s, too",
					concord.ThreePhase, concord.TwoPhase)
			}
			o.In, o.Out, o.Err, o.Screen, o.JSON = c.in, c.out, c.err, c.screen, c.output == "json"
			return demo.Run(cmd.Context(), o)
		},
	}
	cmd.Flags().IntVar(&o.Transfers, "transfers", 5000, "how many transfers")
	cmd.Flags().IntVar(&o.Workers, "workers", 16, "how many at the same time")
	cmd.Flags().IntVar(&o.Kills, "kill-leader", 3, "how often the leader is stopped without warning")
	cmd.Flags().StringVar(&o.Protocol, "protocol", "",
		"put the banks behind agents, and decide in two_phase or three_phase; or last_resource, without agents")
	cmd.Flags().BoolVar(&o.KillCoordinators, "kill-coordinators", false,
		"stop all nodes at once, instead of leaders (with --protocol)")
	cmd.Flags().StringVar(&o.Config, "config", "", "a file with \"resources\" to use instead of embedded stores")
	return cmd
}
