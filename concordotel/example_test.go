// SPDX-License-Identifier: Apache-2.0

package concordotel_test

import (
	"context"
	"log"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/concordotel"
)

// With the global providers, which the application has set up.
func ExampleHook() {
	c, err := concord.Dial(context.Background(), []string{"127.0.0.1:7420"}, concord.WithHook(concordotel.Hook()))
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = c.Close() }() // always nil
}
