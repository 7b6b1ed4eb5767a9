// SPDX-License-Identifier: Apache-2.0

package participant

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/protocol/threepc"
	"github.com/concordtx/concord/txn"
)

// The members in stories: the agent east, which the story is about, another one, and the cluster.
var (
	storyEast = txn.Party{PartyID: txn.PartyID{Agent: "east"}, Addr: "east:7430"}
	storyWest = txn.Party{PartyID: txn.PartyID{Agent: "west"}, Addr: "west:7430"}
	storyAll  = []txn.Party{{}, storyEast, storyWest}
)

// heard reads what a member says: can-commit with a claim for each branch, as pg/0 or, not as it was
// answered, pg/0/wrong; pre-commit, pre-abort, elect, answer and ack with a number and who elects;
// decided; underway.
func (s *story) heard(from, id string, words []string) Heard {
	party := map[string]txn.Party{"cluster": {}, "west": storyWest}[from]
	h := Heard{Cluster: storyCluster, ID: storyIDs[id], From: party, To: storyEast.PartyID}
	election := func() txn.Election {
		n, err := strconv.ParseUint(words[1], 10, 32)
		require.NoError(s.t, err)
		return txn.Election{N: uint32(n),
			By: map[string]txn.Party{"cluster": {}, "west": storyWest, "east": storyEast}[words[2]].PartyID}
	}
	decision := map[string]txn.Decision{"commit": txn.Commit, "abort": txn.Abort}
	switch words[0] {
	case "can-commit":
		m := threepc.CanCommit{Members: storyAll, Epoch: uint64(s.core.life.Epoch)}
		for _, word := range words[1:] {
			name, wrong := strings.CutSuffix(word, "/wrong")
			b := s.branch(id + "/" + name)
			known := s.core.branches[b.XID]
			k := txn.Claim{No: b.XID.Branch, Number: 1}
			if known != nil {
				k.Number, k.Digest = known.number, [32]byte(known.digest)
			}
			if wrong {
				k.Number++
			}
			m.Claims = append(m.Claims, k)
		}
		h.Message = m
	case "pre-commit":
		h.Message = threepc.PreCommit{Election: election(), Members: storyAll}
	case "pre-abort":
		h.Message = threepc.PreAbort{Election: election()}
	case "elect":
		h.Message = threepc.Elect{Election: election(), List: threepc.List{Members: storyAll}}
	case "answer":
		state := map[string]threepc.State{"wait": threepc.Wait, "pre-committed": threepc.PreCommitted}[words[3]]
		m := threepc.Answer{Election: election(), State: state}
		if state == threepc.PreCommitted {
			m.LastAttempt, m.Short = txn.FirstElection, storyAll
		}
		h.Message = m
	case "ack":
		h.Message = threepc.Ack{Election: election(), Kind: decision[words[3]]}
	case "decided":
		h.Message = threepc.Decided{Decision: decision[words[1]]}
	case "underway":
		h.Message = threepc.Underway{Open: words[1] == "open"}
	case "journal": // for another one
		h.To.Journal[0]++
		h.Message = threepc.Decided{Decision: txn.Commit}
	default:
		s.t.Fatalf("nobody says %q", words[0])
	}
	return h
}

// saying is a message in a few words.
func saying(m threepc.Message) string {
	switch m := m.(type) {
	case threepc.Vote:
		return strings.TrimSpace(fmt.Sprintf("votes %v %s", m.Vote, m.Reason))
	case threepc.Ack:
		return fmt.Sprintf("ack %v in %d", m.Kind, m.Election.N)
	case threepc.Elect:
		return fmt.Sprintf("elect in %d", m.Election.N)
	case threepc.PreCommit:
		return fmt.Sprintf("pre-commit in %d", m.Election.N)
	case threepc.PreAbort:
		return fmt.Sprintf("pre-abort in %d", m.Election.N)
	case threepc.Answer:
		return fmt.Sprintf("answer %v in %d", m.State, m.Election.N)
	case threepc.Decided:
		return fmt.Sprintf("decided %v", m.Decision)
	case threepc.Finished:
		return fmt.Sprintf("finished %d %v", m.No, m.Finish)
	}
	return strings.ToLower(strings.TrimPrefix(fmt.Sprintf("%T", m), "threepc."))
}
