// SPDX-License-Identifier: Apache-2.0

package faultproxy

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

// pair opens a connection through a new link and returns both of its ends.
func pair(t *testing.T) (l *Link, dialed, accepted *net.TCPConn) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	l, err = New(listener.Addr().String())
	require.NoError(t, err)
	d, err := net.Dial("tcp", l.Addr())
	require.NoError(t, err)
	_, err = d.Write([]byte("x")) // the way to the target is opened for it
	require.NoError(t, err)
	a, err := listener.Accept()
	require.NoError(t, err)
	expect(t, a, "x")
	t.Cleanup(func() {
		l.Close()
		require.Zero(t, l.Conns())
		_ = d.Close()
		_ = a.Close()
		_ = listener.Close()
	})
	return l, d.(*net.TCPConn), a.(*net.TCPConn)
}

func say(t *testing.T, c net.Conn, text string) {
	_, err := c.Write([]byte(text))
	require.NoError(t, err)
}

func expect(t *testing.T, c net.Conn, text string) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(patience))
	b := make([]byte, len(text))
	_, err := io.ReadFull(c, b)
	require.NoError(t, err)
	require.Equal(t, text, string(b))
}

// silent makes sure that nothing has come, and no end either.
func silent(t *testing.T, c net.Conn) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	n, err := c.Read(make([]byte, 1))
	require.Zero(t, n)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
}

// ended waits for the end of a connection.
func ended(t *testing.T, c net.Conn) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(patience))
	_, err := io.Copy(io.Discard, c)
	require.False(t, errors.Is(err, os.ErrDeadlineExceeded), "still open")
}

func TestGoodLinkPassesEverythingBothWays(t *testing.T) {
	_, d, a := pair(t)
	big := bytes.Repeat([]byte("0123456789"), 300_000)
	go func() { _, _ = d.Write(big); _ = d.CloseWrite() }()
	_ = a.SetReadDeadline(time.Now().Add(patience))
	got, err := io.ReadAll(a)
	require.NoError(t, err)
	require.True(t, bytes.Equal(big, got))
	say(t, a, "answer after the half close")
	expect(t, d, "answer after the half close")
}

func TestDroppedBytesVanishAndTheConnectionEndsWithTheFault(t *testing.T) {
	l, d, a := pair(t)
	l.Set(Forward, Fault{Drop: true})
	say(t, d, "lost")
	silent(t, a)
	say(t, a, "the other way works")
	expect(t, d, "the other way works")
	l.Heal()
	say(t, d, "must not be heard")
	_ = a.SetReadDeadline(time.Now().Add(patience))
	got, _ := io.ReadAll(a)
	require.Empty(t, got)
	ended(t, d)
}

func TestEndOfAConnectionVanishesToo(t *testing.T) {
	l, d, a := pair(t)
	l.Set(Forward, Fault{Drop: true})
	l.Set(Backward, Fault{Drop: true})
	require.NoError(t, d.Close())
	silent(t, a)
	l.Heal()
	ended(t, a)
}

func TestConnectionIntoABlackHoleIsNotHeardOf(t *testing.T) {
	l, _, _ := pair(t)
	l.Set(Forward, Fault{Drop: true})
	before := l.Conns()
	c, err := net.Dial("tcp", l.Addr())
	require.NoError(t, err)
	say(t, c, "hello")
	silent(t, c)
	require.Equal(t, before+1, l.Conns())
	require.NoError(t, c.Close())
}

func TestHeldBytesArriveLateAndInOrder(t *testing.T) {
	l, d, a := pair(t)
	l.Set(Forward, Fault{Hold: true})
	say(t, d, "one")
	silent(t, a)
	say(t, d, "two")
	l.Heal()
	expect(t, a, "onetwo")
}

func TestFreezeTouchesOnlyWhatIsThere(t *testing.T) {
	l, d, a := pair(t)
	l.Freeze()
	say(t, d, "late")
	silent(t, a)
	require.Equal(t, 1, l.Conns())
	c, err := net.Dial("tcp", l.Addr())
	require.NoError(t, err)
	require.NoError(t, c.Close())
	l.Heal()
	expect(t, a, "late")
}

func TestDelayAndRate(t *testing.T) {
	l, d, a := pair(t)
	l.Set(Forward, Fault{Delay: 200 * time.Millisecond})
	start := time.Now()
	say(t, d, "slow")
	expect(t, a, "slow")
	require.GreaterOrEqual(t, time.Since(start), 200*time.Millisecond)
	l.Set(Forward, Fault{Rate: 20_000})
	start = time.Now()
	say(t, d, string(make([]byte, 10_000)))
	expect(t, a, string(make([]byte, 10_000)))
	require.GreaterOrEqual(t, time.Since(start), 450*time.Millisecond)
}

func TestCutHalfCloseAndInject(t *testing.T) {
	l, d, a := pair(t)
	l.Inject(Forward, []byte("noise"))
	expect(t, a, "noise")
	l.HalfClose(Forward)
	_ = a.SetReadDeadline(time.Now().Add(patience))
	_, err := a.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
	say(t, a, "still heard")
	expect(t, d, "still heard")
	l.Cut()
	ended(t, d)
	require.Eventually(t, func() bool { return l.Conns() == 0 }, patience, time.Millisecond)
}

func TestALinkKeepsLittle(t *testing.T) {
	l, d, a := pair(t)
	require.NoError(t, d.SetWriteBuffer(socketBytes)) // what the sender's own system keeps differs by megabytes
	l.Set(Forward, Fault{Hold: true})
	_ = d.SetWriteDeadline(time.Now().Add(2 * time.Second))
	kept, err := io.Copy(d, io.LimitReader(zeros{}, 64<<20))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.Less(t, kept, int64(queueLength*chunkSize+1<<20))
	_ = a.Close()
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }
