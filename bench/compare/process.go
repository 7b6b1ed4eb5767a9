// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const stopTimeout = 10 * time.Second

// processes are the nodes of one system.
type processes struct {
	dir  string
	list []*process
}

type process struct {
	cmd   *exec.Cmd
	log   string
	ended chan struct{}
}

// newProcesses makes a folder for a system.
func newProcesses(dir, system string) (*processes, error) {
	p := &processes{dir: filepath.Join(dir, system)}
	return p, os.Mkdir(p.dir, 0o700)
}

func (p *processes) start(program string, args ...string) error {
	one := &process{log: filepath.Join(p.dir, fmt.Sprintf("node%d.log", len(p.list)+1)), ended: make(chan struct{})}
	log, err := os.Create(one.log)
	if err != nil {
		return err
	}
	defer log.Close()
	one.cmd = exec.Command(program, args...)
	one.cmd.Dir, one.cmd.Stdout, one.cmd.Stderr = p.dir, log, log
	one.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl+C is for us
	if err := one.cmd.Start(); err != nil {
		return err
	}
	p.list = append(p.list, one)
	go func() {
		_ = one.cmd.Wait() // its log says how it ended
		close(one.ended)
	}()
	return nil
}

// died returns the end of the log of a process that has ended by itself, or nothing.
func (p *processes) died() string {
	for _, one := range p.list {
		select {
		case <-one.ended:
			b, err := os.ReadFile(one.log)
			if err != nil {
				return err.Error()
			}
			return "(" + one.log + ") " + strings.TrimSpace(string(b[max(0, len(b)-2000):]))
		default:
		}
	}
	return ""
}

func (p *processes) stop() error {
	var errs []error
	for _, one := range p.list {
		if err := one.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
			errs = append(errs, err)
		}
	}
	deadline := time.After(stopTimeout)
	for _, one := range p.list {
		select {
		case <-one.ended:
			continue
		case <-deadline:
		}
		_ = one.cmd.Process.Kill() // gone, perhaps
		<-one.ended
		deadline = time.After(stopTimeout)
	}
	return errors.Join(errs...)
}

// freeAddrs returns n addresses of this machine that nobody uses.
func freeAddrs(n int) (addrs []string, err error) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close() // when all are known
		addrs = append(addrs, l.Addr().String())
	}
	return addrs, nil
}

// build compiles a command of a module whose folder is here into dir.
func build(module, command, dir, name string) (program string, err error) {
	program = filepath.Join(dir, name)
	cmd := exec.Command("go", "build", "-o", program, command)
	cmd.Dir = module
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build %s: %w\n%s(run this program in its own folder, bench/compare)", command, err,
			out)
	}
	return program, nil
}
