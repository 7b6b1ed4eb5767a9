// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/cmd/internal/terminal"
)

// completeWithin bounds how long a shell waits for the cluster, and completeMost how many it is offered.
const (
	completeWithin = 2 * time.Second
	completeMost   = 50
)

// complete offers the values of a flag.
func complete(cmd *cobra.Command, flag string, values []string) {
	mustComplete(cmd, flag, func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return values, cobra.ShellCompDirectiveNoFileComp
	})
}

// completeFlag offers for a flag what the cluster knows.
func (c *cli) completeFlag(cmd *cobra.Command, flag string, ask func(context.Context, *api.Client) []string) {
	mustComplete(cmd, flag, func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return c.ask(ask), cobra.ShellCompDirectiveNoFileComp
	})
}

func mustComplete(cmd *cobra.Command, flag string, f cobra.CompletionFunc) {
	if err := cmd.RegisterFlagCompletionFunc(flag, f); err != nil {
		panic(err) // there is no such flag
	}
}

// completeFirst offers for the only argument of a command what the cluster knows.
func (c *cli) completeFirst(ask func(context.Context, *api.Client) []string) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return c.ask(ask), cobra.ShellCompDirectiveNoFileComp
	}
}

// ask asks the cluster. A shell cannot show what is wrong, so nothing is offered then.
func (c *cli) ask(ask func(context.Context, *api.Client) []string) []string {
	ctx, cancel := context.WithTimeout(context.Background(), completeWithin)
	defer cancel()
	client, err := c.dial()
	if err != nil {
		return nil
	}
	defer client.Close()
	return ask(ctx, client)
}

// gids are those of the newest transactions, with state and label for the shells that show them.
func (c *cli) gids(ctx context.Context, client *api.Client) (offered []string) {
	list, err := client.List(ctx, &concordv1.ListRequest{Limit: completeMost})
	if err != nil {
		return nil
	}
	for _, x := range list.GetTransactions() {
		offered = append(offered, cobra.CompletionWithDesc(x.GetGid(), terminal.Cell(x.GetState()+" "+x.GetLabel())))
	}
	return offered
}

func (c *cli) resourceNames(ctx context.Context, client *api.Client) (offered []string) {
	res, err := client.Resources(ctx, &concordv1.ResourcesRequest{})
	if err != nil {
		return nil
	}
	for _, r := range res.GetResources() {
		offered = append(offered, cobra.CompletionWithDesc(r.GetName(), r.GetDriver()))
	}
	return offered
}
