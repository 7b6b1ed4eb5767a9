// SPDX-License-Identifier: Apache-2.0

package api

import (
	"strconv"
	"strings"
	"sync/atomic"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/concordtx/concord/protocol/zab"
)

// ParseZxid validates a position in the log, "epoch.counter", as answers have it; empty
// means the beginning.
func ParseZxid(field, s string) (zab.Zxid, error) {
	if s == "" {
		return zab.Zxid{}, nil
	}
	epoch, counter, _ := strings.Cut(s, ".")
	e, ok := parseNumber(epoch, 32)
	c, cok := parseNumber(counter, 64)
	if !ok || !cok {
		return zab.Zxid{}, invalid(field, "%.40q is not a zxid, want epoch.counter as in an answer", s)
	}
	return zab.Zxid{Epoch: zab.Epoch(e), Counter: c}, nil
}

// parseNumber takes a number only as it is printed.
func parseNumber(s string, bits int) (uint64, bool) {
	n, err := strconv.ParseUint(s, 10, bits)
	return n, err == nil && (s == "0" || s[0] != '0')
}

// highWater is the highest zxid that a client got in answers. It goes with every request,
// so that no node answers from an older state. A nil one remembers nothing.
type highWater struct{ at atomic.Pointer[zab.Zxid] }

func (h *highWater) String() string {
	if h != nil {
		if p := h.at.Load(); p != nil {
			return p.String()
		}
	}
	return ""
}

// raise takes the zxid of an answer.
func (h *highWater) raise(zxid string) {
	p, err := ParseZxid("zxid", zxid)
	if h == nil || err != nil {
		return
	}
	for {
		was := h.at.Load()
		if was != nil && !was.Less(p) || was == nil && p == (zab.Zxid{}) {
			return
		}
		if now := p; h.at.CompareAndSwap(was, &now) {
			return
		}
	}
}

// seenName is the field of requests that says what their client has seen.
const seenName protoreflect.Name = "seen"

// stamped returns a request that says what the client has seen. The one that it was given
// may be in use elsewhere and is not touched; if it says something itself, that stands.
func stamped[M proto.Message](r M, seen string) M {
	from := r.ProtoReflect()
	field := from.Descriptor().Fields().ByName(seenName)
	if seen == "" || field == nil || from.Get(field).String() != "" {
		return r
	}
	to := from.New()
	from.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		to.Set(f, v)
		return true
	})
	to.Set(field, protoreflect.ValueOfString(seen))
	return to.Interface().(M)
}

// zxidOf returns the zxid of an answer, if it has one.
func zxidOf(answer any) string {
	if a, ok := answer.(interface{ GetZxid() string }); ok {
		return a.GetZxid()
	}
	return ""
}
