// SPDX-License-Identifier: Apache-2.0

// Package concordgrpc carries a transaction to another service, by gRPC. It is a module of its own, so that
// nobody else has gRPC among his dependencies. Who begins a transaction dials with two interceptors:
//
//	billing, err := grpc.NewClient(target, credentials,
//		grpc.WithUnaryInterceptor(concordgrpc.UnaryClientInterceptor()),
//		grpc.WithStreamInterceptor(concordgrpc.StreamClientInterceptor()))
//
// and calls with the context that Run gives to its function. The service that is called serves with two, and
// registers what it is asked and told of transactions:
//
//	s := grpc.NewServer(
//		grpc.UnaryInterceptor(concordgrpc.UnaryServerInterceptor(client)),
//		grpc.StreamInterceptor(concordgrpc.StreamServerInterceptor(client)))
//	concordgrpc.Register(s, client)
//
// so that a Run with the context of a call joins the transaction of the caller. What is said in package
// concordhttp holds here, too. Of the codes of gRPC those that say something about the request are answers, and the
// caller decides: INVALID_ARGUMENT, NOT_FOUND, ALREADY_EXISTS, PERMISSION_DENIED, UNAUTHENTICATED,
// FAILED_PRECONDITION and OUT_OF_RANGE; every other error makes the transaction abort. The answer of a stream counts
// when the caller has read its end.
//
// All calls of a transaction have to reach the same process. A connection that chooses among several does not
// promise that; the transaction is aborted then.
package concordgrpc
