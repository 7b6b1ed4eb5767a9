// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is a program in a process group of its own. It does not outlive the tests, even if they are killed:
// a shell waits for the end of the pipe from them.
type process struct {
	cmd      *exec.Cmd
	stdin    io.Closer
	watchdog *exec.Cmd
	leash    io.Closer
	done     chan struct{} // closed when it has ended
	err      error         // of Wait, once done
}

// startProcess starts a command whose output goes to the end of a file.
func startProcess(cmd *exec.Cmd, log string) (*process, error) {
	to, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer to.Close()
	cmd.Stdout, cmd.Stderr = to, to
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p := &process{cmd: cmd, done: make(chan struct{})}
	if p.stdin, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	p.watchdog = exec.Command("sh", "-c", `read -r _; kill -KILL -- "-$0"`, strconv.Itoa(cmd.Process.Pid))
	p.watchdog.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if p.leash, err = p.watchdog.StdinPipe(); err == nil {
		err = p.watchdog.Start()
	}
	if err != nil {
		return nil, errors.Join(err, p.signal(syscall.SIGKILL))
	}
	return p, nil
}

func (p *process) alive() bool {
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

// signal signals the whole group. That it is gone is no error.
func (p *process) signal(s syscall.Signal) error {
	if err := syscall.Kill(-p.cmd.Process.Pid, s); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	return nil
}

// end signals the process if it is alive, waits for its end, and kills it if that takes too long, which is an
// error.
func (p *process) end(s syscall.Signal, limit time.Duration) (err error) {
	if p.alive() {
		err = p.signal(s)
	}
	return errors.Join(err, p.await(limit))
}

// await waits for the end of the process, and kills it if that takes too long, which is an error.
func (p *process) await(limit time.Duration) (err error) {
	select {
	case <-p.done:
	case <-time.After(limit):
		err = errors.Join(fmt.Errorf("%v did not end within %v", p.cmd.Args, limit), p.signal(syscall.SIGKILL))
		<-p.done
	}
	// The watchdog first: it must not signal a number that the system gives to others.
	_ = p.watchdog.Process.Kill()
	_ = p.watchdog.Wait()
	_ = p.leash.Close()
	return err
}

// resident is the memory of a process in bytes, 0 if it is gone.
func (p *process) resident() int64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if text, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseInt(strings.Fields(text)[0], 10, 64)
			if err != nil {
				return 0
			}
			return kib << 10
		}
	}
	return 0
}

// files is how many file descriptors a process has open.
func (p *process) files() int {
	all, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	return len(all)
}
