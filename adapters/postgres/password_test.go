// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"net"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"
)

// A rogue server refuses TLS and asks for the password as it is. It does not get it.
func TestARogueServerDoesNotGetThePassword(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	got := make(chan string, 8)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go rogue(conn, got)
		}
	}()
	r, err := Open(t.Context(), "orders", "postgres://app:s3cr3t@"+l.Addr().String()+"/shop?connect_timeout=5")
	require.NoError(t, err)
	_, err = r.Identity(t.Context())
	require.Error(t, err)
	require.NotContains(t, err.Error(), "s3cr3t")
	require.NoError(t, r.Close())
	require.Equal(t, "nothing", <-got)
}

// rogue asks one client for its password, and says what it got.
func rogue(conn net.Conn, got chan<- string) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	b := pgproto3.NewBackend(conn, conn)
	for {
		m, err := b.ReceiveStartupMessage()
		if err != nil {
			return
		}
		if _, ok := m.(*pgproto3.SSLRequest); ok {
			if _, err := conn.Write([]byte("N")); err != nil {
				return
			}
			continue
		}
		break
	}
	b.Send(&pgproto3.AuthenticationCleartextPassword{})
	if b.Flush() != nil || b.SetAuthType(pgproto3.AuthTypeCleartextPassword) != nil {
		return
	}
	m, err := b.Receive()
	if p, ok := m.(*pgproto3.PasswordMessage); err == nil && ok {
		got <- p.Password
		return
	}
	got <- "nothing"
}

// Whom the data source name lets verify the server may be asked in any way.
func TestAVerifiedServerMayAskForThePassword(t *testing.T) {
	for dsn, want := range map[string]string{
		"postgres://a:b@h/d": "!password", "postgres://a:b@h/d?sslmode=require": "!password", "postgres://a:b@h/d?sslmode=disable": "!password",
		"postgres://a:b@h/d?sslmode=verify-full": "", "postgres://a:b@h/d?sslmode=disable&require_auth=password": "password",
	} {
		c, err := pgx.ParseConfig(dsn)
		require.NoError(t, err)
		guardPassword(c)
		require.Equal(t, want, c.RequireAuth, dsn)
	}
}
