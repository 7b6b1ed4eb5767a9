// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"errors"

	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

// register is the smallest Machine: one text, which is the label of the commit record that the log
// delivered last. It has nothing of transactions but that record, which carries the text.
type register struct {
	txn.ClusterState
	value string

	core   *Core
	stored *register // what a snapshot has put into the store
	leads  bool
	said   []answer // since they were taken
}

// answer is what a register answers to a request.
type answer struct {
	request uint64
	value   string
	zxid    zab.Zxid
	err     error
}

// writeAsked asks for another text.
type writeAsked struct {
	Request uint64
	Value   string
}

// readAsked asks for the text, which is not older than what was written before.
type readAsked struct{ Request uint64 }

func (writeAsked) IsEvent() {}
func (readAsked) IsEvent()  {}

func (e writeAsked) RequestNo() uint64 { return e.Request }
func (e readAsked) RequestNo() uint64  { return e.Request }

func (r *register) Join(c *Core) { r.core = c }

func (r *register) Apply(e zab.Entry) (told bool, err error) {
	records, err := txn.DecodeRecords(e.Data)
	if err != nil {
		return false, err
	}
	r.Roll(e.Zxid, e.Data)
	for _, x := range records {
		if c, ok := x.(txn.CommitRecord); ok {
			r.value, told = c.Label, true
			continue
		}
		r.Fold(e.Zxid, x)
	}
	r.core.Spend(len(records))
	return told, nil
}

// copy is what a store keeps of a register.
func (r *register) copy() *register { return &register{ClusterState: r.ClusterState, value: r.value} }

func (r *register) Load() error {
	if r.stored == nil {
		return errors.New("there is no store to read it from")
	}
	r.ClusterState, r.value = r.stored.ClusterState, r.stored.value
	return nil
}

func (r *register) Lead()        { r.leads = true }
func (r *register) Resign(error) { r.leads = false }
func (r *register) Keep()        {}
func (r *register) Gather()      {}
func (r *register) GoOn()        {}
func (r *register) More() bool   { return false }

func (r *register) Step(e Event) error {
	switch e := e.(type) {
	case writeAsked:
		if err := r.core.Ready(); err != nil {
			r.answer(answer{request: e.Request, err: err})
			return nil
		}
		r.core.Propose(txn.CommitRecord{Label: e.Value})
		r.core.Weigh(len(e.Value))
		r.core.Await(e.Request)
	case readAsked:
		return r.core.Read(e.Request, e)
	}
	return nil
}

func (r *register) Answer(e Event) {
	r.answer(answer{request: e.(readAsked).Request, value: r.value, zxid: r.core.Zxid()})
}

func (r *register) Delivered(requests []uint64) {
	for _, request := range requests {
		r.answer(answer{request: request, value: r.value, zxid: r.core.Zxid()})
	}
}

func (r *register) Refused(_ []txn.Record, requests []uint64, err error) []txn.Record {
	for _, request := range requests {
		r.answer(answer{request: request, err: err})
	}
	return nil
}

func (r *register) answer(a answer) {
	r.core.Spend(1)
	r.said = append(r.said, a)
}
