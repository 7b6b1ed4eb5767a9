// SPDX-License-Identifier: Apache-2.0

package seal

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
)

// Len is how many bytes the checksum takes at the beginning of a value.
const Len = 4

// Why a value is not what was sealed.
var (
	ErrLength   = errors.New("has the wrong length")
	ErrChecksum = errors.New("does not match its checksum")
)

// Checksum is the CRC-32C over key and body.
func Checksum(key, body []byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	return crc32.Update(crc32.Update(0, table, key), table, body)
}

// Put fills value[:Len] with the checksum of key and the rest of value.
func Put(key, value []byte) {
	binary.BigEndian.PutUint32(value, Checksum(key, value[Len:]))
}

// Open returns the body of a sealed value, which is part of it, or ErrLength or ErrChecksum.
func Open(key, value []byte) ([]byte, error) {
	if len(value) < Len {
		return nil, ErrLength
	}
	if binary.BigEndian.Uint32(value) != Checksum(key, value[Len:]) {
		return nil, ErrChecksum
	}
	return value[Len:], nil
}
