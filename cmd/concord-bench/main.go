// SPDX-License-Identifier: Apache-2.0

// Command concord-bench measures concord on one machine, against a baseline in the same run. It
// runs the nodes as processes of the program concord.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/concordtx/concord/cmd/internal/terminal"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	var err error
	if order := os.Getenv(doomedEnv); order != "" {
		err = runDoomed(ctx, order, os.Stdin, os.Stdout)
	} else {
		err = newRoot(os.Stdout, os.Stderr).ExecuteContext(ctx)
	}
	stop()
	if err != nil {
		fmt.Fprintln(terminal.Harmless(os.Stderr), "concord-bench: "+err.Error())
		os.Exit(terminal.ExitCode(err))
	}
}

// cli is what all commands share.
type cli struct {
	out, err io.Writer // harmless
	output   string
	concord  string // the program of the nodes; empty: to be found
}

func newRoot(out, errw io.Writer) *cobra.Command {
	c := &cli{out: terminal.Harmless(out), err: terminal.Harmless(errw)}
	root := &cobra.Command{
		Use: "concord-bench", Short: "Measure concord, against a baseline in the same run", Args: terminal.NoArgs,
		Long: "Measures concord with three node processes on this machine. Figures of different machines,\n" +
			"or of different runs on a busy one, cannot be compared: the ratio to a baseline of the same\n" +
			"run can.",
		SilenceErrors: true, SilenceUsage: true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if c.output != "table" && c.output != "json" {
				return terminal.Usagef("--output: %q is neither table nor json", c.output)
			}
			return nil
		},
	}
	root.SetOut(out)
	root.SetErr(errw)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return terminal.Usagef("%v: see \"%s --help\"", err, cmd.CommandPath())
	})
	flags := root.PersistentFlags()
	flags.StringVarP(&c.output, "output", "o", "table", "table or json")
	flags.StringVar(&c.concord, "concord", "",
		"the program concord, which the nodes run (default: the one beside this program, or else in PATH)")
	root.AddCommand(c.transferCommand(), c.decisionsCommand(), c.failoverCommand(), c.historyCommand(),
		c.doorsCommand(), c.drivenCommand(), c.recoveryCommand())
	return root
}
