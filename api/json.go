// SPDX-License-Identifier: Apache-2.0

package api

import (
	"fmt"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// StrictJSON makes a handler refuse fields that it does not know. Left out silently, a misspelt kind of
// value would be null, and a limit none.
func StrictJSON() connect.HandlerOption {
	return connect.WithHandlerOptions(connect.WithCodec(strictJSON("json")),
		connect.WithCodec(strictJSON("json; charset=utf-8")))
}

// strictJSON is a codec of this name.
type strictJSON string

var _ connect.Codec = strictJSON("")

// Name implements connect.Codec.
func (c strictJSON) Name() string { return string(c) }

// Marshal implements connect.Codec.
func (c strictJSON) Marshal(m any) ([]byte, error) {
	message, ok := m.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("api: %T is not a message", m)
	}
	return protojson.Marshal(message)
}

// Unmarshal implements connect.Codec.
func (c strictJSON) Unmarshal(b []byte, m any) error {
	message, ok := m.(proto.Message)
	if !ok {
		return fmt.Errorf("api: %T is not a message", m)
	}
	return protojson.Unmarshal(b, message)
}
