// SPDX-License-Identifier: Apache-2.0

package program

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Process is a program in a process group of its own: what a terminal interrupts is who started it. It is killed, with
// its children, when that one dies.
type Process struct {
	cmd   *exec.Cmd
	watch *watch
	done  chan struct{}
	err   error // of Wait, once done
}

// Start starts a command.
func Start(cmd *exec.Cmd) (*Process, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &Process{cmd: cmd, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	var err error
	if p.watch, err = watchOver(cmd.Process.Pid); err != nil {
		err = errors.Join(err, p.Signal(syscall.SIGKILL))
		<-p.done
		return nil, err
	}
	return p, nil
}

// StartLogged is Start with the output at the end of a file.
func StartLogged(cmd *exec.Cmd, log string) (*Process, error) {
	to, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer to.Close() // the process has its own descriptor
	cmd.Stdout, cmd.Stderr = to, to
	return Start(cmd)
}

// Pid is the number of the process.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Alive reports whether the process runs; nil does not.
func (p *Process) Alive() bool {
	if p == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Err is how the process ended, as exec.Cmd.Wait says it. It must have ended.
func (p *Process) Err() error { return p.err }

// State is that of a process that has ended.
func (p *Process) State() *os.ProcessState { return p.cmd.ProcessState }

// Signal signals the whole group. That it is gone is no error.
func (p *Process) Signal(s syscall.Signal) error {
	if err := syscall.Kill(-p.Pid(), s); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	return nil
}

// End signals the process if it is alive, and waits for its end as Await does.
func (p *Process) End(s syscall.Signal, limit time.Duration) (err error) {
	if p.Alive() {
		err = p.Signal(s)
	}
	return errors.Join(err, p.Await(limit))
}

// grace is how long a process that is told to quit may take to say what it was doing.
const grace = 5 * time.Second

// Await waits for the end of the process, and kills it if that takes longer than limit, which is an error. It is told
// to quit first: a program in Go says then what each of its goroutines was doing.
func (p *Process) Await(limit time.Duration) (err error) {
	if !p.within(limit) {
		err = errors.Join(fmt.Errorf("%v did not end within %v", p.cmd.Args, limit), p.Signal(syscall.SIGQUIT))
		if !p.within(grace) {
			err = errors.Join(err, p.Signal(syscall.SIGKILL))
			<-p.done
		}
	}
	p.watch.dismiss()
	return err
}

// within waits for the end of the process, and reports whether it came in time.
func (p *Process) within(limit time.Duration) bool {
	select {
	case <-p.done:
		return true
	case <-time.After(limit):
		return false
	}
}

// Stopped reports whether every thread of the process has stopped. Until then one may still answer, after the signal
// was sent.
func (p *Process) Stopped() bool {
	stats, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.Pid()))
	for _, stat := range stats {
		text, rerr := os.ReadFile(stat)
		_, state, found := strings.Cut(string(text), ") ")
		if err != nil || rerr != nil || !found || state[0] != 'T' {
			return false
		}
	}
	return len(stats) > 0
}

// Resident is the memory of the process in bytes.
func (p *Process) Resident() (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", p.Pid()))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(text))
	if len(fields) < 2 {
		return 0, fmt.Errorf("process %d: no memory in %q", p.Pid(), text)
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize()), err
}

// Files is how many file descriptors the process has open.
func (p *Process) Files() (int, error) {
	all, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.Pid()))
	return len(all), err
}

// watch is a shell that reads from a pipe which nobody else writes to, and kills the group of a process when the pipe
// ends without a word. (Linux's parent-death signal comes when the thread ends that has started the process, and Go's
// threads do.)
type watch struct {
	cmd  *exec.Cmd
	pipe io.WriteCloser
}

func watchOver(pid int) (*watch, error) {
	cmd := exec.Command("/bin/sh", "-c", `read -r _ || kill -s KILL -- "-$1"`, "concord-watch", strconv.Itoa(pid))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	pipe, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	return &watch{cmd: cmd, pipe: pipe}, cmd.Start()
}

// dismiss lets it go before the system gives the number to somebody else.
func (w *watch) dismiss() {
	if w.cmd.ProcessState != nil {
		return
	}
	_, _ = io.WriteString(w.pipe, "ended\n") // who is gone needs no word
	_ = w.cmd.Wait()
}
