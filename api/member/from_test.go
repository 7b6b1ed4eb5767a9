// SPDX-License-Identifier: Apache-2.0

package member

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/txn"
)

type caller struct {
	node  bool
	agent string
}

func (c caller) Subject() string          { return c.agent }
func (c caller) IsNode() bool             { return c.node }
func (c caller) IsAgent(name string) bool { return c.agent == name }

func TestNobodySpeaksForAnotherMember(t *testing.T) {
	from := func(agent string) Envelope {
		e := Envelope{}
		if e.From.Agent = agent; agent != "" {
			e.From.Journal = txn.JournalID{1}
		}
		return e
	}
	require.NoError(t, From(caller{agent: "east"}, []Envelope{from("east"), from("east")}))
	require.NoError(t, From(caller{node: true}, []Envelope{from("")}))
	for _, bad := range []struct {
		who  caller
		says string
	}{
		{caller{agent: "west"}, `permission denied: messages[0]: "west" speaks for east: an agent's name is that of ` +
			`its certificate`},
		{caller{node: true}, `permission denied: messages[0]: "" speaks for east: an agent's name is that of its ` +
			`certificate`},
	} {
		err := From(bad.who, []Envelope{from("east")})
		require.ErrorIs(t, err, txn.ErrDenied)
		require.EqualError(t, err, bad.says)
	}
	require.ErrorIs(t, From(caller{agent: "east"}, []Envelope{from("east"), from("")}), txn.ErrDenied,
		"an agent speaks for the cluster")
}
