// SPDX-License-Identifier: Apache-2.0

package commit

import (
	"errors"

	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/txn"
)

// errKeysOff is why nothing is done about keys while a member runs a program that cannot read them.
var errKeysOff = errors.New("idempotency keys are not switched on: every member of the cluster has to run a release that knows them; see \"Upgrades\" in docs/operations.md")

// keyAcceptable returns why a request with an idempotency key cannot be decided as it asks, or nil.
func (c *Machine) keyAcceptable(key string) error {
	if key != "" && c.table.Level() < txn.LevelKeys {
		return errKeysOff
	}
	return nil
}

// answerKey answers from a state that was confirmed. Whoever got an answer may send keys from then on:
// a node that does not know them, and would take no notice, leads never again.
func (c *Machine) answerKey(e KeyAsked) {
	r := Reply{Request: e.Request, Zxid: c.core.Zxid()}
	if err := c.keyAcceptable(e.Key); err != nil {
		r.Err = replica.Refusedf("%v", err)
	} else if use, ok := c.table.Key(e.Key); ok {
		r.Key = &use
		r.Txn, _ = c.table.Get(use.ID)
	}
	c.reply(r)
}
