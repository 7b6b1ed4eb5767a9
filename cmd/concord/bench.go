// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/concordtx/concord/cmd/internal/terminal"
)

// benchCommand says where the measurements are: they were commands of this program once.
func (c *cli) benchCommand() *cobra.Command {
	return &cobra.Command{
		Use: "bench", Hidden: true, DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error {
			line := strings.Join(append([]string{"concord-bench"}, args...), " ")
			return terminal.Usagef("the measurements are a program of their own: build it with \"make build\" and "+
				"run %q", line)
		},
	}
}
