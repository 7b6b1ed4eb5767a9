// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
	"github.com/concordtx/concord/wal"
)

// The applied state has one key per transaction: under 'o' while it is open, under
// 'f' when it is finished, in order of birth. Uses of keys are under 'k', see keySpace. Start-up reads the open ones
// only, so its time does not grow with history. What a Table knows besides is under 'm', 'v' and 'l'.
const (
	openKey     = 'o'
	finishedKey = 'f'
	witnessKey  = 'w' // open gids of three-phase transactions, from LevelThreePhase on
	metaKey     = "m"
	levelKey    = "v" // there from the first level above LevelBase on
	leasesKey   = "l" // there once a lease was granted
	membersKey  = "n" // from LevelMembers on
	agentsKey   = "a" // there once an agent has voted, from LevelAgents on
	actKey      = 'u' // acts of people, by number, from LevelAudit on
	rememberKey = "h" // once something is remembered of a database, from LevelHighWater on
)

func stateKey(space byte, id txn.ID) []byte {
	return append(append(make([]byte, 0, 1+len(id)), space), id[:]...)
}

// toState turns the changes of the first n folds into one write of the store. A fold
// that purges begins a new write, because a purge comes first in it. The members are written
// unless they are those that the store has.
func toState(folds []txn.Changes, stored *txn.Members) (s wal.StateChange, n int) {
	if purge := folds[0].PurgeBefore; !purge.IsZero() {
		s.DeleteRanges = append(s.DeleteRanges, wal.Range{Lo: []byte{finishedKey}, Hi: stateKey(finishedKey, purge)},
			keysBefore(purge))
	}
	latest := make(map[txn.ID]txn.Txn, len(folds)) // the last fold that touched a transaction says where it is
	for n = 0; n < len(folds) && (n == 0 || folds[n].PurgeBefore.IsZero()); n++ {
		for _, x := range folds[n].Open {
			latest[x.ID] = x
		}
		for _, x := range folds[n].Finished {
			latest[x.ID] = x
		}
	}
	for id, x := range latest {
		value, _ := x.AppendBinary(make([]byte, 0, 256)) // it has no way to fail
		space, other := byte(openKey), byte(finishedKey)
		if x.Finished() {
			space, other = other, space
		}
		s.Puts = append(s.Puts, wal.Pair{Key: stateKey(space, id), Value: value})
		s.Deletes = append(s.Deletes, stateKey(other, id))
	}
	uses := make(map[string]txn.KeyUse)
	for i := range folds[:n] {
		for _, u := range folds[i].Keys {
			uses[u.Key] = u
		}
	}
	for _, u := range uses {
		s.Puts = append(s.Puts, usePair(u))
	}
	witnesses := make(map[txn.ID]*txn.Witness)
	for i := range folds[:n] {
		for j := range folds[i].Witnesses {
			witnesses[folds[i].Witnesses[j].ID] = &folds[i].Witnesses[j]
		}
		for _, id := range folds[i].Closed {
			witnesses[id] = nil
		}
	}
	for id, w := range witnesses {
		if w == nil {
			s.Deletes = append(s.Deletes, stateKey(witnessKey, id))
			continue
		}
		value, _ := w.AppendBinary(nil) // it has no way to fail
		s.Puts = append(s.Puts, wal.Pair{Key: stateKey(witnessKey, id), Value: value})
	}
	actsToState(&s, folds[:n])
	meta := folds[n-1].Meta
	if slices.ContainsFunc(folds[:n], func(c txn.Changes) bool { return len(c.Granted)+len(c.Ended) > 0 }) {
		s.Puts = append(s.Puts, wal.Pair{Key: []byte(leasesKey), Value: encodeLeases(meta.Leases)})
	}
	s.Applied, s.Digest = meta.Zxid, meta.Digest
	s.Puts = append(s.Puts, wal.Pair{Key: []byte(metaKey), Value: encodeMeta(meta)})
	if meta.Members != stored && meta.Members != nil {
		value, _ := meta.Members.AppendBinary(nil) // it has no way to fail
		s.Puts = append(s.Puts, wal.Pair{Key: []byte(membersKey), Value: value})
	}
	if slices.ContainsFunc(folds[:n], func(c txn.Changes) bool { return c.Voted }) {
		value, _ := meta.Agents.AppendBinary(nil) // it has no way to fail
		s.Puts = append(s.Puts, wal.Pair{Key: []byte(agentsKey), Value: value})
	}
	if len(meta.Remembered) > 0 {
		s.Puts = append(s.Puts, wal.Pair{Key: []byte(rememberKey), Value: txn.AppendRemembered(nil, meta.Remembered)})
	}
	if meta.Level > txn.LevelBase {
		s.Puts = append(s.Puts, wal.Pair{Key: []byte(levelKey), Value: encodeLevel(meta.Level)})
	}
	return s, n
}

func keyOfAct(no uint64) []byte { return binary.BigEndian.AppendUint64([]byte{actKey}, no) }

// actsToState adds the acts of people that are new or ended to a write, and removes those that are not kept.
func actsToState(s *wal.StateChange, folds []txn.Changes) {
	acts, from := make(map[uint64]txn.Act), uint64(0)
	for i := range folds {
		for _, a := range folds[i].Acts {
			acts[a.No] = a
		}
		from = max(from, folds[i].ActsFrom)
	}
	if from > 0 {
		s.DeleteRanges = append(s.DeleteRanges, wal.Range{Lo: []byte{actKey}, Hi: keyOfAct(from)})
	}
	for no, a := range acts {
		if no >= from {
			value, _ := a.AppendBinary(nil) // it has no way to fail
			s.Puts = append(s.Puts, wal.Pair{Key: keyOfAct(no), Value: value})
		}
	}
}

func loadActs(s *wal.Store) (acts []*txn.Act, err error) {
	var bad error
	err = s.Scan([]byte{actKey}, []byte{actKey + 1}, false, func(_, value []byte) bool {
		a := &txn.Act{}
		bad = a.UnmarshalBinary(value)
		acts = append(acts, a)
		return bad == nil
	})
	return acts, cmp.Or(err, bad)
}

func encodeMeta(m txn.Meta) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(m.Cluster))
	mark := int64(0)
	if !m.Watermark.IsZero() {
		mark = m.Watermark.UnixMilli()
	}
	b = binary.BigEndian.AppendUint64(b, uint64(mark))
	for _, s := range m.Stores {
		b = append(binary.BigEndian.AppendUint64(b, s.Node), s.Store[:]...)
		b = s.Holds.Append(b)
	}
	return b
}

// decodeMeta is the inverse of encodeMeta. It leaves position and digest as they are.
func decodeMeta(b []byte, m *txn.Meta) error {
	const one = 8 + len(txn.StoreID{}) + 12
	if len(b) < 12 || (len(b)-12)%one != 0 {
		return fmt.Errorf("meta data of the table: %w", txn.ErrBadTxn)
	}
	m.Cluster = txn.ClusterID(binary.BigEndian.Uint32(b))
	if mark := int64(binary.BigEndian.Uint64(b[4:])); mark != 0 {
		m.Watermark = time.UnixMilli(mark)
	}
	for b = b[12:]; len(b) > 0; b = b[one:] {
		m.Stores = append(m.Stores, txn.MemberStore{Node: binary.BigEndian.Uint64(b), Store: txn.StoreID(b[8 : one-12]),
			Holds: zab.ZxidAt(b[one-12:])})
	}
	return nil
}

// ErrNewerStore says that a store holds what only a later release can read.
var ErrNewerStore = errors.New("the store belongs to a later release of concord")

func encodeLevel(l txn.FeatureLevel) []byte { return binary.BigEndian.AppendUint16(nil, uint16(l)) }

func decodeLevel(b []byte) (txn.FeatureLevel, error) {
	if len(b) != 2 {
		return 0, fmt.Errorf("feature level of the state: %w", txn.ErrBadTxn)
	}
	l := txn.FeatureLevel(binary.BigEndian.Uint16(b))
	if l > txn.Newest {
		return 0, fmt.Errorf("%w: the cluster is at feature level %d, this program knows only up to %d: run the "+
			"release that the other nodes run",
			ErrNewerStore, l, txn.Newest)
	}
	return l, nil
}

func encodeLeases(l txn.Leases) []byte {
	b := binary.BigEndian.AppendUint32(make([]byte, 0, 4+4*len(l.Active)), uint32(l.Last))
	for _, n := range l.Active {
		b = binary.BigEndian.AppendUint32(b, uint32(n))
	}
	return b
}

func decodeLeases(b []byte) (l txn.Leases, err error) {
	if len(b) < 4 || len(b)%4 != 0 {
		return l, fmt.Errorf("leases of the clients: %w", txn.ErrBadTxn)
	}
	l.Last = txn.Lease(binary.BigEndian.Uint32(b))
	for b = b[4:]; len(b) > 0; b = b[4:] {
		n := txn.Lease(binary.BigEndian.Uint32(b))
		if n == 0 || n > l.Last || len(l.Active) > 0 && n <= l.Active[len(l.Active)-1] {
			return l, fmt.Errorf("leases of the clients: %w", txn.ErrBadTxn)
		}
		l.Active = append(l.Active, n)
	}
	return l, nil
}

// checkPair reports, by its error, whether a pair of the state is one that toState makes: the
// state of another node is looked at before it takes the place of ours, since a node cannot
// start from what it cannot read.
func checkPair(key, value []byte) error {
	switch string(key) {
	case metaKey:
		return decodeMeta(value, &txn.Meta{})
	case levelKey:
		_, err := decodeLevel(value)
		return err
	case leasesKey:
		_, err := decodeLeases(value)
		return err
	case membersKey:
		return new(txn.Members).UnmarshalBinary(value)
	case agentsKey:
		return new(txn.Agents).UnmarshalBinary(value)
	case rememberKey:
		_, err := txn.DecodeRemembered(value)
		return err
	}
	if len(key) > 0 && key[0] == keySpace {
		return checkUse(key, value)
	}
	if len(key) > 0 && key[0] == actKey {
		var a txn.Act
		if err := a.UnmarshalBinary(value); err != nil {
			return err
		}
		if !bytes.Equal(key, keyOfAct(a.No)) {
			return fmt.Errorf("act %d under the key %x: %w", a.No, key, txn.ErrBadTxn)
		}
		return nil
	}
	if len(key) > 0 && key[0] == witnessKey {
		var w txn.Witness
		if err := w.UnmarshalBinary(value); err != nil {
			return err
		}
		if !bytes.Equal(key, stateKey(witnessKey, w.ID)) {
			return fmt.Errorf("open transaction %v under the key %x: %w", w.ID, key, txn.ErrBadTxn)
		}
		return nil
	}
	var x txn.Txn
	if err := x.UnmarshalBinary(value); err != nil {
		return err
	}
	if !bytes.Equal(key, stateKey(openKey, x.ID)) && !bytes.Equal(key, stateKey(finishedKey, x.ID)) {
		return fmt.Errorf("transaction %v under the key %x: %w", x.ID, key, txn.ErrBadTxn)
	}
	return nil
}

// loadTable makes the table of a node from its store.
func loadTable(s *wal.Store, a txn.Archive) (*txn.Table, error) {
	var m txn.Meta
	applied, digest := s.Applied()
	m.Zxid, m.Digest = applied, digest
	value, found, err := s.Get([]byte(metaKey))
	if err != nil {
		return nil, err
	}
	if found {
		if err := decodeMeta(value, &m); err != nil {
			return nil, err
		}
	}
	if value, found, err = s.Get([]byte(levelKey)); err != nil {
		return nil, err
	}
	if found {
		if m.Level, err = decodeLevel(value); err != nil {
			return nil, err
		}
	}
	if value, found, err = s.Get([]byte(leasesKey)); err != nil {
		return nil, err
	}
	if found {
		if m.Leases, err = decodeLeases(value); err != nil {
			return nil, err
		}
	}
	if value, found, err = s.Get([]byte(membersKey)); err != nil {
		return nil, err
	}
	if found {
		m.Members = &txn.Members{}
		if err := m.Members.UnmarshalBinary(value); err != nil {
			return nil, err
		}
	}
	if value, found, err = s.Get([]byte(agentsKey)); err != nil {
		return nil, err
	}
	if found {
		if err := m.Agents.UnmarshalBinary(value); err != nil {
			return nil, err
		}
	}
	if value, found, err = s.Get([]byte(rememberKey)); err != nil {
		return nil, err
	}
	if found {
		if m.Remembered, err = txn.DecodeRemembered(value); err != nil {
			return nil, fmt.Errorf("what is remembered of databases: %w", err)
		}
	}
	if m.Acts, err = loadActs(s); err != nil {
		return nil, fmt.Errorf("acts of people: %w", err)
	}
	var open []txn.Txn
	err = scanTxns(s, openKey, nil, false, func(x txn.Txn) bool { open = append(open, x); return true })
	if err != nil {
		return nil, err
	}
	witnesses, err := loadWitnesses(s)
	if err != nil {
		return nil, err
	}
	return txn.NewTable(m, open, a, witnesses...), nil
}

func loadWitnesses(s *wal.Store) (all []txn.Witness, err error) {
	var bad error
	err = s.Scan([]byte{witnessKey}, []byte{witnessKey + 1}, false, func(_, value []byte) bool {
		var w txn.Witness
		if bad = w.UnmarshalBinary(value); bad != nil {
			return false
		}
		all = append(all, w)
		return true
	})
	return all, cmp.Or(err, bad)
}

// scanTxns visits the stored transactions of a space in order of birth, or newest
// first; with before not nil only those before it.
func scanTxns(s *wal.Store, space byte, before *txn.ID, reverse bool, visit func(txn.Txn) bool) error {
	hi := []byte{space + 1}
	if before != nil {
		hi = stateKey(space, *before)
	}
	var bad error
	err := s.Scan([]byte{space}, hi, reverse, func(_, value []byte) bool {
		var x txn.Txn
		if bad = x.UnmarshalBinary(value); bad != nil {
			return false
		}
		return visit(x)
	})
	if err == nil {
		err = bad
	}
	return err
}

// Uses of idempotency keys are stored by the era in which their transactions began: keySpace, four
// bytes of the era, the key. An era is dropped when the watermark has passed all of it; until then a
// table takes no notice of what is older than the watermark. Of two uses of one key the later era has
// the one that counts: the first was forgotten before the second could come.
const keySpace = 'k' // from LevelKeys on

const keyPrefix = 1 + 4 // bytes before the key

func eraKey(e txn.KeyEra) []byte {
	return binary.BigEndian.AppendUint32([]byte{keySpace}, uint32(e))
}

func usePair(u txn.KeyUse) wal.Pair {
	value, _ := u.AppendBinary(nil) // it has no way to fail
	return wal.Pair{Key: append(eraKey(u.ID.Era()), u.Key...), Value: value}
}

// keysBefore are the uses whose eras are over before a transaction.
func keysBefore(id txn.ID) wal.Range {
	return wal.Range{Lo: []byte{keySpace}, Hi: eraKey(id.Era())}
}

// findKey looks a key up, in the latest era first. There are as many eras as fit into the retention,
// and one or two more.
func findKey(s *wal.Store, key string) (use txn.KeyUse, found bool, err error) {
	for hi := []byte{keySpace + 1}; hi != nil && !found && err == nil; {
		var era []byte
		err = s.Scan([]byte{keySpace}, hi, true, func(k, _ []byte) bool {
			if len(k) > keyPrefix {
				era = append(era, k[:keyPrefix]...)
			}
			return false
		})
		if hi = era; era == nil || err != nil {
			break
		}
		var value []byte
		if value, found, err = s.Get(append(append([]byte(nil), era...), key...)); found && err == nil {
			err = use.UnmarshalBinary(value)
			use.Key = key
		}
	}
	return use, found, err
}

var errBadKeyUse = errors.New("use of an idempotency key")

// checkUse is checkPair for a use.
func checkUse(key, value []byte) error {
	var u txn.KeyUse
	if err := u.UnmarshalBinary(value); err != nil {
		return fmt.Errorf("%w: %w", errBadKeyUse, err)
	}
	if len(key) <= keyPrefix || len(key) > keyPrefix+txn.MaxKey ||
		binary.BigEndian.Uint32(key[1:]) != uint32(u.ID.Era()) {
		return fmt.Errorf("%w by %v under the key %x: %w", errBadKeyUse, u.ID, key, txn.ErrBadTxn)
	}
	return nil
}

// restoredState is what a node holds in memory of a snapshot that has taken the place of its state.
// However much that is, the loop only takes it over: it is read by the goroutine that installed
// the snapshot, before the loop hears that it is durable. Nothing is applied in between.
type restoredState struct {
	at     zab.Zxid
	table  *txn.Table
	newest txn.ID // finished transaction
}

func (n *Node) readRestored(at zab.Zxid) (*restoredState, error) {
	table, err := loadTable(n.store, n.archive)
	if err != nil {
		return nil, err
	}
	newest, err := newestFinished(n.store)
	return &restoredState{at: at, table: table, newest: newest}, err
}

// persistedReader returns what is called after each sync of the log, on its goroutine, with what
// the loop hears of it.
func (n *Node) persistedReader(hear func(id uint64)) func(id uint64) {
	var last zab.Zxid
	return func(id uint64) {
		if at := n.store.Restored(); at != last {
			last = at
			x, err := n.readRestored(at)
			if err != nil {
				n.fatal(fmt.Errorf("read the snapshot of %v that was installed: %w", at, err))
			}
			n.restored.Store(x)
		}
		hear(id)
	}
}

// reload makes the table anew, after a snapshot took the place of the stored state.
func (n *Node) reload() (*txn.Table, error) {
	x := n.restored.Swap(nil)
	if x == nil {
		return nil, fmt.Errorf("the snapshot of %v was installed, and not read", n.store.Restored())
	}
	n.archive.restart(x.newest)
	return x.table, nil
}

// newestFinished returns the newest transaction that is stored as finished; zero if there is none.
func newestFinished(s *wal.Store) (id txn.ID, err error) {
	err = scanTxns(s, finishedKey, nil, true, func(newest txn.Txn) bool {
		id = newest.ID
		return false
	})
	return id, err
}
