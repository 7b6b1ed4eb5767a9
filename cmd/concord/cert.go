// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/concordtx/concord/cmd/internal/terminal"
	"github.com/concordtx/concord/security"
)

const certHelp = `Makes the certificates by which the nodes, agents and clients of a cluster identify each other.
These four commands make all that a cluster of three nodes on one machine needs:

  concord cert create-ca --cluster shop
  concord cert create-node 1 2 3 --host localhost --host 127.0.0.1
  concord cert create-agent east --host localhost --host 127.0.0.1
  concord cert create-client billing-app alice

Nodes and agents find the directory through "certs_dir" in their configuration, everybody else
through --certs-dir or CONCORD_CERTS_DIR. "auth.grants" in the configuration of the nodes says what
a client may do.

Each machine needs ca.crt and its own pair, and nothing else. Whoever has ca.key can pose as anybody:
keep it away from the nodes. A replaced certificate takes effect within seconds, without a restart.
To change the authority, run create-ca again with another --ca-key: ca.crt then holds both, and the
old one can be removed from it once everybody has a certificate from the new one.`

const createAllHelp = `Makes the authority and certificates that do not exist yet: for programs that set up a
cluster and may be run again.

  concord cert create-all --cluster shop --node 1=10.0.0.1 --node 2=10.0.0.2 --node 3=10.0.0.3 \
    --agent east=10.0.0.7 --client billing-app --client alice`

// certDir is where certificates are made if nothing else is said.
const certDir = "certs"

func (c *cli) certCommand() *cobra.Command {
	var caKey string
	cmd := &cobra.Command{Use: "cert", Short: "Make the certificates of a cluster", Long: certHelp,
		Args: terminal.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return terminal.Usagef("say what to make: \"concord cert --help\" shows it")
		}}
	cmd.PersistentFlags().StringVar(&caKey, "ca-key", "ca.key", "the authority's key: keep it away from the nodes")
	cmd.AddCommand(c.certCreateCA(&caKey), c.certCreate(security.Node, &caKey), c.certCreate(security.Agent, &caKey),
		c.certCreate(security.Client, &caKey), c.certCreateAll(&caKey), c.certRevoke(&caKey), c.certLs())
	return cmd
}

func (c *cli) dir() security.Dir {
	if c.who.CertsDir == "" {
		return certDir
	}
	return security.Dir(c.who.CertsDir)
}

func (c *cli) certCreateCA(caKey *string) *cobra.Command {
	var cluster string
	var lifetime time.Duration
	var overwrite bool
	cmd := &cobra.Command{Use: "create-ca --cluster NAME", Short: "Make an authority", Args: terminal.NoArgs,
		Long: "Makes the authority of a cluster: ca.crt in the directory of certificates, and its key where " +
			"--ca-key\nsays. Every node, agent and client needs ca.crt; the key makes new certificates, so keep it " +
			"elsewhere,\nand give it to nobody.",
		RunE: func(*cobra.Command, []string) error {
			if _, err := security.NewAuthority(c.dir(), *caKey, cluster, lifetime, overwrite); err != nil {
				return certError(err)
			}
			fmt.Fprintf(c.out, "%s and %s\n", filepath.Join(string(c.dir()), "ca.crt"), *caKey)
			return nil
		}}
	cmd.Flags().StringVar(&cluster, "cluster", "concord",
		"the name of the cluster: certificates of other clusters are not accepted")
	cmd.Flags().DurationVar(&lifetime, "lifetime", security.AuthorityLifetime, "how long the authority is trusted")
	cmd.Flags().BoolVar(&overwrite, "overwrite", false, "replace the key of an existing authority")
	return cmd
}

func (c *cli) certCreate(k security.Kind, caKey *string) *cobra.Command {
	var hosts []string
	var lifetime time.Duration
	var overwrite bool
	what := map[security.Kind]string{security.Node: "ID...", security.Agent: "NAME...", security.Client: "NAME..."}[k]
	if k != security.Client {
		what += " --host NAME"
	}
	cmd := &cobra.Command{Use: "create-" + string(k) + " " + what, Short: "Make the certificate of a " + string(k),
		Long: "Makes a key pair for each name, in the directory of certificates, and prints the files. Whoever has " +
			"the\nkey is that " + string(k) + " to the cluster: carry it to its machine and delete it here.",
		RunE: func(cmd *cobra.Command, names []string) error {
			if len(names) == 0 {
				return terminal.Usagef("say whose certificate it is: %s", cmd.UseLine())
			}
			a, err := security.OpenAuthority(c.dir(), *caKey)
			if err != nil {
				return certError(err)
			}
			for _, name := range names {
				path, err := a.Issue(c.dir(), k, name, hosts, lifetime, overwrite)
				if err != nil {
					return certError(err)
				}
				fmt.Fprintf(c.out, "%s and %s\n", path, strings.TrimSuffix(path, ".crt")+".key")
			}
			return nil
		}}
	if k != security.Client {
		cmd.Flags().StringSliceVar(&hosts, "host", nil,
			"a name or an address at which it is reached; may be given more than once")
	}
	cmd.Flags().DurationVar(&lifetime, "lifetime", security.CertificateLifetime, "for how long it is valid")
	cmd.Flags().BoolVar(&overwrite, "overwrite", false, "replace an existing one; running processes pick it up")
	return cmd
}

func (c *cli) certCreateAll(caKey *string) *cobra.Command {
	var cluster string
	var hosts, nodes, agents, clients []string
	cmd := &cobra.Command{Use: "create-all", Short: "Make whatever is missing from a list, and leave the rest alone",
		Args: terminal.NoArgs,
		Long: createAllHelp,
		RunE: func(*cobra.Command, []string) error {
			a, err := security.OpenAuthority(c.dir(), *caKey)
			if errors.Is(err, fs.ErrNotExist) {
				a, err = security.NewAuthority(c.dir(), *caKey, cluster, security.AuthorityLifetime, false)
			}
			if err != nil {
				return certError(err)
			}
			for _, list := range []struct {
				kind  security.Kind
				names []string
			}{{security.Node, nodes}, {security.Agent, agents}, {security.Client, clients}} {
				for _, entry := range list.names {
					name, own, _ := strings.Cut(entry, "=")
					reached := hosts
					if own != "" {
						reached = append([]string{own}, hosts...)
					}
					if list.kind == security.Client {
						reached = nil
					}
					path, err := a.Issue(c.dir(), list.kind, name, reached, security.CertificateLifetime, false)
					if errors.Is(err, fs.ErrExist) {
						continue
					}
					if err != nil {
						return certError(err)
					}
					fmt.Fprintln(c.out, path)
				}
			}
			return nil
		}}
	cmd.Flags().StringVar(&cluster, "cluster", "concord", "the name of the cluster, if it has no authority yet")
	cmd.Flags().StringSliceVar(&hosts, "host", nil,
		"a name or an address at which all nodes and agents are reached, besides their own")
	cmd.Flags().StringSliceVar(&nodes, "node", nil, "ID=HOST of a node")
	cmd.Flags().StringSliceVar(&agents, "agent", nil, "NAME=HOST of an agent")
	cmd.Flags().StringSliceVar(&clients, "client", nil, "NAME of a client")
	return cmd
}

func (c *cli) certRevoke(caKey *string) *cobra.Command {
	return &cobra.Command{Use: "revoke FILE.crt...",
		Short: "Add certificates to ca.crl, the list of those that are not accepted",
		Long: "Adds certificates to ca.crl. Put the file beside ca.crt on each node and agent: they pick it\n" +
			"up within seconds, and close the connections of everyone on it.",
		RunE: func(cmd *cobra.Command, files []string) error {
			if len(files) == 0 {
				return terminal.Usagef("say which certificates: %s", cmd.UseLine())
			}
			a, err := security.OpenAuthority(c.dir(), *caKey)
			if err == nil {
				err = a.Revoke(c.dir(), files...)
			}
			if err != nil {
				return certError(err)
			}
			fmt.Fprintln(c.out, filepath.Join(string(c.dir()), "ca.crl"))
			return nil
		}}
}

func (c *cli) certLs() *cobra.Command {
	return &cobra.Command{Use: "ls", Short: "Show the certificates in a directory", Args: terminal.NoArgs,
		Long: "Shows each certificate in the directory: whose it is, until when it is valid, and whether it is\n" +
			"revoked. Needs no cluster and changes nothing.",
		RunE: func(*cobra.Command, []string) error {
			list, err := c.dir().List()
			if err != nil {
				return certError(err)
			}
			if c.output == "json" {
				return c.printJSON(list)
			}
			var rows [][]string
			for _, x := range list {
				rows = append(rows, []string{x.File, x.Identity, x.Ends.Format(time.DateOnly),
					strings.Join(x.Hosts, ", "), x.State})
			}
			return terminal.PrintTable(c.out, []string{"FILE", "IDENTITY", "ENDS", "HOSTS", "STATE"}, rows)
		}}
}

// certError is that of whoever typed the command, unless the machine is at fault.
func certError(err error) error {
	if path := (*fs.PathError)(nil); errors.As(err, &path) && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err,
		fs.ErrExist) {
		return err
	}
	return &terminal.ExitError{Code: terminal.ExitUsage, Text: err.Error()}
}
