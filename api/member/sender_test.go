// SPDX-License-Identifier: Apache-2.0

package member

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/protocol/threepc"
	"github.com/concordtx/concord/txn"
)

// request is what came to an address.
type request struct {
	addr string
	*concordv1.DeliverRequest
}

// gated makes a sender whose requests are taken one by one: each waits for an answer.
func gated(t *testing.T) (s *Sender, came chan request, answer chan error) {
	came, answer = make(chan request), make(chan error)
	s = NewSender(func(ctx context.Context, addr string, r *concordv1.DeliverRequest) error {
		select {
		case came <- request{addr, r}:
		case <-ctx.Done():
			return ctx.Err()
		}
		select {
		case err := <-answer:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}, slog.New(slog.DiscardHandler))
	t.Cleanup(s.Close)
	return s, came, answer
}

func envelope(no int) Envelope {
	return Envelope{ID: gid(), From: ann, Message: threepc.Finished{No: txn.BranchNo(no), Finish: txn.Done}}
}

func TestWhatWaitsForAnAddressGoesInOneRequest(t *testing.T) {
	s, came, answer := gated(t)
	s.Send(cluster, "a:1", envelope(0))
	require.Len(t, (<-came).GetMessages(), 1)
	for no := 1; no <= MaxMessages+2; no++ { // while the first is under way
		s.Send(cluster, "a:1", envelope(no))
	}
	answer <- nil
	r := <-came
	require.Len(t, r.GetMessages(), MaxMessages)
	require.EqualValues(t, 1, r.GetMessages()[0].GetFinished().GetNo(), "in the order in which they were sent")
	answer <- nil
	require.Len(t, (<-came).GetMessages(), 2)
	answer <- nil
}

// Nobody waits for a report, so it goes along with the next message that somebody waits for.
func TestAReportWaitsForCompany(t *testing.T) {
	s, came, answer := gated(t)
	s.patience = time.Hour
	s.Send(cluster, "a:1", envelope(0))
	s.Send(cluster, "a:1", Envelope{ID: gid(), From: ann, Message: threepc.Inquire{}})
	require.Len(t, (<-came).GetMessages(), 2)
	s.Send(cluster, "a:1", envelope(1)) // which waits anew
	answer <- nil
	s.Send(cluster, "a:1", Envelope{ID: gid(), From: ann, Message: threepc.Inquire{}})
	require.Len(t, (<-came).GetMessages(), 2)
	answer <- nil
}

func TestNobodyWaitsForAnAddressThatDoesNotAnswer(t *testing.T) {
	s, came, answer := gated(t)
	s.Send(cluster, "a:1", envelope(0))
	<-came
	s.Send(cluster, "b:1", envelope(1))
	require.Equal(t, "b:1", (<-came).addr)
	answer <- nil
}

func TestMessagesForTwoClustersGoApart(t *testing.T) {
	s, came, answer := gated(t)
	s.Send(cluster, "a:1", envelope(0))
	<-came
	s.Send(cluster, "a:1", envelope(1))
	s.Send(cluster+1, "a:1", envelope(2))
	answer <- nil
	require.Equal(t, cluster.String(), (<-came).GetCluster())
	answer <- nil
	r := <-came
	require.Equal(t, (cluster + 1).String(), r.GetCluster())
	require.Len(t, r.GetMessages(), 1)
	answer <- nil
}

// What a member did not take is lost, and what comes later is sent.
func TestAFailedRequestIsNotRepeated(t *testing.T) {
	s, came, answer := gated(t)
	s.Send(cluster, "a:1", envelope(1))
	require.EqualValues(t, 1, (<-came).GetMessages()[0].GetFinished().GetNo())
	s.Send(cluster, "a:1", envelope(2))
	answer <- errors.New("connection refused")
	r := <-came
	require.Len(t, r.GetMessages(), 1)
	require.EqualValues(t, 2, r.GetMessages()[0].GetFinished().GetNo())
	answer <- nil
}

func TestNoMoreWaitThanMay(t *testing.T) {
	s, came, answer := gated(t)
	s.Send(cluster, "a:1", envelope(0))
	<-came
	for range maxWaiting + 5 {
		s.Send(cluster, "a:1", envelope(1))
	}
	answer <- nil
	for sent := 0; sent < maxWaiting; {
		sent += len((<-came).GetMessages())
		require.LessOrEqual(t, sent, maxWaiting)
		answer <- nil
	}
}

func TestCloseEndsWhatIsUnderWay(t *testing.T) {
	s, came, _ := gated(t)
	s.Send(cluster, "a:1", envelope(0))
	<-came
	s.Close()
	s.Send(cluster, "a:1", envelope(1)) // nobody takes it any more
}
