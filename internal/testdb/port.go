// SPDX-License-Identifier: Apache-2.0

package testdb

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// Ports are taken from below the range from which Linux gives ports to clients
// (32768 and up): while a server is down, no client may get its port, least of
// all one that dials the server and would then talk to itself.
const (
	firstPort = 15000
	lastPort  = 30000
)

// port is a port number that no other process using this package takes while
// the lock on its file is held, also while no server listens on it.
type port struct {
	number int
	lock   *os.File
}

// FreePort returns a port of 127.0.0.1 that stays reserved for this test, also while
// nothing listens on it, for other servers than databases.
func FreePort(t testing.TB) int {
	t.Helper()
	p, err := reservePort()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.release)
	return p.number
}

func reservePort() (*port, error) {
	dir, err := sharedDir("ports")
	if err != nil {
		return nil, err
	}
	var lastErr error
	for range 200 {
		p, err := tryPort(dir, firstPort+rand.IntN(lastPort-firstPort))
		if err == nil {
			return p, nil
		}
		lastErr = err
	}
	return nil, fmt.Errorf("no free port on 127.0.0.1: %w", lastErr)
}

func tryPort(dir string, number int) (*port, error) {
	lock, err := os.OpenFile(filepath.Join(dir, fmt.Sprint(number)), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", number))
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	if err := listener.Close(); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return &port{number: number, lock: lock}, nil
}

// release gives the port up; the lock goes with the descriptor.
func (p *port) release() { _ = p.lock.Close() }
