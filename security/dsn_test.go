// SPDX-License-Identifier: Apache-2.0

package security

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

// However a data source name gets into a text, its password does not.
func TestADataSourceNameIsShownNowhere(t *testing.T) {
	const secret = "Canary-%S-@:/"
	d := NewDSN("postgres://app:" + secret + "@db/shop")
	require.Equal(t, "postgres://app:"+secret+"@db/shop", d.Reveal())
	type hidden struct{ inner struct{ dsn DSN } }
	var h hidden
	h.inner.dsn = d
	var said bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T", "%p", "%t", "%c", "%U"} {
		for _, value := range []any{d, &d, []DSN{d}, map[string]DSN{"a": d}, h, &h, struct{ DSN DSN }{d}} {
			fmt.Fprintf(&said, verb+"\n", value)
		}
	}
	fmt.Fprintln(&said, d, h, errors.Join(fmt.Errorf("open %v: %w", d, errors.ErrUnsupported)))
	for _, value := range []any{d, &d, []DSN{d}, map[string]DSN{"a": d}, struct{ DSN DSN }{d}} {
		b, err := json.Marshal(value)
		require.NoError(t, err)
		said.Write(b)
		b, err = yaml.Marshal(value)
		require.NoError(t, err)
		said.Write(b)
	}
	for _, handler := range []slog.Handler{slog.NewTextHandler(&said, nil), slog.NewJSONHandler(&said, nil)} {
		slog.New(handler).With("dsn", d).Info("said", "one", d, "pointer", &d, "more", []DSN{d}, "within", h,
			"group", slog.GroupValue(slog.Any("dsn", d)))
	}
	require.NotContains(t, said.String(), "Canary")
	require.NotContains(t, said.String(), fmt.Sprintf("%x", "Canary"))
	require.NotContains(t, said.String(), fmt.Sprintf("%X", "Canary"))
	require.Contains(t, said.String(), redacted)
	require.Empty(t, DSN{}.String())
	require.True(t, NewDSN("").Empty())
}

// A server on another machine is believed by its certificate alone.
func TestWhichServersAreOnThisMachine(t *testing.T) {
	for host, want := range map[string]bool{"127.0.0.1": true, "::1": true, "localhost": true, "/run/postgresql": true,
		"@abstract": true, "": false, "db": false, "10.0.0.1": false, "localhost.example": false, "0.0.0.0": false} {
		require.Equal(t, want, LocalServer(host), host)
		require.Equal(t, want, ServerTrust{}.Verifies(host, nil), host)
		require.True(t, ServerTrust{Insecure: true}.Verifies(host, nil))
	}
}
