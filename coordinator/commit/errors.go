// SPDX-License-Identifier: Apache-2.0

package commit

import (
	"fmt"

	"github.com/concordtx/concord/api"
	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/txn"
)

// AlreadyDecided is the answer to who wants another decision than there is.
func AlreadyDecided(x txn.Txn) error {
	return &replica.RequestError{Kind: api.ErrDecided,
		Text: fmt.Sprintf("the decision of %v stands: %v, at zxid %v; see \"concord tx get\"", x.ID, x.Decision,
			x.Decided)}
}

func notFound(id txn.ID) error {
	return &replica.RequestError{Kind: api.ErrNotFound,
		Text: fmt.Sprintf("transaction %v is not known: no decision, and no resource lists a prepared branch of it; "+
			"compare the gid with \"concord tx ls\"", id)}
}

func tooOld(id txn.ID) error {
	return &replica.RequestError{Kind: api.ErrTooOld,
		Text: fmt.Sprintf("transaction %v is older than what the cluster remembers: look into the databases", id)}
}
