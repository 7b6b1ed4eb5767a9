// SPDX-License-Identifier: Apache-2.0

package wal

import (
	"encoding/binary"
	"fmt"

	"github.com/concordtx/concord/internal/seal"
	"github.com/concordtx/concord/protocol/zab"
)

// The key spaces, by the first byte of a key. Each ends where the next begins. Of the
// two for the state one holds it, as stateKey says; a snapshot is staged in the other.
const (
	metaSpace  = 0x01
	logSpace   = 0x02
	stateSpace = 0x03
	otherSpace = 0x04
)

// theOther returns the space that does not hold the state.
func theOther(space byte) byte { return stateSpace + otherSpace - space }

// Keys of the meta space.
const (
	bootKey    = "\x01boot"
	hardKey    = "\x01hard"
	baseKey    = "\x01base"
	appliedKey = "\x01applied"
	spaceKey   = "\x01space" // the space of the state; without one it is stateSpace
)

const (
	zxidLen   = 4 + 8
	logKeyLen = 1 + zxidLen
	digestLen = 32
)

func putZxid(b []byte, z zab.Zxid) {
	binary.BigEndian.PutUint32(b, uint32(z.Epoch))
	binary.BigEndian.PutUint64(b[4:], z.Counter)
}

func getZxid(b []byte) zab.Zxid {
	return zab.Zxid{Epoch: zab.Epoch(binary.BigEndian.Uint32(b)), Counter: binary.BigEndian.Uint64(b[4:])}
}

func putLogKey(b []byte, z zab.Zxid) {
	b[0] = logSpace
	putZxid(b[1:], z)
}

func logKey(z zab.Zxid) []byte {
	b := make([]byte, logKeyLen)
	putLogKey(b, z)
	return b
}

// behind returns the least zxid greater than z in its epoch: as a key, the bound
// directly behind z.
func behind(z zab.Zxid) zab.Zxid { return zab.Zxid{Epoch: z.Epoch, Counter: z.Counter + 1} }

// unsealMeta returns the body of a value of the meta space, which has one length.
func unsealMeta(key string, value []byte, length int) ([]byte, error) {
	body, err := seal.Open([]byte(key), value)
	if err == nil && len(body) != length {
		err = seal.ErrLength
	}
	if err != nil {
		return nil, err
	}
	return body, nil
}

// entryLen is the length of the value of an entry: checksum, predecessor, data.
func entryLen(e zab.Entry) int { return seal.Len + zxidLen + len(e.Data) }

func putEntry(key, value []byte, e zab.Entry) {
	putLogKey(key, e.Zxid)
	putZxid(value[seal.Len:], e.Prev)
	copy(value[seal.Len+zxidLen:], e.Data)
	seal.Put(key, value)
}

// getEntry decodes an entry into memory of its own.
func getEntry(key, value []byte) (zab.Entry, error) {
	if len(key) != logKeyLen || key[0] != logSpace { // found by FuzzLogRecord: another space passed for the log
		return zab.Entry{}, fmt.Errorf("log key %x %w", key, seal.ErrLength)
	}
	z := getZxid(key[1:])
	body, err := seal.Open(key, value)
	if err == nil && len(body) < zxidLen {
		err = seal.ErrLength
	}
	if err != nil {
		return zab.Entry{}, fmt.Errorf("entry %v %w", z, err)
	}
	data := make([]byte, len(body)-zxidLen)
	copy(data, body[zxidLen:])
	return zab.Entry{Zxid: z, Prev: getZxid(body), Data: data}, nil
}

func hardValue(h zab.HardState) []byte {
	b := make([]byte, seal.Len+16)
	binary.BigEndian.PutUint32(b[seal.Len:], uint32(h.Accepted))
	binary.BigEndian.PutUint64(b[seal.Len+4:], uint64(h.AcceptedFrom))
	binary.BigEndian.PutUint32(b[seal.Len+12:], uint32(h.Current))
	seal.Put([]byte(hardKey), b)
	return b
}

func getHard(body []byte) zab.HardState {
	return zab.HardState{
		Accepted:     zab.Epoch(binary.BigEndian.Uint32(body)),
		AcceptedFrom: zab.NodeID(binary.BigEndian.Uint64(body[4:])),
		Current:      zab.Epoch(binary.BigEndian.Uint32(body[12:])),
	}
}

func zxidValue(key string, z zab.Zxid) []byte {
	b := make([]byte, seal.Len+zxidLen)
	putZxid(b[seal.Len:], z)
	seal.Put([]byte(key), b)
	return b
}

func putApplied(value []byte, z zab.Zxid, digest [digestLen]byte) {
	putZxid(value[seal.Len:], z)
	copy(value[seal.Len+zxidLen:], digest[:])
	seal.Put([]byte(appliedKey), value)
}

func bootValue(n uint32) []byte {
	b := make([]byte, seal.Len+4)
	binary.BigEndian.PutUint32(b[seal.Len:], n)
	seal.Put([]byte(bootKey), b)
	return b
}

func spaceValue(space byte) []byte {
	b := make([]byte, seal.Len+1)
	b[seal.Len] = space
	seal.Put([]byte(spaceKey), b)
	return b
}

// stateKey puts a key of the caller into a space of the state.
func stateKey(space byte, key []byte) []byte {
	b := make([]byte, 1+len(key))
	b[0] = space
	copy(b[1:], key)
	return b
}

// stateBounds returns the bounds of [lo, hi) in a space of the state; nil means open.
func stateBounds(space byte, lo, hi []byte) (lower, upper []byte) {
	if hi == nil {
		return stateKey(space, lo), []byte{space + 1}
	}
	return stateKey(space, lo), stateKey(space, hi)
}
