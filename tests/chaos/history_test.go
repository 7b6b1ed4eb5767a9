// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/concordtx/concord"
)

// record is one line of what a client did or was told.
type record struct {
	At   int64  `json:"at"` // nanoseconds of the wall clock: all processes are on one machine
	Op   op     `json:"op"`
	GID  string `json:"gid,omitempty"`
	Kind string `json:"kind,omitempty"`
	// Of begun: where the transaction writes a row with its gid and this payload.
	Rows    []string `json:"rows,omitempty"`
	Payload string   `json:"payload,omitempty"`
	Key     string   `json:"key,omitempty"` // idempotency key
	// Of told and polled.
	Outcome string `json:"outcome,omitempty"`
	Error   string `json:"error,omitempty"`
	Since   int64  `json:"since,omitempty"` // when the question was asked
	// Of told, committed: what was read and appended in lists, and the sum over all SQL databases.
	Lists []access `json:"lists,omitempty"`
	Sum   *int64   `json:"sum,omitempty"`
}

type op string

const (
	begun  op = "begun"  // before any work
	asked  op = "asked"  // before the commit is asked for
	told   op = "told"   // how it ended, for its client
	polled op = "polled" // what somebody else was told about it
)

// access is what a transaction did to one list: it read it under a lock, or appended a value.
type access struct {
	List   int   `json:"list"`
	Read   []int `json:"read,omitempty"`
	Append int   `json:"append,omitempty"` // 0: it read
}

// Outcomes in records, besides those of concord.Outcome.
const (
	committed = "committed"
	aborted   = "aborted"
	unknown   = "unknown"
	pending   = "pending"
	wrong     = "wrong" // an error of no kind that is promised
)

// outcomeOf is what an error of a commit says.
func outcomeOf(err error) string {
	switch {
	case err == nil:
		return committed
	case errors.Is(err, concord.ErrUnknownOutcome):
		return unknown
	case errors.Is(err, concord.ErrAborted):
		return aborted
	}
	return wrong
}

// diary is where one client writes its records. A line is there as soon as write has returned, also if the
// process is killed right after.
type diary struct {
	mu sync.Mutex
	to *os.File
}

func openDiary(path string) (*diary, error) {
	to, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	return &diary{to: to}, err
}

func (d *diary) write(r record) error {
	r.At = time.Now().UnixNano()
	line, err := json.Marshal(r)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	_, err = d.to.Write(append(line, '\n'))
	return err
}

// history is what all clients of a directory wrote, in their order. It is read while they write.
type history struct {
	dir string

	mu      sync.Mutex
	read    map[string]int64 // how far each diary is read
	records []record
	commits int
	answers map[string]int // by outcome
	begun   map[string]bool
}

func newHistory(dir string) *history {
	return &history{dir: dir, read: map[string]int64{}, answers: map[string]int{}, begun: map[string]bool{}}
}

// poll reads what is new.
func (h *history) poll() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	diaries, err := filepath.Glob(filepath.Join(h.dir, "*.diary"))
	if err != nil {
		return err
	}
	for _, path := range diaries {
		if err := h.follow(path); err != nil {
			return err
		}
	}
	return nil
}

func (h *history) follow(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	b, err := io.ReadAll(io.NewSectionReader(f, h.read[path], 1<<40))
	if err != nil {
		return err
	}
	end := bytes.LastIndexByte(b, '\n') + 1 // the last line may be under way
	for line := range strings.Lines(string(b[:end])) {
		var r record
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			return fmt.Errorf("%s: %q: %w", path, line, err)
		}
		h.records = append(h.records, r)
		switch r.Op {
		case begun:
			h.begun[r.GID] = true
		case told:
			if h.answers[r.Outcome]++; r.Outcome == committed {
				h.commits++
			}
		}
	}
	h.read[path] += int64(end)
	return nil
}

// sofar is how many transactions have begun and committed.
func (h *history) sofar() (begun, commits int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.begun), h.commits
}
