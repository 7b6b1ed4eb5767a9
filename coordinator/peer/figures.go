// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"encoding/binary"
	"fmt"
	"math"
	"time"
	"unicode/utf8"

	"github.com/concordtx/concord/coordinator/commit"
)

// What a report may say of figures: it goes to every node twice a second. What does not fit is
// unknown there.
const (
	maxToldResources = 512
	maxToldWarnings  = 32
	maxToldName      = 64  // bytes of a name or driver
	maxToldText      = 300 // bytes of an error, a warning or an identity
)

const (
	flagOK byte = 1 << iota
	flagAsked
)

// appendFigures encodes what is told of figures. Texts are cut, which only people read; an identity
// that is cut would be another one, so it is left out.
func appendFigures(b []byte, f *commit.Figures) []byte {
	b = appendTime(b, f.Clock)
	b = appendTime(b, f.Oldest)
	b = binary.BigEndian.AppendUint64(b, uint64(f.InDoubt))
	b = binary.BigEndian.AppendUint64(b, uint64(f.Heuristic))
	told := f.Resources[:min(len(f.Resources), maxToldResources)]
	b = binary.BigEndian.AppendUint16(b, uint16(len(told)))
	for _, r := range told {
		flags := byte(0)
		if r.OK {
			flags |= flagOK
		}
		if r.Asked {
			flags |= flagAsked
		}
		identity := r.Identity
		if len(identity) > maxToldText {
			identity = ""
		}
		b = append(b, flags)
		for _, text := range []string{cut(r.Name, maxToldName), cut(r.Driver, maxToldName), identity,
			cut(r.Err, maxToldText)} {
			b = appendText(b, text)
		}
		b = binary.BigEndian.AppendUint64(b, uint64(r.InDoubt))
		b = binary.BigEndian.AppendUint64(b, uint64(r.Foreign))
		b = appendTime(b, r.Oldest)
		b = appendTime(b, r.Listed)
	}
	warnings := f.Warnings
	if n := len(warnings); n > maxToldWarnings {
		warnings = append(warnings[:maxToldWarnings-1:maxToldWarnings-1],
			fmt.Sprintf("%d more warnings are shown by the leader", n-maxToldWarnings+1))
	}
	b = binary.BigEndian.AppendUint16(b, uint16(len(warnings)))
	for _, w := range warnings {
		b = appendText(b, cut(w, maxToldText))
	}
	return b
}

func decodeFigures(b []byte) (*commit.Figures, error) {
	d := figuresReader{rest: b}
	f := &commit.Figures{Clock: d.time(), Oldest: d.time(), InDoubt: d.count(), Heuristic: d.count()}
	for n := d.length(maxToldResources); n > 0 && !d.bad; n-- {
		flags := d.take(1)[0]
		d.bad = d.bad || flags > flagOK|flagAsked
		r := commit.ResourceFigures{Name: d.text(maxToldName), Driver: d.text(maxToldName)}
		r.Health = commit.Health{OK: flags&flagOK != 0, Asked: flags&flagAsked != 0, Identity: d.text(maxToldText),
			Err: d.text(maxToldText)}
		r.InDoubt, r.Foreign, r.Oldest, r.Listed = d.count(), d.count(), d.time(), d.time()
		f.Resources = append(f.Resources, r)
	}
	for n := d.length(maxToldWarnings); n > 0 && !d.bad; n-- {
		f.Warnings = append(f.Warnings, d.text(maxToldText))
	}
	if d.bad || len(d.rest) > 0 {
		return nil, fmt.Errorf("figures of a leader: %w", errBadFrame)
	}
	return f, nil
}

// figuresReader takes figures apart. After the first thing that is wrong all is zero.
type figuresReader struct {
	rest []byte
	bad  bool
}

func (d *figuresReader) take(n int) []byte {
	if d.bad || n > len(d.rest) {
		d.bad = true
		return make([]byte, n)
	}
	taken := d.rest[:n]
	d.rest = d.rest[n:]
	return taken
}

func (d *figuresReader) length(most int) int {
	n := int(binary.BigEndian.Uint16(d.take(2)))
	if n > most {
		d.bad = true
	}
	return n
}

func (d *figuresReader) count() int {
	n := binary.BigEndian.Uint64(d.take(8))
	d.bad = d.bad || n > math.MaxInt
	return int(n & math.MaxInt)
}

func (d *figuresReader) text(most int) string {
	n := d.length(most)
	if d.bad {
		return ""
	}
	text := string(d.take(n))
	d.bad = d.bad || !utf8.ValidString(text)
	return text
}

func (d *figuresReader) time() time.Time {
	ms := d.count()
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(int64(ms))
}

func appendTime(b []byte, t time.Time) []byte {
	if t.UnixMilli() <= 0 {
		return binary.BigEndian.AppendUint64(b, 0)
	}
	return binary.BigEndian.AppendUint64(b, uint64(t.UnixMilli()))
}

func appendText(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}

// cut shortens a text to at most n bytes of UTF-8.
func cut(s string, n int) string {
	const mark = "..."
	if !utf8.ValidString(s) {
		s = string([]rune(s)) // a database may say anything
	}
	if len(s) <= n {
		return s
	}
	for n -= len(mark); !utf8.RuneStart(s[n]); n-- {
	}
	return s[:n] + mark
}
