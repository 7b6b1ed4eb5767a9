// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"github.com/concordtx/concord/security"
)

const (
	maxConfigFile = 1 << 20
	maxSecretFile = 64 << 10
	// fileTimeout is how long a file that is a pipe may take.
	fileTimeout = 5 * time.Second
)

// readFile reads a file of at most limit bytes. What is no regular file may be read too, as
// shells hand out pipes, and ends by the limit or by the time. Errors do not
// name the file. exposed is what is wrong with it if it turns out to hold a secret.
func readFile(name string, limit int64) (b []byte, exposed, err error) {
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0) // else a pipe that nobody writes to waits for ever
	if err != nil {
		return nil, nil, withoutPath(err)
	}
	defer f.Close()
	_ = f.SetReadDeadline(time.Now().Add(fileTimeout)) // regular files have none, and need none
	b, err = io.ReadAll(io.LimitReader(f, limit+1))
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, nil, fmt.Errorf("it is a pipe that did not end within %v", fileTimeout)
	case err != nil:
		return nil, nil, withoutPath(err)
	case int64(len(b)) > limit:
		return nil, nil, fmt.Errorf("it is larger than %d KiB", limit>>10)
	case len(b) == 0:
		return nil, nil, errors.New("it is empty")
	}
	return b, security.CheckSecret(f), nil
}

// withoutPath takes the name of the file away from an error.
func withoutPath(err error) error {
	if path := (*os.PathError)(nil); errors.As(err, &path) {
		return path.Err
	}
	return err
}
