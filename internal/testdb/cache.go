// SPDX-License-Identifier: Apache-2.0

package testdb

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"syscall"
)

// templateRevision changes when the initialise methods do.
const templateRevision = 2

// rootCacheDir is root's cache: outside of its home, which other users cannot read.
const rootCacheDir = "/var/cache/concord-testdb"

func cacheDir() (string, error) {
	if os.Geteuid() == 0 {
		return rootCacheDir, nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return filepath.Join(os.TempDir(), fmt.Sprintf("concord-testdb-%d", os.Geteuid())), nil
	}
	return filepath.Join(dir, "concord-testdb"), nil
}

// sharedDir is a folder of the cache that other test processes use too.
func sharedDir(name string) (string, error) {
	cache, err := cacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, name)
	return dir, os.MkdirAll(dir, 0o755)
}

// copyTemplate fills data with a freshly initialised data directory. The first
// process on a machine initialises it; the others wait for that and copy.
func copyTemplate(f flavor, version string, user *account, data string) error {
	dir, err := sharedDir("templates")
	if err != nil {
		return err
	}
	key := regexp.MustCompile(`[^0-9A-Za-z.-]`).ReplaceAllString(version, "_")
	template := filepath.Join(dir, fmt.Sprintf("%s-%s-%d-%d", f.name(), key, user.uid, templateRevision))
	if err := makeTemplate(f, user, template); err != nil {
		return fmt.Errorf("initialise a data directory of %s %s: %w", f.name(), version, err)
	}
	return copyTree(template, data, user)
}

func makeTemplate(f flavor, user *account, template string) (err error) {
	if _, err := os.Stat(template); err == nil {
		return nil
	}
	lock, err := os.OpenFile(template+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return err
	}
	if _, err := os.Stat(template); err == nil {
		return nil // another process was faster
	}
	unfinished := template + ".unfinished"
	if err := os.RemoveAll(unfinished); err != nil {
		return err
	}
	if err := user.makeDir(unfinished, 0o700); err != nil {
		return err
	}
	run := func(cmd *exec.Cmd) error {
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: user.credential}
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w:\n%s", filepath.Base(cmd.Path), err, out)
		}
		return nil
	}
	if err := f.initialise(unfinished, run); err != nil {
		return err
	}
	return os.Rename(unfinished, template)
}

func copyTree(from, to string, user *account) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		switch {
		case d.IsDir():
			return user.makeDir(target, 0o700)
		case d.Type().IsRegular():
			return copyFile(path, target, user)
		default:
			return nil // a socket that a server left
		}
	})
}

func copyFile(from, to string, user *account) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if _, err := io.Copy(out, in); err != nil {
		return err
	}
	return user.own(to)
}

// Save copies the files of a server that is stopped, as a backup does.
func (s *Server) Save() (*Files, error) {
	if s.PID() != 0 {
		return nil, fmt.Errorf("save %s: it runs: stop it first", s.Flavor())
	}
	dir, err := os.MkdirTemp(s.dir, "saved-")
	if err != nil {
		return nil, err
	}
	if err := s.user.own(dir); err != nil {
		return nil, err
	}
	f := &Files{of: s, dir: filepath.Join(dir, "data")}
	return f, copyTree(s.data(), f.dir, s.user)
}

// Files are those of a server, as they were once.
type Files struct {
	of  *Server
	dir string
}

// PutBack puts the files in the place of those that the server, which is stopped, has now.
func (f *Files) PutBack() error {
	if f.of.PID() != 0 {
		return fmt.Errorf("put files of %s back: it runs: stop it first", f.of.Flavor())
	}
	if err := os.RemoveAll(f.of.data()); err != nil {
		return err
	}
	return copyTree(f.dir, f.of.data(), f.of.user)
}
