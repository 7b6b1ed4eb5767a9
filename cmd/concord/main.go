// SPDX-License-Identifier: Apache-2.0

// Command concord is the coordinator, its command line and its demonstration in one
// binary. Run "concord help" for what it can do.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/concordtx/concord/cmd/internal/terminal"
)

func main() {
	root := newRoot(os.Stdin, os.Stdout, os.Stderr)
	if cmd, _, err := root.Find(os.Args[1:]); err == nil && (cmd.Name() == "serve" || cmd.Name() == "agent") {
		surviveSignals() // also while the program is started again
		relaxTimers()
		leaveNoCore()
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := root.ExecuteContext(ctx)
	stop()
	if err != nil {
		if text := err.Error(); text != "" {
			fmt.Fprintln(terminal.Harmless(os.Stderr), "concord: "+text)
		}
		os.Exit(terminal.ExitCode(err))
	}
}
