// SPDX-License-Identifier: Apache-2.0

// Package concordhttp carries a transaction to another service, by HTTP. Who begins it makes its calls through a
// Transport:
//
//	billing := &http.Client{Transport: concordhttp.Transport(nil)}
//	err := client.Run(ctx, func(ctx context.Context, tx *concord.Tx) error {
//		req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, body) // the context carries tx
//		…
//		res, err := billing.Do(req)
//
// and the service that is called wraps its handlers:
//
//	handler := concordhttp.Middleware(client)(mux) // outermost, before who may call is asked
//
// so that a Run with the context of a request joins the transaction of the caller. The service's databases are its
// own: nobody else opens connections to them. Its branches are prepared and committed by its own client when the
// transaction commits, or by the cluster if the service has died by then; both services use the same cluster.
//
// # What goes wrong, and what then
//
// A call that gets no answer, or the answer of a server error (5xx), makes the whole transaction abort, since what was
// done is not known or not whole. Answers of 4xx are answers: the caller decides. A call is not done
// twice, and one that comes when its transaction has ended is refused with 409. If the service dies before its vote
// the transaction is aborted; behind that the cluster finishes its branches. If who began the transaction dies then
// the service's locks are free when its lease ends, within ten seconds.
//
// # What has to hold
//
// A service that has joined may call others in the same transaction, through a Transport of its own: it asks them for
// their votes, and tells them the decision. The calls make a tree: a service that two others call in one transaction,
// or that a call comes back to, refuses the second one with 409.
//
// All calls of one transaction have to reach the same process of a service, since that has the sessions: with more
// than one behind a balancer, let that choose by the header Concord-Transaction or use WithAddr, or the
// transaction is aborted. An answer is sent when the handler has returned, and has at most MaxAnswer bytes. At the
// edge of your network take both headers out of requests: a caller that you let in may keep locks for as
// long as a transaction may take.
package concordhttp
