// SPDX-License-Identifier: Apache-2.0

package testdb

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"
)

// process is a started server: a main process, whose children are its own too.
type process struct {
	pid      int
	done     chan struct{} // closed when the main process has ended
	watchdog *watchdog
}

// startProcess runs a command as another user, in a process group of its own so
// that a ^C at a terminal does not reach it before the test does.
func startProcess(cmd *exec.Cmd, user *account, logPath string, quick syscall.Signal, disposable string) (*process,
	error) {
	logFile, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer func() { _ = logFile.Close() }() // the server has its own descriptor

	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: user.credential}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{pid: cmd.Process.Pid, done: make(chan struct{})}
	go func() {
		// How it ended is in its log; the caller learns that it ended.
		_ = cmd.Wait()
		close(p.done)
	}()
	if p.watchdog, err = startWatchdog(p.pid, quick, disposable); err != nil {
		return nil, errors.Join(fmt.Errorf("start the watchdog: %w", err), p.kill())
	}
	return p, nil
}

func (p *process) alive() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// kill ends all processes. The main process is stopped first: it starts no
// children any more and cannot clean up after them.
func (p *process) kill() error {
	defer p.watchdog.dismiss()
	children, err := p.freeze()
	if err != nil {
		return err
	}
	if p.alive() {
		if err := signal(p.pid, syscall.SIGKILL); err != nil {
			return err
		}
	}
	for _, child := range children {
		if err := signal(child, syscall.SIGKILL); err != nil {
			return err
		}
	}
	return p.awaitEnd(children)
}

// shutdown sends a signal that ends the server in its own way, and the hard way
// if that takes too long.
func (p *process) shutdown(sig syscall.Signal) error {
	if sig == syscall.SIGKILL || !p.alive() {
		return p.kill()
	}
	children, err := childrenOf(p.pid)
	if err != nil {
		return err
	}
	if err := signal(p.pid, sig); err != nil {
		return err
	}
	if err := p.resume(); err != nil { // a paused server would not see it
		return err
	}
	select {
	case <-p.done:
		p.watchdog.dismiss()
		return p.awaitEnd(children)
	case <-time.After(stopTimeout):
		return errors.Join(fmt.Errorf("pid %d has not ended within %v of signal %v", p.pid, stopTimeout, sig), p.kill())
	}
}

// pause stops the main process and then its children, none of which can be new.
func (p *process) pause() error {
	children, err := p.freeze()
	if err != nil {
		return err
	}
	for _, child := range children {
		if err := signal(child, syscall.SIGSTOP); err != nil {
			return err
		}
	}
	return nil
}

func (p *process) resume() error {
	if !p.alive() {
		return nil
	}
	children, err := childrenOf(p.pid)
	if err != nil {
		return err
	}
	for _, pid := range append(children, p.pid) {
		if err := signal(pid, syscall.SIGCONT); err != nil {
			return err
		}
	}
	return nil
}

// freeze stops the main process and returns its children.
func (p *process) freeze() ([]int, error) {
	if !p.alive() {
		return nil, nil
	}
	if err := signal(p.pid, syscall.SIGSTOP); err != nil {
		return nil, err
	}
	deadline := time.Now().Add(stopTimeout)
	for {
		state, _, err := stat(p.pid)
		if err != nil || state == 'T' || state == 'Z' {
			break // gone, or stopped
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("pid %d does not stop", p.pid)
		}
		time.Sleep(time.Millisecond)
	}
	return childrenOf(p.pid)
}

// awaitEnd returns when the main process and these children are gone. A zombie
// is gone: it has given up its files, locks and memory.
func (p *process) awaitEnd(children []int) error {
	deadline := time.Now().Add(stopTimeout)
	select {
	case <-p.done:
	case <-time.After(stopTimeout):
		return fmt.Errorf("pid %d has not ended within %v", p.pid, stopTimeout)
	}
	for _, child := range children {
		for {
			state, _, err := stat(child)
			if err != nil || state == 'Z' || state == 'X' {
				break
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("child %d of %d has not ended within %v", child, p.pid, stopTimeout)
			}
			time.Sleep(time.Millisecond)
		}
	}
	return nil
}

// signal sends a signal; a process that is gone is no error.
func signal(pid int, sig syscall.Signal) error {
	if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("signal %v to %d: %w", sig, pid, err)
	}
	return nil
}

func childrenOf(parent int) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var children []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if _, ppid, err := stat(pid); err == nil && ppid == parent {
			children = append(children, pid)
		}
	}
	return children, nil
}

// stat reads the state letter and the parent of a process from proc(5).
func stat(pid int) (state byte, parent int, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	// The command's name in parentheses may hold anything, so count from its end.
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(fields) < 2 {
		return 0, 0, fmt.Errorf("/proc/%d/stat: %q", pid, b)
	}
	parent, err = strconv.Atoi(string(fields[1]))
	return fields[0][0], parent, err
}

// watchdog is a small shell that ends the server when this process dies without
// doing so. It reads from a pipe that only this process writes to: a line means
// that the server has ended, an end of file that this process has. (Linux's
// parent-death signal would be shorter, but it fires when the thread that
// started the server ends, and Go's threads do.)
type watchdog struct {
	cmd  *exec.Cmd
	pipe io.WriteCloser
}

// $1 server, $2 signal, $3 folder to remove or nothing. PostgreSQL ends its
// children itself on SIGQUIT, the stopped ones after five seconds.
const watchdogScript = `read -r line && exit 0
kill -s "$2" "$1"; kill -s CONT "$1"
n=0
while kill -s 0 "$1" && [ $n -lt 100 ]; do n=$((n+1)); sleep 0.1; done
kill -s KILL "$1"
[ -z "$3" ] || rm -rf "$3"
`

func startWatchdog(pid int, sig syscall.Signal, disposable string) (*watchdog, error) {
	cmd := exec.Command("/bin/sh", "-c", watchdogScript, "concord-testdb-watchdog",
		strconv.Itoa(pid), strconv.Itoa(int(sig)), disposable)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	pipe, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	return &watchdog{cmd: cmd, pipe: pipe}, cmd.Start()
}

func (w *watchdog) dismiss() {
	if w == nil || w.cmd.ProcessState != nil {
		return
	}
	// A watchdog that is gone needs no word, so errors say nothing here.
	_, _ = io.WriteString(w.pipe, "ended\n")
	_ = w.pipe.Close()
	_ = w.cmd.Wait()
}
