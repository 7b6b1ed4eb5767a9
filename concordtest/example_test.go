// SPDX-License-Identifier: Apache-2.0

package concordtest_test

import (
	"context"
	"errors"
	"testing"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/concordtest"
)

// What an application does when one of its databases votes no.
func ExampleNew() {
	test := func(t *testing.T) {
		orders, billing := concordtest.Memory("orders"), concordtest.Memory("billing")
		c := concordtest.New(t, orders, billing)
		c.FailVote("billing")
		err := c.Client().Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
			order, err := orders.Resource().Tx(ctx, tx)
			if err != nil {
				return err
			}
			bill, err := billing.Resource().Tx(ctx, tx)
			if err != nil {
				return err
			}
			return errors.Join(order.Put(ctx, "7", 500), bill.Put(ctx, "7", 500))
		})
		if !errors.Is(err, concord.ErrAborted) {
			t.Errorf("it is %v", err)
		}
	}
	_ = test // which "go test" calls: func TestBilling(t *testing.T)
}
