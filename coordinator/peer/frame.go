// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// A frame is a length (4 bytes, of kind and payload), a CRC-32C of kind and payload
// (4 bytes), a kind (1 byte) and a payload. All numbers are big-endian.
const (
	frameHeader = 8
	// maxFrame bounds what a peer can make us allocate. Entries are bounded far below
	// it, by package replica.
	maxFrame = 8 << 20
	// maxHandshake bounds the frames of a handshake: who has not said who he is gets no
	// more memory than that.
	maxHandshake = 1 << 10
	// maxList bounds one with a list of members.
	maxList = 32 << 10
	// firstRead is what a frame may claim without having it.
	firstRead = 32 << 10
)

type frameKind byte

const (
	frameHello frameKind = iota + 1
	frameRefused
	frameZAB
	frameReport
	frameSnapshotAsk  // of a session (8 bytes); the answer comes on the same connection
	frameSnapshotPart // see wal.Snapshot.Next
	frameSnapshotEnd
	frameMembers // a List, of who knows a later one, right after the hellos
	frameStanding
	frameRemoved // a hello and a List: whoever asks is no member any more
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var errBadFrame = errors.New("damaged or foreign bytes instead of a frame")

// beginFrame and endFrame enclose the payload that is appended to b between them.
func beginFrame(b []byte, k frameKind) ([]byte, int) {
	start := len(b)
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 0, byte(k))
	return b, start
}

func endFrame(b []byte, start int) []byte {
	body := b[start+frameHeader:]
	binary.BigEndian.PutUint32(b[start:], uint32(len(body)))
	binary.BigEndian.PutUint32(b[start+4:], crc32.Checksum(body, castagnoli))
	return b
}

// readBody reads n bytes. Memory follows what arrives: a length alone makes us allocate
// no more than firstRead.
func readBody(r io.Reader, n int) ([]byte, error) {
	body := make([]byte, min(n, firstRead))
	for have := 0; ; {
		if _, err := io.ReadFull(r, body[have:]); err != nil {
			return nil, err
		}
		if have = len(body); have == n {
			return body, nil
		}
		body = append(make([]byte, 0, min(n, 2*have)), body...)
		body = body[:cap(body)]
	}
}

// readFrame reads one frame. The payload is the caller's to keep.
func readFrame(r *bufio.Reader) (frameKind, []byte, error) { return readFrameUpTo(r, maxFrame) }

func readFrameUpTo(r *bufio.Reader, most uint32) (frameKind, []byte, error) {
	var h [frameHeader]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(h[:])
	if n == 0 || n > most {
		return 0, nil, fmt.Errorf("frame of %d bytes: %w", n, errBadFrame)
	}
	body, err := readBody(r, int(n))
	if err != nil {
		return 0, nil, err
	}
	if crc32.Checksum(body, castagnoli) != binary.BigEndian.Uint32(h[4:]) {
		return 0, nil, fmt.Errorf("checksum: %w", errBadFrame)
	}
	return frameKind(body[0]), body[1:], nil
}
