// SPDX-License-Identifier: Apache-2.0

package security

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// tokenPrefix begins every token, so that scanners for secrets find those that got lost.
	tokenPrefix = "cct_"
	tokenBytes  = 32
	// maxTokensOf one subject may be valid at a time: the one in use, and the one that replaces it.
	maxTokensOf = 2
)

// TokenEntry is what a node knows of a token: whom it stands for, but not the token.
type TokenEntry struct {
	ID      string            `json:"id"` // 8 hexadecimal digits, for people
	Subject string            `json:"subject"`
	Expires time.Time         `json:"expires"`
	hash    [sha256.Size]byte // of the token
}

// Expired reports whether the token is good for nothing any more.
func (e TokenEntry) Expired(now time.Time) bool { return !now.Before(e.Expires) }

func (e TokenEntry) line() string {
	return fmt.Sprintf("%s %s %s %s\n", e.ID, e.Subject, hex.EncodeToString(e.hash[:]),
		e.Expires.UTC().Format(time.RFC3339))
}

const tokensHeader = "# id subject sha256 expires\n" // #nosec G101 -- the names of columns

// parseTokens reads a file of lines "id subject sha256 expires".
func parseTokens(path string, b []byte) (list []TokenEntry, err error) {
	for n, line := range bytes.Split(b, []byte("\n")) {
		wrong := func(format string, args ...any) error {
			return fmt.Errorf("%s: line %d: %s: lines are made by \"concord token create\"", path, n+1,
				fmt.Sprintf(format, args...))
		}
		text := string(line)
		switch {
		case strings.TrimSpace(text) == "" || strings.HasPrefix(text, "#"):
			continue
		case strings.HasSuffix(text, "\r"):
			return nil, wrong("ends with CR LF, want LF alone")
		}
		fields := strings.Split(text, " ")
		if len(fields) != 4 {
			return nil, wrong("has %d fields, want id, subject, sha256 and expires, with one space between",
				len(fields))
		}
		e := TokenEntry{ID: fields[0], Subject: fields[1]}
		if id, err := hex.DecodeString(e.ID); err != nil || len(id) != 4 || e.ID != hex.EncodeToString(id) {
			return nil, wrong("the id is not 8 hexadecimal digits")
		}
		if err := CheckName(e.Subject); err != nil {
			return nil, wrong("subject: %v", err)
		}
		hash, err := hex.DecodeString(fields[2])
		if err != nil || copy(e.hash[:], hash) != sha256.Size || len(hash) != sha256.Size {
			return nil, wrong("the third field is not a SHA-256 in hexadecimal digits")
		}
		if e.Expires, err = time.Parse(time.RFC3339, fields[3]); err != nil {
			return nil, wrong("the fourth field is not a time such as 2030-01-31T00:00:00Z")
		}
		for _, other := range list {
			if other.ID == e.ID || other.hash == e.hash {
				return nil, wrong("the id %s is there twice: remove one of them", e.ID)
			}
		}
		list = append(list, e)
	}
	return list, nil
}

// ReadTokens returns what a file of tokens holds.
func ReadTokens(path string) ([]TokenEntry, error) {
	b, err := ReadSecret(path, maxTokenFile)
	if err != nil {
		return nil, err
	}
	return parseTokens(path, b)
}

// CreateToken makes a token for a subject and adds it to a file of tokens, which is made if it is not
// there. The token itself is nowhere but in what is returned.
func CreateToken(path, subject string, lifetime time.Duration) (token string, e TokenEntry, err error) {
	if err := CheckName(subject); err != nil {
		return "", e, fmt.Errorf("subject: %w", err)
	}
	if lifetime <= 0 {
		return "", e, fmt.Errorf("--lifetime: %v is not a positive duration such as 2160h", lifetime)
	}
	list, err := ReadTokens(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", e, err
	}
	live, now := 0, time.Now()
	for _, other := range list {
		if other.Subject == subject && !other.Expired(now) {
			live++
		}
	}
	if live >= maxTokensOf {
		return "", e, fmt.Errorf("%s has %d tokens already: revoke one with \"concord token revoke\"", subject, live)
	}
	secret := make([]byte, tokenBytes)
	_, _ = rand.Read(secret) // ends the process itself if there is no randomness
	token = tokenPrefix + base64.RawURLEncoding.EncodeToString(secret)
	e = TokenEntry{Subject: subject, Expires: now.Add(lifetime).UTC().Truncate(time.Second),
		hash: sha256.Sum256([]byte(token))}
	e.ID = hex.EncodeToString(e.hash[:4])
	return token, e, writeTokens(path, append(list, e))
}

// RevokeToken removes a token from a file of tokens.
func RevokeToken(path, id string) error {
	list, err := ReadTokens(path)
	if err != nil {
		return err
	}
	for i, e := range list {
		if e.ID == id {
			return writeTokens(path, append(list[:i:i], list[i+1:]...))
		}
	}
	return fmt.Errorf("%s has no token %.20q: \"concord token ls\" shows them", path, id)
}

func writeTokens(path string, list []TokenEntry) error {
	var b strings.Builder
	b.WriteString(tokensHeader)
	for _, e := range list {
		b.WriteString(e.line())
	}
	return write(path, []byte(b.String()), 0o600, true)
}

// Tokens are those that a node accepts, by a file that may change while it runs. All methods may be
// called concurrently.
type Tokens struct {
	path    string
	log     *slog.Logger
	current atomic.Pointer[[]TokenEntry]

	mu     sync.Mutex // over reading the file
	looked time.Time
	told   told
}

// LoadTokens reads a file of tokens. log gets what is found later; nil: nobody.
func LoadTokens(path string, log *slog.Logger) (*Tokens, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	t := &Tokens{path: path, log: log}
	return t, t.Reload()
}

// Reload reads the file again. A file that is wrong changes nothing.
func (t *Tokens) Reload() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.reload()
}

// Wrong says what was wrong with the file when it was read last; empty: nothing, and it is in force.
func (t *Tokens) Wrong() string {
	return t.told.text()
}

// reload is called with mu held.
func (t *Tokens) reload() error {
	t.looked = time.Now()
	list, err := ReadTokens(t.path)
	if err != nil {
		err = fmt.Errorf("tokens: %w", err)
		if t.current.Load() != nil && err.Error() != t.told.text() {
			t.told.set(err.Error())
			t.log.Error("tokens were read again and are wrong: those that were there stay in force", "err", err)
		}
		return err
	}
	t.told.set("")
	t.current.Store(&list)
	return nil
}

// Subject returns whom a token stands for. However many there are and whichever it is, that takes
// the same time.
func (t *Tokens) Subject(token string) (subject string, ok bool) {
	t.lookAgain(freshness)
	if subject, ok = t.find(token); !ok { // perhaps it was made just now
		t.lookAgain(time.Second)
		subject, ok = t.find(token)
	}
	return subject, ok
}

// lookAgain reads the file again unless it was read lately.
func (t *Tokens) lookAgain(age time.Duration) {
	if t.mu.TryLock() {
		if time.Since(t.looked) >= age {
			_ = t.reload() // it was logged
		}
		t.mu.Unlock()
	}
}

func (t *Tokens) find(token string) (subject string, ok bool) {
	hash, now := sha256.Sum256([]byte(token)), time.Now()
	for _, e := range *t.current.Load() {
		if subtle.ConstantTimeCompare(hash[:], e.hash[:]) == 1 && !e.Expired(now) {
			subject, ok = e.Subject, true
		}
	}
	return subject, ok
}

// checkToken says what is wrong with what should be a token, without showing it.
func checkToken(token string) error {
	secret, err := base64.RawURLEncoding.Strict().DecodeString(strings.TrimPrefix(token, tokenPrefix))
	if !strings.HasPrefix(token, tokenPrefix) || err != nil || len(secret) != tokenBytes {
		return fmt.Errorf("is not a token (%s and %d letters and digits, as \"concord token create\" prints it)",
			tokenPrefix, base64.RawURLEncoding.EncodedLen(tokenBytes))
	}
	return nil
}

// readToken reads the one token of a client's file. A line feed may follow.
func readToken(path string) (string, error) {
	b, err := ReadSecret(path, maxFile)
	if err != nil {
		return "", fmt.Errorf("token file: %w", err)
	}
	token := strings.TrimSuffix(string(b), "\n")
	switch {
	case strings.Contains(token, "\r"):
		return "", fmt.Errorf("token file: %s has lines that end with CR LF: write the token with LF alone", path)
	case strings.Contains(token, "\n"):
		return "", fmt.Errorf("token file: %s has more than one line, want one token", path)
	}
	if err := checkToken(token); err != nil {
		return "", fmt.Errorf("token file: the content of %s %w", path, err)
	}
	return token, nil
}
