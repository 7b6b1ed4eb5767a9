// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/concordtx/concord/api"
	"github.com/concordtx/concord/api/member"
	"github.com/concordtx/concord/cmd/internal/config"
	"github.com/concordtx/concord/cmd/internal/terminal"
	"github.com/concordtx/concord/internal/spans"
	"github.com/concordtx/concord/participant"
	"github.com/concordtx/concord/participant/service"
	"github.com/concordtx/concord/security"
)

func (c *cli) agentCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use: "agent [--config FILE]", Short: "Run an agent, which holds branches on behalf of others",
		Args: terminal.NoArgs,
		Long: "Runs an agent until it is interrupted. It sits next to its databases, opens branches in them,\n" +
			"executes statements, votes, and ends branches as the cluster decides: for programs in any language,\n" +
			"over HTTP with JSON or gRPC. It keeps a journal in \"data_dir\": after a crash it finishes what was\n" +
			"prepared, as the coordinators decide, and rolls back the rest.\n\n" +
			"Each agent has its own name and data_dir. The journal must not be restored from a backup.\n" +
			"A branch that hears nothing for \"silence\" (default 1m) is rolled back; at most \"max_open\" (64)\n" +
			"are open. \"scan\" (5s) is how often the databases are asked for prepared branches. \"advertise\" is\n" +
			"where coordinators and other agents find this one, if not at \"listen\": in three-phase transactions\n" +
			"they talk to each other.\n\n" +
			"Every key can also be set in the environment, which overrides the file, and some by flags,\n" +
			"which override both; there, lists are YAML or JSON.\n" +
			"All variables: " + strings.Join(config.AgentProgram.Variables(), ", ") + ".\n\n" +
			"Example of FILE:\n\n" + indent(config.AgentExample) + "\n\n" +
			"Ask it who it is:\n\n" +
			"  curl -H 'Content-Type: application/json' -d '{}' \\\n" +
			"    http://127.0.0.1:7430/concord.v1.ParticipantService/Describe",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" && os.Getenv(config.AgentProgram.Variable("resources")) == "" {
				return terminal.Usagef("--config is missing, and %s is not set: an example is in \"concord agent "+
					"--help\"", config.AgentProgram.Variable("resources"))
			}
			conf, err := config.LoadAgent(file, cmd.Flags())
			if err != nil {
				return &terminal.ExitError{Code: terminal.ExitUsage, Text: err.Error()}
			}
			log, _, err := newLogger(c.err, conf.Log.Level, conf.Log.Format)
			if err != nil {
				return err
			}
			return runAgent(cmd.Context(), conf, log)
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "the agent's configuration file")
	cmd.Flags().String("name", "", "the agent's name")
	cmd.Flags().String("data-dir", "", "directory of the agent's journal")
	cmd.Flags().String("listen", "127.0.0.1:7430", "address that the agent serves at")
	cmd.Flags().String("certs-dir", "", "directory of the agent's certificate and key (\"concord cert\" makes them)")
	cmd.Flags().Bool("insecure", false, "serve others without asking who they are")
	cmd.Flags().String("log-level", "info", "debug, info, warn or error")
	cmd.Flags().String("log-format", "text", "text or json")
	return cmd
}

// runAgent runs an agent from bottom to top: databases, listener, journal, service.
func runAgent(ctx context.Context, conf *config.Agent, log *slog.Logger) (err error) {
	doors, err := conf.Doors().Open(log)
	if err != nil {
		return &terminal.ExitError{Code: terminal.ExitUsage, Text: err.Error()}
	}
	traces, err := spans.Open(spans.Config{Endpoint: conf.Tracing.Endpoint, Service: "concord-agent",
		Instance: conf.Name, Log: log})
	if err != nil {
		return &terminal.ExitError{Code: terminal.ExitUsage, Text: err.Error()}
	}
	databases, err := config.OpenHosted(ctx, conf.Resources, conf.MaxOpen)
	defer func() {
		for _, d := range databases {
			err = errors.Join(err, d.Close())
		}
	}()
	if err != nil {
		return err
	}
	coordinators, err := api.Dial(conf.Coordinators,
		api.ClientOptions{Credentials: security.ByCertificate(doors.Keys), Logger: log})
	if err != nil {
		return err
	}
	defer coordinators.Close()
	l, err := net.Listen("tcp", conf.Listen)
	if err != nil {
		return fmt.Errorf("listen: %w: choose another address, or stop the process that uses it", err)
	}
	defer l.Close()
	post := member.NewPost(doors.Keys)
	defer post.Close()
	agent, err := participant.Open(participant.Config{
		Addr: advertised(conf.Advertise, l.Addr()), Deliver: service.Deliver(coordinators, post),
		Name: conf.Name, DataDir: conf.DataDir, Databases: databases, Cluster: service.Cluster(coordinators),
		Rules: participant.Rules{MaxOpen: conf.MaxOpen, Silence: conf.Silence}, Scan: conf.Scan, Logger: log,
	})
	if err != nil {
		return err
	}
	life := agent.Life()
	log.Info("agent started", "name", conf.Name, "addr", l.Addr().String(), "journal", life.Journal.String(), "epoch",
		uint32(life.Epoch), "data_dir", conf.DataDir)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return agent.Run(ctx) })
	g.Go(func() error { return service.Serve(ctx, agent, doors.Guard, l, traces, log) })
	err = traces.While(g.Wait)
	log.Info("agent stopped", "name", conf.Name)
	return err
}

// advertised is where others find an agent: where it listens, unless that says nothing to them; then
// it is empty, and they look where the application does.
func advertised(configured string, listens net.Addr) string {
	if configured != "" {
		return configured
	}
	if a, ok := listens.(*net.TCPAddr); ok && a.IP.IsUnspecified() {
		return ""
	}
	return listens.String()
}
