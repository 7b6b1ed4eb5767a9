// SPDX-License-Identifier: Apache-2.0

package adaptertest

import (
	"context"

	"github.com/concordtx/concord/adapters"
)

// Enlisted returns a global transaction whose branch is s, whatever resource asks. It
// leads from a session to what the application works with:
//
//	tx, err := resource.Tx(ctx, adaptertest.Enlisted(s))
func Enlisted(s adapters.Session) adapters.Global { return enlisted{s} }

type enlisted struct{ session adapters.Session }

func (e enlisted) Enlist(context.Context, adapters.Opener) (adapters.Session, error) {
	return e.session, nil
}
