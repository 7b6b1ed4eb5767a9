// SPDX-License-Identifier: Apache-2.0

package security

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestATokenStandsForItsSubject(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens")
	token, e, err := CreateToken(path, "billing-app", time.Hour)
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(token, "cct_"))
	stored, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NotContains(t, string(stored), token)
	tokens, err := LoadTokens(path, nil)
	require.NoError(t, err)
	subject, ok := tokens.Subject(token)
	require.True(t, ok)
	require.Equal(t, "billing-app", subject)
	for _, other := range []string{"", "cct_", token[:len(token)-1], token + "A", strings.ToLower(token),
		stored2hash(string(stored))} {
		_, ok := tokens.Subject(other)
		require.False(t, ok)
	}
	second, _, err := CreateToken(path, "billing-app", time.Hour)
	require.NoError(t, err)
	_, _, err = CreateToken(path, "billing-app", time.Hour)
	require.ErrorContains(t, err, `billing-app has 2 tokens already: revoke one with "concord token revoke"`)
	require.NoError(t, RevokeToken(path, e.ID))
	require.ErrorContains(t, RevokeToken(path, e.ID), "has no token")
	require.NoError(t, tokens.Reload())
	_, ok = tokens.Subject(token)
	require.False(t, ok, "it was revoked")
	_, ok = tokens.Subject(second)
	require.True(t, ok)
}

// stored2hash is what somebody who has read the file knows.
func stored2hash(file string) string { return strings.Fields(strings.Split(file, "\n")[1])[2] }

func TestATokenExpires(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens")
	token, _, err := CreateToken(path, "a", time.Nanosecond)
	require.NoError(t, err)
	tokens, err := LoadTokens(path, nil)
	require.NoError(t, err)
	_, ok := tokens.Subject(token)
	require.False(t, ok)
	_, _, err = CreateToken(path, "a", 0)
	require.ErrorContains(t, err, "--lifetime: 0s is not a positive duration")
}

func TestTokenFilesThatAreNotAccepted(t *testing.T) {
	hash, other := strings.Repeat("ab", 32), strings.Repeat("cd", 32)
	good := "0123abcd billing-app " + hash + " 2099-01-01T00:00:00Z\n"
	for _, bad := range []struct{ name, text, says string }{
		{"empty", "", "is empty"},
		{"CR LF", strings.ReplaceAll(good, "\n", "\r\n"), "line 1: ends with CR LF, want LF alone"},
		{"two of one id", good + strings.ReplaceAll(good, hash, other), "line 2: the id 0123abcd is there twice"},
		{"one token twice", good + strings.ReplaceAll(good, "0123", "4567"), "is there twice"},
		{"a token in it", "0123abcd a cct_x 2099-01-01T00:00:00Z\n", "the third field is not a SHA-256"},
		{"no time", "0123abcd a " + hash + " never\n", "the fourth field is not a time"},
		{"no id", "1 a " + hash + " 2099-01-01T00:00:00Z\n", "the id is not 8 hexadecimal digits"},
		{"no subject", "0123abcd a/b " + hash + " 2099-01-01T00:00:00Z\n", "subject: "},
		{"too few", "0123abcd\n", "has 1 fields"},
	} {
		path := filepath.Join(t.TempDir(), "tokens")
		require.NoError(t, os.WriteFile(path, []byte(good), 0o600))
		running, err := LoadTokens(path, nil)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(path, []byte(bad.text), 0o600))
		_, err = LoadTokens(path, nil)
		require.ErrorContains(t, err, bad.says, bad.name)
		require.NotContains(t, err.Error(), hash, bad.name)
		require.ErrorContains(t, running.Reload(), bad.says, bad.name)
		require.Len(t, *running.current.Load(), 1, bad.name)
	}
	path := filepath.Join(t.TempDir(), "tokens")
	require.NoError(t, os.WriteFile(path, []byte(good), 0o644))
	_, err := LoadTokens(path, nil)
	require.ErrorContains(t, err, "can be used by others than its owner")
}

func TestCredentialsOfAClient(t *testing.T) {
	s := newShop(t, "shop")
	token, _, err := CreateToken(s.path("tokens"), "ci", time.Hour)
	require.NoError(t, err)
	file := s.path("ci.token")
	open := func() (*Credentials, error) { return Source{CertsDir: string(s.dir), TokenFile: file}.Open(nil) }
	require.NoError(t, os.WriteFile(file, []byte(token+"\n"), 0o600))
	c, err := open()
	require.NoError(t, err)
	require.Equal(t, token, c.Token())
	for _, bad := range []struct{ name, text, says string }{
		{"CR LF", token + "\r\n", "has lines that end with CR LF"},
		{"two", token + "\n" + token + "\n", "has more than one line"},
		{"cut", token[:20] + "\n", "is not a token"},
		{"a password", "hunter2\n", "is not a token"},
		{"empty", "", "is empty"},
	} {
		require.NoError(t, os.WriteFile(file, []byte(bad.text), 0o600))
		_, err := open()
		require.ErrorContains(t, err, bad.says, bad.name)
		require.NotContains(t, err.Error(), token[:20], bad.name)
		require.NotContains(t, err.Error(), "hunter2", bad.name)
	}
	none, err := Source{}.Open(nil)
	require.NoError(t, err)
	require.Nil(t, none)
	_, err = Source{TokenFile: file}.Open(nil)
	require.ErrorContains(t, err, "a token is sent to nodes only that are verified")
	_, err = Source{User: "ann"}.Open(nil)
	require.ErrorContains(t, err, `user "ann" has no certificate`)
}
