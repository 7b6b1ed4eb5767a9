// SPDX-License-Identifier: Apache-2.0

package security

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// Dir is a directory with certificates and keys, under the names that Authority gives them:
// ca.crt, client-ca.crt and ca.crl if there are any, and NAME.crt with NAME.key, where NAME is
// node.1, agent.east or client.alice.
type Dir string

// Files are where a process finds what proves who it is, and whom it believes.
type Files struct {
	// CA hold the certificates of the authorities, one or more, that speak for nodes and agents.
	CA []string
	// ClientCA are the same for clients; empty: CA.
	ClientCA []string
	// CRL holds revocation lists of those authorities; empty: nothing was revoked.
	CRL string
	// Cert and Key are its own; empty: it has none, as a client with a token.
	Cert, Key string
	// MayCome are those of ClientCA and CRL that need not be there yet. What was there must stay.
	MayCome []string
}

// Node returns the files of a node.
func (d Dir) Node(id uint64) Files { return d.of(Node, strconv.FormatUint(id, 10)) }

// Agent returns the files of an agent.
func (d Dir) Agent(name string) Files { return d.of(Agent, name) }

// Client returns the files of a client. With no name it is the one whose certificate is there, if
// that is one; if there is none, the files are good for seeing who the nodes are only.
func (d Dir) Client(name string) (Files, error) {
	if name != "" {
		return d.of(Client, name), nil
	}
	found, err := filepath.Glob(filepath.Join(escaped(string(d)), string(Client)+".*.crt"))
	if err != nil {
		return Files{}, err
	}
	switch len(found) {
	case 0:
		return d.common(), nil
	case 1:
		return d.of(Client, clientName(found[0])), nil
	}
	var names []string
	for _, f := range found {
		names = append(names, clientName(f))
	}
	slices.Sort(names)
	return Files{}, fmt.Errorf("%s has the certificates of several clients (%s): say who you are, --user or "+
		"CONCORD_USER", string(d), strings.Join(names, ", "))
}

func clientName(file string) string {
	return strings.TrimSuffix(strings.TrimPrefix(filepath.Base(file), string(Client)+"."), ".crt")
}

// escaped makes a pattern that matches nothing but itself.
func escaped(path string) string {
	return strings.NewReplacer(`*`, `\*`, `?`, `\?`, `[`, `\[`, `\`, `\\`).Replace(path)
}

func (d Dir) of(k Kind, name string) Files {
	f, base := d.common(), d.path(k, name)
	f.Cert, f.Key = base+".crt", base+".key"
	return f
}

func (d Dir) path(k Kind, name string) string { return filepath.Join(string(d), string(k)+"."+name) }

// common are the files that say whom to believe.
func (d Dir) common() Files {
	in := func(name string) string { return filepath.Join(string(d), name) }
	return Files{CA: []string{in("ca.crt")}, ClientCA: []string{in("client-ca.crt")}, CRL: in("ca.crl"),
		MayCome: []string{in("client-ca.crt"), in("ca.crl")}}
}

const (
	maxFile      = 1 << 20
	maxTokenFile = 4 << 20
)

// readPublic reads a file whose content is no secret.
func readPublic(path string) ([]byte, error) { return read(path, maxFile, 0) }

// ReadSecret reads a file of at most limit bytes that nobody but its owner may read.
func ReadSecret(path string, limit int64) ([]byte, error) { return read(path, limit, 0o077) }

// ReadCredential is ReadSecret for one that the service manager has made: its group may be that of a list.
func ReadCredential(path string, limit int64) ([]byte, error) { return read(path, limit, 0o007) }

// read reads a regular file whose mode has none of some bits.
func read(path string, limit int64, never fs.FileMode) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // else a pipe that nobody writes to waits for ever
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	if err := checkMode(path, info.Mode(), never); err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	switch {
	case err != nil:
		return nil, err
	case int64(len(b)) > limit:
		return nil, fmt.Errorf("%s is larger than %d KiB", path, limit>>10)
	case len(b) == 0:
		return nil, fmt.Errorf("%s is empty", path)
	}
	return b, nil
}

// CheckSecret returns an error if others than its owner may use an open file that holds a secret. What is no regular
// file has been handed over by somebody, and is nobody else's.
func CheckSecret(f *os.File) error {
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return err
	}
	return checkMode(f.Name(), info.Mode(), 0o077)
}

func checkMode(path string, mode, never fs.FileMode) error {
	if mode.Perm()&never == 0 {
		return nil
	}
	return fmt.Errorf("%s can be used by others than its owner (mode %04o): run chmod 600 on it, and think of it as "+
		"known to them", path, mode.Perm())
}

// write puts a file in place as a whole: who reads it meanwhile finds the old one, or nothing. An
// existing one is replaced only if that is wanted.
func write(path string, b []byte, mode fs.FileMode, replace bool) (err error) {
	if !replace {
		if _, err := os.Lstat(path); err == nil {
			return fmt.Errorf("%s: %w: choose another name, or replace it with --overwrite", path, fs.ErrExist)
		}
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name()) // the error that is returned matters more
		}
	}()
	_, err = f.Write(b)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	if !replace {
		// Unlike a rename, a link never takes the place of what somebody else has just put there.
		if err := os.Link(f.Name(), path); err != nil {
			return err
		}
		return os.Remove(f.Name())
	}
	return os.Rename(f.Name(), path)
}
