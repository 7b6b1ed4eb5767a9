// SPDX-License-Identifier: Apache-2.0

package program

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	patience = 30 * time.Second
	// asStarter lets the test binary be a program that starts another one, and prints its number.
	asStarter = "CONCORD_PROGRAM_STARTER"
)

func TestMain(m *testing.M) {
	if os.Getenv(asStarter) != "" {
		p, err := Start(exec.Command("sleep", "3600"))
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(p.Pid())
		select {} // until it is killed
	}
	os.Exit(m.Run())
}

func TestAProcessDoesNotOutliveWhoStartedIt(t *testing.T) {
	starter := exec.Command(os.Args[0])
	starter.Env = append(os.Environ(), asStarter+"=1")
	out, err := starter.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, starter.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	require.NoError(t, err, line)
	require.NoError(t, syscall.Kill(pid, 0), "it runs")
	require.NoError(t, starter.Process.Signal(syscall.SIGKILL))
	_ = starter.Wait()
	require.Eventually(t, func() bool { return !runs(pid) }, patience, 10*time.Millisecond)
}

// runs reports whether there is such a process; one that has ended and that nobody has waited for is none.
func runs(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(text), ") Z ")
}

func TestEnd(t *testing.T) {
	p, err := Start(exec.Command("sleep", "3600"))
	require.NoError(t, err)
	require.True(t, p.Alive())
	memory, err := p.Resident()
	require.NoError(t, err)
	require.Positive(t, memory)
	files, err := p.Files()
	require.NoError(t, err)
	require.Positive(t, files)
	require.NoError(t, p.End(syscall.SIGTERM, patience))
	require.False(t, p.Alive())
	require.ErrorContains(t, p.Err(), "terminated")
	require.NoError(t, p.End(syscall.SIGTERM, patience), "a second time is no error")
	require.NoError(t, p.Signal(syscall.SIGTERM), "nor is a signal")
	require.False(t, (*Process)(nil).Alive())
}

func TestWhoDoesNotEndInTimeIsKilled(t *testing.T) {
	p, err := Start(exec.Command("sh", "-c", "exec sleep 3600"))
	require.NoError(t, err)
	require.ErrorContains(t, p.End(syscall.SIGSTOP, 10*time.Millisecond), "did not end within 10ms")
	require.ErrorContains(t, p.Err(), "killed")
}

func TestALogIsAppendedTo(t *testing.T) {
	log := t.TempDir() + "/log"
	for range 2 {
		p, err := StartLogged(exec.Command("echo", "hello"), log)
		require.NoError(t, err)
		require.NoError(t, p.Await(patience))
	}
	text, err := os.ReadFile(log)
	require.NoError(t, err)
	require.Equal(t, "hello\nhello\n", string(text))
	_, err = StartLogged(exec.Command("echo"), t.TempDir())
	require.Error(t, err)
	_, err = Start(exec.Command("/nowhere"))
	require.Error(t, err)
}
