// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"bufio"
	"encoding/binary"
	"fmt"

	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

// Inbound is what a reader hands to the loop: a message, a report, or that the
// connection is lost. One channel for all three keeps their order.
type Inbound struct {
	From     zab.NodeID
	Message  zab.Message
	Report   *Report
	Standing *Standing
	Lost     bool
	Met      *Met // the first word on a connection
	// snapshot is not 0 if the peer asks for a snapshot in this session: it wants nothing
	// else on this connection.
	snapshot uint64
}

func readInbound(r *bufio.Reader, from zab.NodeID) (Inbound, error) {
	kind, body, err := readFrame(r)
	if err != nil {
		return Inbound{}, err
	}
	switch kind {
	case frameReport:
		rep, err := decodeReport(body)
		return Inbound{From: from, Report: &rep}, err
	case frameStanding:
		s, err := decodeStanding(body)
		return Inbound{From: from, Standing: &s}, err
	case frameZAB:
		m, err := zab.DecodeMessage(body)
		switch {
		case err != nil:
		case m.From != from:
			err = fmt.Errorf("a message from node %d: %w", m.From, errBadFrame)
		default:
			err = checkEntries(m.Body)
		}
		return Inbound{From: from, Message: m}, err
	case frameSnapshotAsk:
		if len(body) != 8 || binary.BigEndian.Uint64(body) == 0 {
			return Inbound{}, fmt.Errorf("request for a snapshot: %w", errBadFrame)
		}
		return Inbound{From: from, snapshot: binary.BigEndian.Uint64(body)}, nil
	}
	return Inbound{}, fmt.Errorf("kind %d: %w", kind, errBadFrame)
}

// checkEntries looks at log entries before anything is done about them: what is acknowledged
// is in the log for good, and records that do not decode would stop this node then, now and
// after each restart.
func checkEntries(body zab.Body) error {
	var entries []zab.Entry
	switch b := body.(type) {
	case zab.Propose:
		entries = b.Entries
	case zab.Inform:
		entries = b.Entries
	}
	for _, e := range entries {
		if err := txn.CheckRecords(e.Data); err != nil {
			return fmt.Errorf("log entry %v: %w", e.Zxid, err)
		}
	}
	return nil
}
