// SPDX-License-Identifier: Apache-2.0

package security

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// Credentials are how a client shows who it is, and whom it believes: the certificates of a
// directory, a token, or both. All methods may be called concurrently.
type Credentials struct {
	*Keys
	tokenFile string

	mu     sync.Mutex
	token  string
	looked time.Time
	log    *slog.Logger
}

// Source says where credentials come from. The zero Source has none: connections are plain.
type Source struct {
	CertsDir  string // with ca.crt, and the client's certificate unless it has a token
	User      string // whose certificate; empty: the only one
	TokenFile string // needs CertsDir as well: a token is sent to nobody who is not verified
}

// Variables of the environment that a Source can come from.
const (
	EnvCertsDir  = "CONCORD_CERTS_DIR"
	EnvUser      = "CONCORD_USER"
	EnvTokenFile = "CONCORD_TOKEN_FILE"
)

// Open reads the credentials; nil if there are none. log gets what is found later; nil: nobody.
func (s Source) Open(log *slog.Logger) (*Credentials, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if s.CertsDir == "" {
		switch {
		case s.TokenFile != "":
			return nil, errors.New("a token is sent to nodes only that are verified: give the directory with " +
				"ca.crt, too (--certs-dir, " + EnvCertsDir + ")")
		case s.User != "":
			return nil, fmt.Errorf("user %.70q has no certificate: give the directory that it is in (--certs-dir, "+
				EnvCertsDir+")", s.User)
		}
		return nil, nil
	}
	files, err := Dir(s.CertsDir).Client(s.User)
	if err != nil {
		return nil, err
	}
	keys, err := Load(files, log)
	if err != nil {
		return nil, err
	}
	c := &Credentials{Keys: keys, tokenFile: s.TokenFile, log: log}
	if s.TokenFile != "" {
		if c.token, err = readToken(s.TokenFile); err != nil {
			return nil, err
		}
		c.looked = time.Now()
	}
	return c, nil
}

// ByCertificate are the credentials of a node or an agent, which has keys anyway; nil for nil.
func ByCertificate(k *Keys) *Credentials {
	if k == nil {
		return nil
	}
	return &Credentials{Keys: k}
}

// Token returns the token, as the file had it a few seconds ago at most; empty if there is none.
func (c *Credentials) Token() string {
	if c.tokenFile == "" {
		return ""
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.looked) >= freshness {
		c.looked = time.Now()
		if token, err := readToken(c.tokenFile); err != nil {
			c.log.Error("the token was read again and is wrong: the one that was there stays in use", "err", err)
		} else {
			c.token = token
		}
	}
	return c.token
}
