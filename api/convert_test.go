// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

func TestCommitRoundTripsSorted(t *testing.T) {
	want := txn.CommitRequest{ID: txn.NewID(time.Now()), Cluster: 0xc0ffee, Branches: []txn.Branch{
		{No: 0, Resource: "orders", Evidence: "pg:1", Holder: "12@x"}, {No: 255, Resource: "billing"},
	}}
	r := api.CommitRequest(want)
	r.Branches[0], r.Branches[1] = r.Branches[1], r.Branches[0]
	got, err := api.ParseCommit(r)
	require.NoError(t, err)
	require.Equal(t, want, got)
}

func TestWhatIsNoTraceparentIsIgnored(t *testing.T) {
	const good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	for _, text := range []string{good, "", good[:54], good + "0", "01" + good[2:], "00-0AF7" + good[7:],
		good[:35] + "_" + good[36:], good[:52] + "\n01", good[:53] + "\x1b1"} {
		r := api.CommitRequest(txn.CommitRequest{ID: txn.NewID(time.Now()), Cluster: 1, Trace: text})
		got, err := api.ParseCommit(r)
		require.NoError(t, err)
		if text != good {
			text = ""
		}
		require.Equal(t, text, got.Trace)
	}
}

func TestACommitRequestWithoutBranchesIsValid(t *testing.T) {
	want := txn.CommitRequest{ID: txn.NewID(time.Now()), Cluster: 1, Branches: []txn.Branch{}}
	got, err := api.ParseCommit(api.CommitRequest(want))
	require.NoError(t, err)
	require.Equal(t, want, got)
}

func TestABadCommitRequestNamesTheField(t *testing.T) {
	for field, breakIt := range map[string]func(*concordv1.CommitRequest){
		"gid":                  func(r *concordv1.CommitRequest) { r.Gid = "" },
		"gid ":                 func(r *concordv1.CommitRequest) { r.Gid = r.Gid[:25] },
		"gid  ":                func(r *concordv1.CommitRequest) { r.Gid = strings.Repeat("0", 26) },
		"cluster":              func(r *concordv1.CommitRequest) { r.Cluster = "C0FFEE00" },
		"cluster ":             func(r *concordv1.CommitRequest) { r.Cluster = "00000000" },
		"cluster  ":            func(r *concordv1.CommitRequest) { r.Cluster = "" },
		"protocol":             func(r *concordv1.CommitRequest) { r.Protocol = "paxos" },
		"branches":             func(r *concordv1.CommitRequest) { r.Branches = make([]*concordv1.Branch, 257) },
		"branches[1].no":       func(r *concordv1.CommitRequest) { r.Branches[1].No = 256 },
		"branches[1].no ":      func(r *concordv1.CommitRequest) { r.Branches[1].No = 0 },
		"branches[1].resource": func(r *concordv1.CommitRequest) { r.Branches[1].Resource = "orders" },
		"branches[0].resource": func(r *concordv1.CommitRequest) { r.Branches[0].Resource = "" },
		"branches[0].evidence": func(r *concordv1.CommitRequest) { r.Branches[0].Evidence = strings.Repeat("x", 1025) },
		"branches[0].holder":   func(r *concordv1.CommitRequest) { r.Branches[0].Holder = "\x1b[2J" },
		"branches[0].holder ":  func(r *concordv1.CommitRequest) { r.Branches[0].Holder = "\xff" },
	} {
		r := api.CommitRequest(txn.CommitRequest{ID: txn.NewID(time.Now()), Cluster: 1,
			Branches: []txn.Branch{{Resource: "orders"}, {No: 1, Resource: "billing"}}})
		breakIt(r)
		_, err := api.ParseCommit(r)
		require.ErrorIs(t, err, txn.ErrInvalid, field)
		var bad *api.FieldError
		require.ErrorAs(t, err, &bad)
		require.Equal(t, strings.TrimSpace(field), bad.Field)
	}
}

func TestFinishedRoundTrips(t *testing.T) {
	want := []api.Finished{{ID: txn.NewID(time.Now()), No: 1, Finish: txn.Done},
		{ID: txn.NewID(time.Now()), Finish: txn.Lost}}
	got, err := api.ParseFinished(api.FinishedRequest(want))
	require.NoError(t, err)
	require.Equal(t, want, got)

	r := api.FinishedRequest(want)
	r.Branches[1].Finish = "gone"
	_, err = api.ParseFinished(r)
	require.EqualError(t, err, `branches[1].finish: is "gone", want done, already-done, contradicted, lost`)
}

// requireRoundTrip demands that a request is refused as invalid, or means the same when it is made
// again from what was parsed.
func requireRoundTrip[M, V any](t *testing.T, r M, parse func(M) (V, error), make func(V) M) {
	t.Helper()
	v, err := parse(r)
	if err != nil {
		require.ErrorIs(t, err, txn.ErrInvalid)
		return
	}
	again, err := parse(make(v))
	require.NoError(t, err)
	require.Equal(t, v, again)
}

func FuzzParseCommit(f *testing.F) {
	good, _ := proto.Marshal(api.CommitRequest(txn.CommitRequest{ID: txn.NewID(time.Now()), Cluster: 1,
		Branches: []txn.Branch{{Resource: "orders"}}}))
	f.Add(good)
	f.Fuzz(func(t *testing.T, b []byte) {
		var r concordv1.CommitRequest
		if proto.Unmarshal(b, &r) != nil {
			return
		}
		requireRoundTrip(t, &r, api.ParseCommit, api.CommitRequest)
	})
}

func TestZxidsAreParsedStrictly(t *testing.T) {
	for text, want := range map[string]zab.Zxid{
		"": {}, "0.0": {}, "3.17": {Epoch: 3, Counter: 17},
		"4294967295.18446744073709551615": {Epoch: math.MaxUint32, Counter: math.MaxUint64},
	} {
		got, err := api.ParseZxid("seen", text)
		require.NoError(t, err, text)
		require.Equal(t, want, got)
		if text != "" {
			require.Equal(t, text, got.String())
		}
	}
	for _, text := range []string{"3", ".", "3.", ".3", "03.1", "3.01", "+3.1", "-3.1", "3.+1", "3.-1", " 3.1", "3.1 ",
		"3.1.2", "3,1", "0x3.1",
		"4294967296.1", "1.18446744073709551616", "3.1\x00", strings.Repeat("9", 5000)} {
		_, err := api.ParseZxid("seen", text)
		require.ErrorIs(t, err, txn.ErrInvalid, "%.40q", text)
		require.ErrorContains(t, err, "seen: ")
		require.Less(t, len(err.Error()), 150)
	}
}

// FuzzCommitJSON reads a commit request as JSON, which is what a client without our library sends.
func FuzzCommitJSON(f *testing.F) {
	good, _ := protojson.Marshal(api.CommitRequest(txn.CommitRequest{ID: txn.NewID(time.Now()), Cluster: 1,
		Branches: []txn.Branch{{Resource: "orders"}}}))
	f.Add(good)
	f.Add([]byte(`{"gid":"","branches":[{"no":4294967296}]}`))
	f.Add([]byte(`{"gid":1e999,"branches":{}}`))
	f.Add([]byte(`{"branches":[[[[[[[[`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var r concordv1.CommitRequest
		if protojson.Unmarshal(b, &r) != nil {
			return
		}
		requireRoundTrip(t, &r, api.ParseCommit, api.CommitRequest)
	})
}

func FuzzParseFinished(f *testing.F) {
	good, _ := proto.Marshal(api.FinishedRequest([]api.Finished{{ID: txn.NewID(time.Now()), No: 1, Finish: txn.Done}}))
	f.Add(good)
	f.Add([]byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, b []byte) {
		var r concordv1.FinishedRequest
		if proto.Unmarshal(b, &r) != nil {
			return
		}
		requireRoundTrip(t, &r, api.ParseFinished, api.FinishedRequest)
	})
}
