// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/concordtx/concord/coordinator"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/server"
	"github.com/concordtx/concord/txn"
)

func (c *cli) serveCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use: "serve --config FILE", Short: "Run a coordinator node", Args: noArgs,
		Long: "Runs one node of the coordinator cluster until it is interrupted. All nodes have the same\n" +
			"\"members\" and \"resources\"; three voters survive the loss of one. Keys can also come from\n" +
			"the environment (CONCORD_DATA_DIR, CONCORD_API_LISTEN, ...) or, some, from flags.\n\n" +
			"Example of FILE:\n\n" + indent(configExample),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" {
				return usagef("--config is missing: an example of the file is in \"concord serve --help\"")
			}
			conf, err := loadConfig(file, cmd.Flags())
			if err != nil {
				return &exitError{exitUsage, err.Error()}
			}
			log, err := newLogger(c.err, conf.Log.Level, conf.Log.Format)
			if err != nil {
				return err
			}
			return serve(cmd.Context(), conf, log)
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "the node's configuration file")
	cmd.Flags().Uint64("node", 0, "which member this node is")
	cmd.Flags().String("data-dir", "", "where the node keeps its log and state")
	cmd.Flags().String("log-level", "info", "debug, info, warn or error")
	cmd.Flags().String("log-format", "text", "text or json")
	return cmd
}

// serve runs a node from bottom to top: databases, listeners, store and log, API.
func serve(ctx context.Context, conf *config, log *slog.Logger) (err error) {
	resources, err := openResources(ctx, conf.Resources)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeResources(resources)) }()
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
	node, err := coordinator.Open(coordinator.Config{Node: zab.NodeID(conf.Node), Members: conf.members(),
		DataDir: filepath.Join(conf.DataDir, "store"), Listener: peers, Resources: resources, Rules: conf.rules(),
		Reserve: conf.Disk.ReserveMiB << 20, FeatureLevel: txn.FeatureLevel(conf.FeatureLevel), Logger: log})
	if err != nil {
		return err
	}
	log.Info("node started", "node", conf.Node, "api", clients.Addr().String(), "peer", peers.Addr().String(), "data_dir", conf.DataDir)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return node.Run(ctx) })
	g.Go(func() error { return server.Serve(ctx, node, clients, log) })
	return g.Wait()
}

func listen(key, addr string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("%s.listen: %w: choose another address, or stop who uses it", key, err)
	}
	return l, nil
}

func indent(s string) string { return "  " + strings.ReplaceAll(s, "\n", "\n  ") }
