// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// clientsPerConnection of etcd share one: gRPC carries many calls on each.
const clientsPerConnection = 16

type etcd struct {
	nodes     *processes
	endpoints []string
}

// startEtcd runs three members with default settings, but for a larger quota, so that a
// long measurement does not end in an alarm.
func startEtcd(ctx context.Context, dir string) (system, error) {
	p, err := newProcesses(dir, "etcd")
	if err != nil {
		return nil, err
	}
	program, err := build(".", "go.etcd.io/etcd/server/v3", p.dir, "etcd")
	if err != nil {
		return nil, err
	}
	addrs, err := freeAddrs(2 * nodeCount)
	if err != nil {
		return nil, err
	}
	e := &etcd{nodes: p}
	var cluster []string
	for i := range nodeCount {
		e.endpoints = append(e.endpoints, "http://"+addrs[i])
		cluster = append(cluster, fmt.Sprintf("n%d=http://%s", i, addrs[nodeCount+i]))
	}
	for i := range nodeCount {
		peer := "http://" + addrs[nodeCount+i]
		err := p.start(program, "--name", fmt.Sprintf("n%d", i), "--data-dir",
			filepath.Join(p.dir, fmt.Sprintf("n%d", i)),
			"--listen-client-urls", e.endpoints[i], "--advertise-client-urls", e.endpoints[i],
			"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
			"--initial-cluster", strings.Join(cluster, ","), "--log-level", "warn", "--quota-backend-bytes",
			fmt.Sprint(8<<30))
		if err != nil {
			return nil, errors.Join(err, e.stop())
		}
	}
	if err := await(ctx, p, func(ctx context.Context) error { _, err := e.leader(ctx); return err }); err != nil {
		return nil, errors.Join(err, e.stop())
	}
	return e, nil
}

func (e *etcd) name() string { return "etcd" }

// leader returns the endpoint of the leader.
func (e *etcd) leader(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	c, err := clientv3.New(clientv3.Config{Endpoints: e.endpoints, DialTimeout: time.Second})
	if err != nil {
		return "", err
	}
	defer c.Close()
	for _, endpoint := range e.endpoints {
		s, err := c.Status(ctx, endpoint)
		if err != nil {
			return "", err
		}
		if s.Leader != 0 && s.Leader == s.Header.MemberId {
			return endpoint, nil
		}
	}
	return "", errors.New("no leader")
}

// round puts to the leader, which spares etcd to forward requests.
func (e *etcd) round(ctx context.Context, clients, size int, d time.Duration) (figures, error) {
	leader, err := e.leader(ctx)
	if err != nil {
		return figures{}, err
	}
	conns := make([]*clientv3.Client, (clients+clientsPerConnection-1)/clientsPerConnection)
	for i := range conns {
		c, err := clientv3.New(clientv3.Config{Endpoints: []string{leader}, DialTimeout: 5 * time.Second})
		if err != nil {
			return figures{}, err
		}
		defer c.Close()
		conns[i] = c
	}
	value := payload(size)
	return drive(ctx, clients, d, func(ctx context.Context, client int) error {
		_, err := conns[client%len(conns)].Put(ctx, fmt.Sprintf("compare/%d", client), value)
		return err
	})
}

func (e *etcd) stop() error { return e.nodes.stop() }

// payload is text that does not compress.
func payload(size int) string {
	var b strings.Builder
	for b.Len() < size {
		b.WriteString(rand.Text())
	}
	return b.String()[:size]
}
