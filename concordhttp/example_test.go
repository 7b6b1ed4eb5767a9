// SPDX-License-Identifier: Apache-2.0

package concordhttp_test

import (
	"context"
	"fmt"
	"log"
	"net/http"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/adapters/memory"
	"github.com/concordtx/concord/concordhttp"
)

// The service that begins: its call is a part of its transaction.
func ExampleTransport() {
	var client *concord.Client // of concord.Dial
	billing := &http.Client{Transport: concordhttp.Transport(nil)}
	err := client.Run(context.Background(), func(ctx context.Context, tx *concord.Tx) error {
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://billing:8081/deposit", nil)
		if err != nil {
			return err
		}
		res, err := billing.Do(r)
		if err != nil {
			return err
		}
		defer func() { _ = res.Body.Close() }()
		if res.StatusCode != http.StatusOK {
			return fmt.Errorf("billing: %s", res.Status)
		}
		return nil
	})
	log.Print(err)
}

// The service that joins: with the context of the request Run works in the transaction of the caller.
func ExampleMiddleware() {
	var client *concord.Client // of concord.Dial
	ledger := memory.New("ledger", memory.NewDisk())
	mux := http.NewServeMux()
	mux.HandleFunc("POST /deposit", func(w http.ResponseWriter, r *http.Request) {
		err := client.Run(r.Context(), func(ctx context.Context, tx *concord.Tx) error {
			m, err := ledger.Tx(ctx, tx)
			if err != nil {
				return err
			}
			_, err = m.Add(ctx, "bob", 500)
			return err
		})
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	log.Fatal(http.ListenAndServe(":8081", concordhttp.Middleware(client)(mux)))
}
