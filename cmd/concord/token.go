// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/concordtx/concord/cmd/internal/terminal"
	"github.com/concordtx/concord/security"
)

// #nosec G101 -- a text about tokens
const tokenHelp = `Manages the file of tokens that nodes read ("auth.tokens" in their configuration). A token is for
those who cannot have a certificate: it says who they are, and "auth.grants" says what they may do.

  concord token create ci --tokens tokens --out ci.token
  concord status --certs-dir certs --token-file ci.token

The file holds only the hashes of tokens. Copy it to each node: they read it again within seconds.
To replace a token, create a second one, hand it out, and revoke the first.`

// tokenLifetime is how long a token is good for if nothing else is said.
const tokenLifetime = 90 * 24 * time.Hour

func (c *cli) tokenCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{Use: "token", Short: "Make and revoke tokens", Long: tokenHelp, Args: terminal.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return terminal.Usagef("say what to do: \"concord token --help\" shows it")
		}}
	cmd.PersistentFlags().StringVar(&file, "tokens", "tokens", "the file of tokens")
	cmd.AddCommand(c.tokenCreate(&file), c.tokenLs(&file), c.tokenRevoke(&file))
	return cmd
}

func (c *cli) tokenCreate(file *string) *cobra.Command {
	var out string
	var lifetime time.Duration
	cmd := &cobra.Command{Use: "create SUBJECT", Short: "Make a token",
		Long: "Makes a token for a subject and prints it, or writes it where --out says. The file of tokens keeps " +
			"only\nits hash, so it is shown this once. Nodes read the file again within ten seconds; what the token " +
			"may do is\nwhat \"auth.grants\" says of its subject.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return terminal.Usagef("want exactly one subject, for example: %s ci", cmd.CommandPath())
			}
			if out != "" {
				if _, err := os.Lstat(out); err == nil {
					return terminal.Usagef("--out: %s exists already: choose another name", out)
				}
			}
			token, e, err := security.CreateToken(*file, args[0], lifetime)
			if err != nil {
				return certError(err)
			}
			if out == "" {
				fmt.Fprintln(c.out, token)
				return nil
			}
			if err := os.WriteFile(out, []byte(token+"\n"), 0o600); err != nil {
				return err
			}
			fmt.Fprintf(c.out, "%s: token %s of %s, until %s\n", out, e.ID, e.Subject, e.Expires.Format(time.RFC3339))
			return nil
		}}
	cmd.Flags().StringVar(&out, "out", "",
		"write the token there instead of printing it; only you can read the file")
	cmd.Flags().DurationVar(&lifetime, "lifetime", tokenLifetime, "for how long it is valid")
	return cmd
}

func (c *cli) tokenLs(file *string) *cobra.Command {
	return &cobra.Command{Use: "ls", Short: "Show the tokens in a file", Args: terminal.NoArgs,
		Long: "Shows id, subject and end of each token in the file, never the token itself. Changes nothing.",
		RunE: func(*cobra.Command, []string) error {
			list, err := security.ReadTokens(*file)
			if err != nil {
				return certError(err)
			}
			if c.output == "json" {
				return c.printJSON(list)
			}
			var rows [][]string
			for _, e := range list {
				state := "valid"
				if e.Expired(time.Now()) {
					state = "expired"
				}
				rows = append(rows, []string{e.ID, e.Subject, e.Expires.Format(time.RFC3339), state})
			}
			return terminal.PrintTable(c.out, []string{"ID", "SUBJECT", "EXPIRES", "STATE"}, rows)
		}}
}

func (c *cli) tokenRevoke(file *string) *cobra.Command {
	return &cobra.Command{Use: "revoke ID", Short: "Remove a token from a file",
		Long: "Removes a token from the file. Nodes read the file again within ten seconds, and refuse it from then " +
			"on.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return terminal.Usagef("want exactly one id of a token: \"concord token ls\" shows them")
			}
			if err := security.RevokeToken(*file, args[0]); err != nil {
				return certError(err)
			}
			return nil
		}}
}
