// SPDX-License-Identifier: Apache-2.0

package faultproxy

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// letters frames messages of a digit and so many letters.
var letters = Framing{Header: 4, Length: func(h []byte) int { return 4 + int(h[0]-'0') }}

// knifed opens a connection through a link with a knife.
func knifed(t *testing.T) (k *Knife, dialed, accepted net.Conn) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	l, err := New(listener.Addr().String())
	require.NoError(t, err)
	k = NewKnife(letters)
	l.Use(k)
	dialed, err = net.Dial("tcp", l.Addr())
	require.NoError(t, err)
	say(t, dialed, "1...x")
	accepted, err = listener.Accept()
	require.NoError(t, err)
	expect(t, accepted, "1...x")
	t.Cleanup(func() {
		l.Close()
		_ = dialed.Close()
		_ = accepted.Close()
		_ = listener.Close()
	})
	return k, dialed, accepted
}

// received is all that arrives until the connection ends.
func received(t *testing.T, c net.Conn) string {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(patience))
	var b bytes.Buffer
	_, err := io.Copy(&b, c)
	require.False(t, errors.Is(err, os.ErrDeadlineExceeded), "still open")
	return b.String()
}

func TestAKnifeCutsOnceAtTheMessageThatItCounts(t *testing.T) {
	for _, c := range []struct {
		message int
		place   Place
		passed  string
	}{
		{0, Before, ""}, {0, In, "2.."}, {0, After, "2...ab"},
		{2, Before, "2...ab0...2...cd"[:10]}, {2, In, "2...ab0...2.."}, {2, After, "2...ab0...2...cd"},
	} {
		for _, d := range []Direction{Forward, Backward} {
			for _, pieces := range []int{1, 3, 100} { // it does not matter how the bytes travel
				k, from, to := knifed(t)
				if d == Backward {
					from, to = to, from
				}
				k.Aim(d, c.message, c.place)
				text := "2...ab0...2...cd3...efg"
				for len(text) > 0 {
					n := max(1, min(len(text), 23/pieces))
					if _, err := io.Copy(from, strings.NewReader(text[:n])); err != nil {
						break // it is cut
					}
					text = text[n:]
				}
				got := received(t, to)
				require.True(t, strings.HasPrefix(c.passed, got), "%q", got) // a reset may overtake bytes
				received(t, from)
				require.True(t, k.Rest())
			}
		}
	}
}

func TestAKnifeAtRestCutsNothing(t *testing.T) {
	k, d, a := knifed(t)
	say(t, d, "2...ab")
	expect(t, a, "2...ab")
	k.Aim(Backward, 1, Before)
	say(t, d, "2...ab0...3...abc")
	expect(t, a, "2...ab0...3...abc")
	say(t, a, "1...z")
	expect(t, d, "1...z")
	require.False(t, k.Rest())
	say(t, a, "1...z1...z")
	expect(t, d, "1...z1...z")
}

func TestFramings(t *testing.T) {
	startup := []byte{0, 0, 0, 9, 0, 3, 0, 0, 0}
	sync := []byte{'S', 0, 0, 0, 4}
	b := NewKnife(Postgres).blade(Forward)
	b.Aim(Forward, 2, Before)
	n, cut := b.pass(append(append(append([]byte{}, startup...), sync...), sync...))
	require.Equal(t, len(startup)+len(sync), n)
	require.True(t, cut)
	ping := []byte{1, 0, 0, 0, 14}
	b = NewKnife(MySQL).blade(Forward)
	b.Aim(Forward, 1, After)
	n, cut = b.pass(append(append(append([]byte{}, ping...), ping...), ping...))
	require.Equal(t, 2*len(ping), n)
	require.True(t, cut)
}
