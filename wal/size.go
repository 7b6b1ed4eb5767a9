// SPDX-License-Identifier: Apache-2.0

package wal

import (
	"fmt"

	"github.com/concordtx/concord/protocol/zab"
)

const (
	// stoneBytes of log stand between two milestones.
	stoneBytes = 1 << 20
	// entryOverhead is about what an entry takes besides its data, in bytes.
	entryOverhead = 48
)

// logSize knows about how many bytes the log has, and where in it they are. What a
// store finds when it is opened counts as one piece, by what the engine says that it
// takes on disk.
type logSize struct {
	total  uint64 // all bytes so far, cut ones included
	gone   uint64 // of them cut
	stones []milestone
}

// milestone says that total was so much when z was appended.
type milestone struct {
	z     zab.Zxid
	total uint64
}

func (l *logSize) append(z zab.Zxid, bytes uint64) {
	l.total += bytes
	last := l.gone
	if n := len(l.stones); n > 0 {
		last = l.stones[n-1].total
	}
	if l.total-last >= stoneBytes {
		l.stones = append(l.stones, milestone{z: z, total: l.total})
	}
}

// change follows writes of the log.
func (l *logSize) change(ws []zab.Write) {
	for _, w := range ws {
		if w.TruncateAfter != nil {
			l.truncate(*w.TruncateAfter)
		}
		for _, e := range w.Entries {
			l.append(e.Zxid, uint64(len(e.Data))+entryOverhead)
		}
		if w.Cut != nil {
			l.cut(*w.Cut)
		}
		if w.Install != nil {
			*l = logSize{}
		}
	}
}

// truncate forgets the milestones behind z. What stood between them counts on until it
// would have been cut: a truncation is short and rare.
func (l *logSize) truncate(z zab.Zxid) {
	for n := len(l.stones); n > 0 && z.Less(l.stones[n-1].z); n-- {
		l.stones = l.stones[:n-1]
	}
}

func (l *logSize) cut(z zab.Zxid) {
	for len(l.stones) > 0 && !z.Less(l.stones[0].z) {
		l.gone = l.stones[0].total
		l.stones = l.stones[1:]
	}
}

// before returns the first milestone that about no more than these bytes stand behind.
func (l *logSize) before(bytes uint64) (zab.Zxid, bool) {
	if l.total-l.gone <= bytes {
		return zab.Zxid{}, false
	}
	for _, s := range l.stones {
		if l.total-s.total <= bytes {
			return s.z, true
		}
	}
	return zab.Zxid{}, false
}

// LogSize returns how many entries the log has, and about how many bytes they take.
func (s *Store) LogSize() (entries, bytes uint64) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.log.count(), s.size.total - s.size.gone
}

// CutPoint returns where to cut the log so that no more than these entries and about
// these bytes of it stay: an applied entry, or the base if nothing needs to go.
func (s *Store) CutPoint(entries, bytes uint64) zab.Zxid {
	s.mu.RLock()
	defer s.mu.RUnlock()
	z := s.log.before(entries)
	if stone, ok := s.size.before(bytes); ok && z.Less(stone) {
		z = stone
	}
	if s.applied.Less(z) {
		z = s.applied
	}
	return z
}

// measureLog asks the engine for the size of the log, at opening. What was cut off may still be in its
// tables, so it is asked from the base on.
func (s *Store) measureLog() (l logSize, err error) {
	if s.log.count() == 0 {
		return l, nil
	}
	l.total, err = s.engine.EstimateDiskUsage(logKey(behind(s.log.base)), []byte{logSpace + 1})
	if err != nil {
		return l, fmt.Errorf("store %s: measure the log: %w", s.dir, err)
	}
	l.stones = []milestone{{z: s.log.last(), total: l.total}}
	return l, nil
}
