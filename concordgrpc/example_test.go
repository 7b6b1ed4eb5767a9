// SPDX-License-Identifier: Apache-2.0

package concordgrpc_test

import (
	"context"
	"log"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/concordgrpc"
)

// The service that begins: its call is a part of its transaction.
func ExampleUnaryClientInterceptor() {
	var client *concord.Client // of concord.Dial
	conn, err := grpc.NewClient("billing:8081", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithUnaryInterceptor(concordgrpc.UnaryClientInterceptor()),
		grpc.WithStreamInterceptor(concordgrpc.StreamClientInterceptor()))
	if err != nil {
		log.Fatal(err)
	}
	err = client.Run(context.Background(), func(ctx context.Context, _ *concord.Tx) error {
		return conn.Invoke(ctx, "/shop.Billing/Add", wrapperspb.Int64(500), &wrapperspb.Int64Value{})
	})
	log.Print(err)
}

// The service that joins: with the context of a call Run works in the transaction of the caller.
func ExampleUnaryServerInterceptor() {
	var client *concord.Client // of concord.Dial
	s := grpc.NewServer(
		grpc.UnaryInterceptor(concordgrpc.UnaryServerInterceptor(client)),
		grpc.StreamInterceptor(concordgrpc.StreamServerInterceptor(client)))
	concordgrpc.Register(s, client) // beside the services of the application
	listener, err := net.Listen("tcp", ":8081")
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(s.Serve(listener))
}
