// SPDX-License-Identifier: Apache-2.0

package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

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
	crcLen    = 4
	digestLen = 32
)

var (
	errLength   = errors.New("has the wrong length")
	errChecksum = errors.New("does not match its checksum")
	errFlags    = errors.New("has flags that mean nothing here")
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

// checksum is the CRC-32C over key and body, so that a value under a wrong key does
// not pass.
func checksum(key, body []byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	return crc32.Update(crc32.Update(0, table, key), table, body)
}

// seal fills value[:4] with the checksum of key and the rest of value.
func seal(key, value []byte) {
	binary.BigEndian.PutUint32(value, checksum(key, value[crcLen:]))
}

// unseal returns the body of a sealed value.
func unseal(key, value []byte) ([]byte, error) {
	if len(value) < crcLen {
		return nil, errLength
	}
	if binary.BigEndian.Uint32(value) != checksum(key, value[crcLen:]) {
		return nil, errChecksum
	}
	return value[crcLen:], nil
}

// unsealMeta returns the body of a value of the meta space, which has one length.
func unsealMeta(key string, value []byte, length int) ([]byte, error) {
	body, err := unseal([]byte(key), value)
	if err == nil && len(body) != length {
		err = errLength
	}
	if err != nil {
		return nil, err
	}
	return body, nil
}

// entryLen is the length of the value of an entry: checksum, predecessor, data.
func entryLen(e zab.Entry) int { return crcLen + zxidLen + len(e.Data) }

func putEntry(key, value []byte, e zab.Entry) {
	putLogKey(key, e.Zxid)
	putZxid(value[crcLen:], e.Prev)
	copy(value[crcLen+zxidLen:], e.Data)
	seal(key, value)
}

// getEntry decodes an entry into memory of its own.
func getEntry(key, value []byte) (zab.Entry, error) {
	if len(key) != logKeyLen || key[0] != logSpace { // found by FuzzLogRecord: another space passed for the log
		return zab.Entry{}, fmt.Errorf("log key %x %w", key, errLength)
	}
	z := getZxid(key[1:])
	body, err := unseal(key, value)
	if err == nil && len(body) < zxidLen {
		err = errLength
	}
	if err != nil {
		return zab.Entry{}, fmt.Errorf("entry %v %w", z, err)
	}
	data := make([]byte, len(body)-zxidLen)
	copy(data, body[zxidLen:])
	return zab.Entry{Zxid: z, Prev: getZxid(body), Data: data}, nil
}

func hardValue(h zab.HardState) []byte {
	b := make([]byte, crcLen+16)
	binary.BigEndian.PutUint32(b[crcLen:], uint32(h.Accepted))
	binary.BigEndian.PutUint64(b[crcLen+4:], uint64(h.AcceptedFrom))
	binary.BigEndian.PutUint32(b[crcLen+12:], uint32(h.Current))
	seal([]byte(hardKey), b)
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
	b := make([]byte, crcLen+zxidLen)
	putZxid(b[crcLen:], z)
	seal([]byte(key), b)
	return b
}

func putApplied(value []byte, z zab.Zxid, digest [digestLen]byte) {
	putZxid(value[crcLen:], z)
	copy(value[crcLen+zxidLen:], digest[:])
	seal([]byte(appliedKey), value)
}

func bootValue(n uint32) []byte {
	b := make([]byte, crcLen+4)
	binary.BigEndian.PutUint32(b[crcLen:], n)
	seal([]byte(bootKey), b)
	return b
}

func spaceValue(space byte) []byte {
	b := make([]byte, crcLen+1)
	b[crcLen] = space
	seal([]byte(spaceKey), b)
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
