// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// concord is driven by its own program of measurements: "concord-bench decisions".
type concord struct {
	nodes          *processes
	program, bench string
	api            []string
}

// startConcord runs three nodes with default settings.
func startConcord(ctx context.Context, dir string) (system, error) {
	p, err := newProcesses(dir, "concord")
	if err != nil {
		return nil, err
	}
	c := &concord{nodes: p}
	if c.program, err = build("../..", "./cmd/concord", p.dir, "concord"); err != nil {
		return nil, err
	}
	if c.bench, err = build("../..", "./cmd/concord-bench", p.dir, "concord-bench"); err != nil {
		return nil, err
	}
	addrs, err := freeAddrs(2 * nodeCount)
	if err != nil {
		return nil, err
	}
	c.api = addrs[:nodeCount]
	var members strings.Builder
	for i := range nodeCount {
		fmt.Fprintf(&members, "  - {id: %d, peer: %q, api: %q}\n", i+1, addrs[nodeCount+i], addrs[i])
	}
	for i := range nodeCount {
		data := filepath.Join(p.dir, fmt.Sprintf("n%d", i+1))
		text := fmt.Sprintf("node: %d\ndata_dir: %q\napi: {listen: %q}\npeer: {listen: %q}\nmembers:\n%s",
			i+1, data, addrs[i], addrs[nodeCount+i], members.String())
		err := os.WriteFile(data+".yaml", []byte(text), 0o600)
		if err == nil {
			err = p.start(c.program, "serve", "--config", data+".yaml")
		}
		if err != nil {
			return nil, errors.Join(err, c.stop())
		}
	}
	if err := await(ctx, p, c.ready); err != nil {
		return nil, errors.Join(err, c.stop())
	}
	return c, nil
}

func (c *concord) name() string { return "concord" }

// ready asks whether there is a leader.
func (c *concord) ready(ctx context.Context) error {
	var s struct {
		Leader json.Number `json:"leader"`
	}
	if err := c.command(ctx, &s, c.program, "status"); err != nil {
		return err
	}
	if s.Leader == "" || s.Leader == "0" {
		return errors.New("no leader")
	}
	return nil
}

func (c *concord) round(ctx context.Context, clients, size int, d time.Duration) (figures, error) {
	var r struct {
		PerSecond float64 `json:"per_second"`
		P50       float64 `json:"p50_ms"`
		P99       float64 `json:"p99_ms"`
		Errors    int64   `json:"errors"`
	}
	err := c.command(ctx, &r, c.bench, "decisions", "--workers", fmt.Sprint(clients), "--size", fmt.Sprint(size),
		"--duration", d.String(), "--rounds", "1")
	return figures{perSecond: r.PerSecond, p50: r.P50, p99: r.P99, errors: r.Errors}, err
}

// command runs one command of a program against the nodes and decodes its output.
func (c *concord) command(ctx context.Context, into any, program string, args ...string) error {
	cmd := exec.CommandContext(ctx, program, append(args, "--addr", strings.Join(c.api, ","), "-o", "json")...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", filepath.Base(program), strings.Join(args, " "), err,
			bytes.TrimSpace(errs.Bytes()))
	}
	return json.Unmarshal(out.Bytes(), into)
}

func (c *concord) stop() error { return c.nodes.stop() }
