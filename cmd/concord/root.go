// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/concordtx/concord/api"
	"github.com/concordtx/concord/cmd/internal/config"
	"github.com/concordtx/concord/cmd/internal/terminal"
	"github.com/concordtx/concord/security"
)

// cli is what all commands share.
type cli struct {
	in       io.Reader
	out, err io.Writer // harmless
	// screen and messages are what out and err write to: for who draws, or asks whether it is a terminal.
	screen, messages io.Writer
	addr             string
	who              security.Source
	output           string
	timeout          time.Duration
}

const rootHelp = `concord makes changes to several databases commit everywhere or nowhere, whatever
crashes. A cluster of coordinator nodes decides each transaction through a replicated
log; applications use the Go package, operators this command.

Try it:            concord demo
Run a node:        concord serve --config node1.yaml
Secure it:         concord cert --help
Run an agent:      concord agent --config east.yaml
Is it healthy?     concord status
What is stuck?     concord tx ls --state in-doubt
Why, and what now? concord tx get GID; concord recover

Exit codes: 0 done, 1 failed, 2 usage or confirmation needed, 3 not found,
4 unavailable (no leader, timeout), 5 refused (already decided),
6 outcome unknown or in-doubt transactions remain, 7 not known or not allowed.`

func newRoot(in io.Reader, out, errw io.Writer) *cobra.Command {
	c := &cli{in: in, out: terminal.Harmless(out), err: terminal.Harmless(errw), screen: out, messages: errw}
	root := &cobra.Command{
		Use: "concord", Short: "A distributed transaction coordinator", Long: rootHelp,
		SilenceErrors: true, SilenceUsage: true, SuggestionsMinimumDistance: 2, Args: knownCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if c.output != "table" && c.output != "json" {
				return terminal.Usagef("--output: %q is neither table nor json", c.output)
			}
			return config.CheckEnvironment(os.Environ())
		},
	}
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errw)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return terminal.Usagef("%v: see \"%s --help\"", err, cmd.CommandPath())
	})
	addr := os.Getenv("CONCORD_ADDR")
	if addr == "" {
		addr = "127.0.0.1:7420"
	}
	flags := root.PersistentFlags()
	flags.StringVar(&c.addr, "addr", addr,
		"API addresses of one or more nodes, host:port[,host:port]; any node answers and finds the leader "+
			"(CONCORD_ADDR)")
	flags.StringVar(&c.who.CertsDir, "certs-dir", os.Getenv(security.EnvCertsDir),
		"directory of ca.crt and your certificate ("+security.EnvCertsDir+")")
	flags.StringVar(&c.who.User, "user", os.Getenv(security.EnvUser),
		"whose certificate to use, if there are several ("+security.EnvUser+")")
	flags.StringVar(&c.who.TokenFile, "token-file", os.Getenv(security.EnvTokenFile),
		"a file with a token, instead of a certificate ("+security.EnvTokenFile+")")
	flags.StringVarP(&c.output, "output", "o", "table", "table or json")
	flags.DurationVar(&c.timeout, "timeout", 10*time.Second, "how long to try before giving up")
	root.AddCommand(c.demoCommand(), c.serveCommand(), c.agentCommand(), c.statusCommand(), c.checkCommand(),
		c.txCommand(), c.recoverCommand(), c.resourceCommand(), c.memberCommand(), c.leadCommand(), c.auditCommand(),
		c.certCommand(), c.tokenCommand(), c.benchCommand(), c.manCommand(), c.versionCommand())
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, cmd := range root.Commands() { // cobra's own take whatever they are given
		switch cmd.Name() {
		case "help":
			cmd.Args = knownTopic
		case "completion":
			cmd.Args, cmd.RunE = terminal.NoArgs, func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
			for _, shell := range cmd.Commands() {
				shell.Args = terminal.NoArgs
			}
		}
	}
	return root
}

// dial makes a client of the cluster that --addr names.
func (c *cli) dial() (*api.Client, error) {
	credentials, err := c.who.Open(nil)
	if err != nil {
		return nil, &terminal.ExitError{Code: terminal.ExitUsage, Text: err.Error()}
	}
	return api.Dial(strings.Split(c.addr, ","), api.ClientOptions{Credentials: credentials, Patience: c.timeout})
}

// knownCommand refuses a command that there is not, with exit code 2.
func knownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	meant := ""
	if close := cmd.SuggestionsFor(args[0]); len(close) > 0 {
		meant = fmt.Sprintf(", did you mean %q?", close[0])
	}
	return terminal.Usagef("there is no command %q%s: see \"%s --help\"", args[0], meant, cmd.CommandPath())
}

// knownTopic refuses to help with a command that there is not.
func knownTopic(cmd *cobra.Command, args []string) error {
	if found, rest, err := cmd.Root().Find(args); err != nil || len(rest) > 0 {
		return terminal.Usagef("there is no command %q: see \"%s --help\"", strings.Join(args, " "),
			found.CommandPath())
	}
	return nil
}

// gidArg is cobra's check that there is one argument, with exit code 2.
func gidArg(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return terminal.Usagef("want exactly one GID, for example: %s 01JD2M8Q4ZK3W6T9V0X5Y7ABCR", cmd.CommandPath())
	}
	return nil
}

// printJSON writes one indented JSON value.
func (c *cli) printJSON(v any) error { return terminal.PrintJSON(c.out, v) }

// warn prints one line to who looks, beside the output.
func (c *cli) warn(text string) { fmt.Fprintln(c.err, "warning: "+terminal.Cell(text)) }

// newLogger also returns the level, which may be changed later.
func newLogger(w io.Writer, level, format string) (*slog.Logger, *slog.LevelVar, error) {
	l := &slog.LevelVar{}
	if err := setLevel(l, level); err != nil {
		return nil, nil, err
	}
	options := &slog.HandlerOptions{Level: l}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(w, options)), l, nil
	}
	return slog.New(slog.NewTextHandler(w, options)), l, nil
}

func setLevel(l *slog.LevelVar, level string) error {
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return terminal.Usagef("log level %q is not debug, info, warn or error", level)
	}
	return nil
}
