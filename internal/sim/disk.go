// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"fmt"
	"sort"

	"github.com/concordtx/concord/protocol/zab"
)

// Disk is the durable store of one node with its write queue. It implements
// zab.Storage on what is durable. A crash keeps some prefix of the queue.
//
// The log is kept whole, so that the checker can compare histories; what the core may
// read of it begins behind the first cut entries. So a snapshot is the history that it
// stands for, and installing one is to take over that history.
type Disk struct {
	Hard zab.HardState
	Log  []zab.Entry
	cut  int
	// Applied counts the entries in the applied state. It is written without a sync, so
	// a crash may take it back to appliedSynced, which a later sync of the log moves up.
	Applied, appliedSynced int
	folds                  []uint64 // folds[i] is the state's rolling hash after i entries

	queue []zab.Write // handed over, not durable, in order
	View  []zab.Entry // the log as it will be when the queue is durable

	staged staged // the snapshot that was fetched last

	planted Planted
}

// staged is a snapshot that is not the state yet.
type staged struct {
	ref   uint64
	log   []zab.Entry
	folds []uint64
}

func newDisk(planted Planted) *Disk {
	return &Disk{folds: []uint64{foldStart}, planted: planted}
}

// enqueue hands a write over.
func (d *Disk) enqueue(w zab.Write) {
	d.queue = append(d.queue, w)
	if w.Install != nil {
		d.View = d.staged.log
		return
	}
	d.View = change(d.View, w)
}

// change is what a write makes of a log. It never writes into the old one.
func change(log []zab.Entry, w zab.Write) []zab.Entry {
	if w.TruncateAfter != nil {
		keep := After(log, *w.TruncateAfter)
		log = log[:keep:keep]
	}
	return append(log, w.Entries...)
}

// sync makes the first n queued writes durable, in order.
func (d *Disk) sync(n int) {
	for _, w := range d.queue[:n] {
		if d.planted == SkipTruncate && w.TruncateAfter != nil {
			w.TruncateAfter = nil
		}
		d.Log = change(d.Log, w)
		if w.Cut != nil {
			d.cut = After(d.Log, *w.Cut)
		}
		if w.Install != nil {
			d.install()
		}
		if w.Hard != nil {
			d.Hard = *w.Hard
		}
	}
	d.queue = d.queue[n:]
}

// install makes the staged snapshot the state, and its end the base.
func (d *Disk) install() {
	d.Log, d.cut = d.staged.log, len(d.staged.log)
	if d.planted == HalfInstall {
		return
	}
	d.folds = append([]uint64(nil), d.staged.folds...)
	d.Applied, d.appliedSynced = d.cut, d.cut
}

// base is what the log was cut to.
func (d *Disk) base() zab.Zxid { return Tail(d.Log[:d.cut]) }

// Has reports whether z is in the log or not behind the base.
func (d *Disk) Has(z zab.Zxid) bool { return holds(d.Log, z) || !d.base().Less(z) }

// crash loses everything that was not synced, except for the first keep writes and as
// many applied entries as the caller drew.
func (d *Disk) crash(keep, applied int) {
	d.sync(keep)
	d.queue = nil
	if d.planted == ForgetHardState {
		d.Hard = zab.HardState{}
	}
	if d.planted == LoseSyncedTail && len(d.Log) > 0 {
		d.Log = d.Log[:len(d.Log)-1]
	}
	// State that a cut or an installed snapshot counts on was durable before it.
	d.Applied = min(max(applied, d.cut), len(d.Log))
	if d.planted == HalfInstall {
		d.Applied = min(applied, len(d.Log))
	}
	d.appliedSynced = d.Applied
	d.folds = d.folds[:d.Applied+1]
	d.View = d.Log
}

// apply folds one more entry into the state.
func (d *Disk) apply(e zab.Entry) {
	d.Applied++
	d.folds = append(d.folds, fold(d.folds[len(d.folds)-1], e))
}

// Initial implements zab.Storage.
func (d *Disk) Initial() (hard zab.HardState, base, last, applied zab.Zxid) {
	return d.Hard, d.base(), Tail(d.Log), d.AppliedZxid()
}

func (d *Disk) AppliedZxid() zab.Zxid { return Tail(d.Log[:min(d.Applied, len(d.Log))]) }

// Floor implements zab.Storage.
func (d *Disk) Floor(z zab.Zxid) (zab.Zxid, bool) {
	return Tail(d.Log[:After(d.Log, z)]), !z.Less(d.base())
}

// Entries implements zab.Storage.
func (d *Disk) Entries(past, upto zab.Zxid, maxBytes int) ([]zab.Entry, error) {
	if past.Less(d.base()) {
		return nil, fmt.Errorf("entries after %s were cut, the log begins after %s", past, d.base())
	}
	var out []zab.Entry
	size := 0
	for _, e := range d.Log[After(d.Log, past):After(d.Log, upto)] {
		out = append(out, e)
		if size += len(e.Data); size > maxBytes {
			break
		}
	}
	return out, nil
}

// After returns how many entries of the log stand at or before z.
func After(log []zab.Entry, z zab.Zxid) int {
	return sort.Search(len(log), func(i int) bool { return z.Less(log[i].Zxid) })
}

// Tail is the zxid of the last entry, zero if there is none.
func Tail(log []zab.Entry) zab.Zxid {
	if len(log) == 0 {
		return zab.Zxid{}
	}
	return log[len(log)-1].Zxid
}

// holds reports whether the log contains z. Every log contains the empty history.
func holds(log []zab.Entry, z zab.Zxid) bool {
	return z.IsZero() || Tail(log[:After(log, z)]) == z
}

const (
	foldStart uint64 = 14695981039346656037 // FNV-1a, 64 bits
	foldPrime uint64 = 1099511628211
)

// fold mixes an entry into a rolling hash: the state machine of the simulation.
func fold(h uint64, e zab.Entry) uint64 {
	return foldBytes(foldNumber(foldNumber(h, uint64(e.Zxid.Epoch)), e.Zxid.Counter), e.Data)
}

func foldNumber(h, n uint64) uint64 {
	for range 8 {
		h = (h ^ n&0xff) * foldPrime
		n >>= 8
	}
	return h
}

func foldBytes(h uint64, data []byte) uint64 {
	for _, b := range data {
		h = (h ^ uint64(b)) * foldPrime
	}
	return h
}
