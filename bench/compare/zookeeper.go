// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-zookeeper/zk"
)

// zookeeperJar is where the package "zookeeper" of Debian puts it; its manifest names
// the others.
const zookeeperJar = "/usr/share/java/zookeeper.jar"

// sessionTimeout of ZooKeeper's clients.
const sessionTimeout = 20 * time.Second

type zookeeper struct {
	nodes *processes
	addrs []string
}

// startZooKeeper runs three servers with the settings of the package's example.
func startZooKeeper(ctx context.Context, dir string) (system, error) {
	if _, err := os.Stat(zookeeperJar); err != nil {
		return nil, fmt.Errorf("%w: install it with \"apt-get install zookeeper\"", err)
	}
	p, err := newProcesses(dir, "zookeeper")
	if err != nil {
		return nil, err
	}
	addrs, err := freeAddrs(3 * nodeCount)
	if err != nil {
		return nil, err
	}
	z := &zookeeper{nodes: p, addrs: addrs[:nodeCount]}
	for i := range nodeCount {
		config, err := z.configure(i, addrs)
		if err == nil {
			err = p.start("java", "-cp", zookeeperJar, "-Dzookeeper.admin.enableServer=false",
				"org.apache.zookeeper.server.quorum.QuorumPeerMain", config)
		}
		if err != nil {
			return nil, errors.Join(err, z.stop())
		}
	}
	if err := await(ctx, p, func(context.Context) error { _, err := z.leader(); return err }); err != nil {
		return nil, errors.Join(err, z.stop())
	}
	return z, nil
}

// configure writes the files of one server. addrs are those for clients, for peers and
// for elections.
func (z *zookeeper) configure(server int, addrs []string) (string, error) {
	data := filepath.Join(z.nodes.dir, fmt.Sprintf("n%d", server+1))
	if err := os.Mkdir(data, 0o700); err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(data, "myid"), fmt.Append(nil, server+1), 0o600); err != nil {
		return "", err
	}
	var text strings.Builder
	fmt.Fprintf(&text, "tickTime=2000\ninitLimit=10\nsyncLimit=5\nmaxClientCnxns=0\n"+
		"dataDir=%s\nclientPort=%s\nclientPortAddress=127.0.0.1\n",
		data, port(addrs[server]))
	for i := range nodeCount {
		fmt.Fprintf(&text, "server.%d=127.0.0.1:%s:%s\n", i+1, port(addrs[nodeCount+i]), port(addrs[2*nodeCount+i]))
	}
	path := data + ".cfg"
	return path, os.WriteFile(path, []byte(text.String()), 0o600)
}

func port(addr string) string {
	_, port, _ := net.SplitHostPort(addr) // made by freeAddrs
	return port
}

func (z *zookeeper) name() string { return "zookeeper" }

// leader returns the address of the leader, when all servers serve.
func (z *zookeeper) leader() (string, error) {
	leader := ""
	for _, addr := range z.addrs {
		answer, err := fourLetters(addr, "srvr")
		switch {
		case err != nil:
			return "", err
		case strings.Contains(answer, "Mode: leader"):
			leader = addr
		case !strings.Contains(answer, "Mode: follower"):
			return "", fmt.Errorf("the server at %s does not serve yet", addr)
		}
	}
	if leader == "" {
		return "", errors.New("no leader")
	}
	return leader, nil
}

// fourLetters asks a server one of its short questions.
func fourLetters(addr, question string) (string, error) {
	conn, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(conn, question); err != nil {
		return "", err
	}
	b, err := io.ReadAll(conn)
	return string(b), err
}

// round sets nodes at the leader, which spares ZooKeeper to forward requests. Every
// client has a session of its own: one session does its requests one by one.
func (z *zookeeper) round(ctx context.Context, clients, size int, d time.Duration) (figures, error) {
	leader, err := z.leader()
	if err != nil {
		return figures{}, err
	}
	value := []byte(payload(size))
	sessions := make([]*zk.Conn, clients)
	for i := range sessions {
		c, _, err := zk.Connect([]string{leader}, sessionTimeout, zk.WithLogger(log.New(io.Discard, "", 0)))
		if err != nil {
			return figures{}, err
		}
		defer c.Close()
		sessions[i] = c
		if _, err := c.Create(path(i), value, 0, zk.WorldACL(zk.PermAll)); err != nil && !errors.Is(err,
			zk.ErrNodeExists) {
			return figures{}, fmt.Errorf("create %s: %w", path(i), err)
		}
	}
	return drive(ctx, clients, d, func(_ context.Context, client int) error {
		_, err := sessions[client].Set(path(client), value, -1)
		return err
	})
}

func path(client int) string { return fmt.Sprintf("/compare-%d", client) }

func (z *zookeeper) stop() error { return z.nodes.stop() }
