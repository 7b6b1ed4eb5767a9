// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/cmd/internal/config"
	"github.com/concordtx/concord/cmd/internal/terminal"
	"github.com/concordtx/concord/coordinator"
	"github.com/concordtx/concord/gateway"
	"github.com/concordtx/concord/internal/spans"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/security"
	"github.com/concordtx/concord/server"
	"github.com/concordtx/concord/txn"
)

func (c *cli) serveCommand() *cobra.Command {
	var file string
	var abandoned []string
	cmd := &cobra.Command{
		Use: "serve [--config FILE]", Short: "Run a coordinator node", Args: terminal.NoArgs,
		Long: "Runs one node of the coordinator cluster until it is interrupted. All nodes have the same\n" +
			"\"members\" and \"resources\"; three voters survive the loss of one.\n\n" +
			"Every key can also be set in the environment, which overrides the file, and some by flags,\n" +
			"which override both; without FILE, every key must be. There, lists are YAML or JSON:\n\n" +
			indent(config.EnvironmentExample) + "\n\n" +
			"All variables: " + strings.Join(config.KnownVariables(), ", ") + ".\n" +
			"A misspelt one is an error. SIGHUP makes the node read its configuration again and set the\n" +
			"log level and the grants; everything else takes effect at the next start. Certificates and tokens\n" +
			"are read again then, and within seconds when they change.\n\n" +
			"Example of FILE:\n\n" + indent(config.NodeExample) + "\n\n" +
			"A database that an agent hosts (\"concord agent\") is a resource, too:\n\n" +
			indent("- {name: ledger, driver: agent, addr: 127.0.0.1:7430}"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" && os.Getenv(config.NodeProgram.Variable("members")) == "" {
				return terminal.Usagef("--config is missing, and %s is not set: an example of both is in \"concord "+
					"serve --help\"", config.NodeProgram.Variable("members"))
			}
			load := func() (*config.Node, error) { return config.LoadNode(file, cmd.Flags()) }
			conf, err := load()
			if err != nil {
				return &terminal.ExitError{Code: terminal.ExitUsage, Text: err.Error()}
			}
			log, level, err := newLogger(c.err, conf.Log.Level, conf.Log.Format)
			if err != nil {
				return err
			}
			for _, name := range abandoned {
				if slices.ContainsFunc(conf.Resources, func(r config.Resource) bool { return r.Name == name }) {
					return terminal.Usagef("--abandon %s: it is still in the configuration: remove it there, on "+
						"all nodes", name)
				}
			}
			return serve(cmd.Context(), conf, abandoned, log, level,
				func(ctx context.Context, node *coordinator.Node, doors *config.Opened) {
					reloadOnHangup(ctx, conf, load, level, doors, node.MayDrop, log)
				})
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "the node's configuration file")
	cmd.Flags().StringSliceVar(&abandoned, "abandon", nil,
		"a resource that was removed from the configuration, whose unfinished branches are given up")
	cmd.Flags().Uint64("node", 0, "which member this node is")
	cmd.Flags().String("data-dir", "", "directory of the node's log and state")
	cmd.Flags().String("certs-dir", "", "directory of the node's certificate and key (\"concord cert\" makes them)")
	cmd.Flags().Bool("insecure", false, "serve others without asking who they are")
	cmd.Flags().String("log-level", "info", "debug, info, warn or error")
	cmd.Flags().String("log-format", "text", "text or json")
	return cmd
}

// serve runs a node from bottom to top: databases, listeners, store and log, API. reload runs
// beside it.
func serve(ctx context.Context, conf *config.Node, abandoned []string, log *slog.Logger, level *slog.LevelVar,
	reload func(context.Context, *coordinator.Node, *config.Opened)) (err error) {
	doors, err := conf.Doors().Open(log)
	if err != nil {
		return &terminal.ExitError{Code: terminal.ExitUsage, Text: err.Error()}
	}
	traces, err := spans.Open(spans.Config{Endpoint: conf.Tracing.Endpoint, Service: "concord",
		Instance: strconv.FormatUint(conf.Node, 10), Log: log})
	if err != nil {
		return &terminal.ExitError{Code: terminal.ExitUsage, Text: err.Error()}
	}
	resources, err := config.Open(ctx, conf.Resources, security.ByCertificate(doors.Keys))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, config.Close(resources)) }()
	peers, err := listen("peer", conf.Peer.Listen)
	if err != nil {
		return err
	}
	defer peers.Close()
	clients, err := listen("api", conf.API.Listen)
	if err != nil {
		return err
	}
	defer clients.Close()
	var admin *server.Admin
	if conf.Admin.Listen != "" {
		l, err := listen("admin", conf.Admin.Listen)
		if err != nil {
			return err
		}
		defer l.Close()
		admin = &server.Admin{Listener: l, Level: level}
	}
	node, err := coordinator.Open(coordinator.Config{Node: zab.NodeID(conf.Node), Members: conf.Membership(),
		DataDir: filepath.Join(conf.DataDir, "store"), Listener: peers, Keys: doors.Peers, Resources: resources,
		Rules: conf.Rules(), Abandoned: abandoned,
		Reserve: conf.Disk.ReserveMiB << 20, FeatureLevel: txn.FeatureLevel(conf.FeatureLevel), Logger: log,
		Spans:    traces,
		Warnings: func() []string { return doors.Warnings(conf.Node) }})
	if err != nil {
		return err
	}
	log.Info("node started", "node", conf.Node, "api_addr", clients.Addr().String(),
		"peer_addr", peers.Addr().String(), "data_dir", conf.DataDir)
	transactions := gateway.New(gateway.Config{Node: conf.Node, Resources: resources, Address: node.APIAddress,
		MaxOpenOf: conf.Limits.Transactions, Keys: doors.Keys, Logger: log,
		Dial: func(ctx context.Context) (*concord.Client, error) {
			return concord.Dial(ctx, conf.Addresses(clients.Addr().String()), concord.WithLogger(log),
				concord.WithCredentials(security.ByCertificate(doors.Keys)))
		}})
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return node.Run(ctx) })
	g.Go(func() error { return transactions.Run(ctx) })
	g.Go(func() error {
		return server.ServeWithAdmin(ctx, node, doors.Guard, clients, admin, log,
			transactions.Service())
	})
	g.Go(func() error { reload(ctx, node, doors); return nil })
	return traces.While(g.Wait)
}

func listen(key, addr string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("%s.listen: %w: choose another address, or stop the process that uses it", key, err)
	}
	return l, nil
}

func indent(s string) string { return "  " + strings.ReplaceAll(s, "\n", "\n  ") }
