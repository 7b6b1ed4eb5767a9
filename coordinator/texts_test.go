// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"cmp"
	"context"
	"errors"
	"math"
	"net"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/adapters/memory"
	"github.com/concordtx/concord/coordinator/commit"
	"github.com/concordtx/concord/coordinator/peer"
	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/internal/said"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

// message is an error that whoever asks or runs a node can meet: how to get it, and what it says,
// with GID, CLUSTER, ZXID, ADDR and TIME for what differs.
type message struct {
	name string
	meet func(*testing.T) error
	says string
	is   error // nil: of no kind, as the errors of Open
}

// one is what the only node of a cluster says.
func one(ask func(context.Context, *testCluster, *Node) error, resources ...adapters.Resource) func(*testing.T) error {
	return func(t *testing.T) error {
		c := newCluster(t, 1, func() []adapters.Resource { return resources })
		return ask(t.Context(), c, c.leader().Node)
	}
}

// opening is what Open says of a configuration in which something is wrong.
func opening(spoil func(*testing.T, *Config)) func(*testing.T) error {
	return func(t *testing.T) error {
		config := Config{Node: 1, Members: []replica.Member{{ID: 1, Peer: "127.0.0.1:0", API: "127.0.0.1:7420"}},
			DataDir: t.TempDir()}
		spoil(t, &config)
		n, err := Open(config)
		if err == nil {
			err = errors.Join(errors.New("it was opened"), n.listenerClosed())
		}
		return err
	}
}

// silent is a database that does not answer.
type silent struct{ adapters.Resource }

func (silent) Recover(context.Context) ([]adapters.Prepared, error) {
	return nil, errors.New("connection refused")
}

// muted is a database that may be made silent.
type muted struct {
	*memory.Resource
	mute atomic.Bool
}

func (m *muted) Recover(ctx context.Context) ([]adapters.Prepared, error) {
	if m.mute.Load() {
		return nil, errors.New("connection refused")
	}
	return m.Resource.Recover(ctx)
}

// setBack sets a disk back that has a high-water row, and waits until the only node knows.
func setBack(t *testing.T, n *Node, disk *memory.Disk) {
	t.Helper()
	waits := func(what string, there func(txn.Remembered) bool) {
		t.Helper()
		require.Eventually(t, func() bool { return there(n.rememberedOf("orders")) }, 40*time.Second,
			20*time.Millisecond, what)
	}
	waits("a row", func(r txn.Remembered) bool { return !r.HighWater.IsZero() })
	disk.SetBack(nil)
	waits("a quarantine", func(r txn.Remembered) bool { return r.Quarantine != nil })
}

var messages = []message{
	{name: "a node that shuts down", is: txn.ErrUnavailable,
		meet: one(func(ctx context.Context, c *testCluster, n *Node) error {
			c.kill(1)
			return n.Forget(ctx, txn.NewID(time.Now()), "ann", "why")
		}), says: "the node is shutting down: ask another one"},
	{name: "a state that this node never reaches", is: txn.ErrUnavailable,
		meet: one(func(ctx context.Context, _ *testCluster, n *Node) error {
			return n.Reach(ctx, zab.Zxid{Epoch: math.MaxUint32, Counter: 1})
		}), says: "this node is at zxid ZXID, and you have seen ZXID: ask another node; if none has come that " +
			"far, you " +
			"have seen another cluster"},
	{name: "settle a branch that is nowhere", is: txn.ErrNotFound,
		meet: one(func(ctx context.Context, _ *testCluster, n *Node) error {
			_, err := n.Settle(ctx, txn.Settlement{ID: txn.NewID(time.Now()), Branch: 3, Decision: txn.Abort,
				Who: "ann", Why: "why"})
			return err
		}), says: `no resource lists a prepared branch 3 of GID: see "concord recover GID"`},
	{name: "settle a branch that is at two places", is: txn.ErrRefused, meet: func(t *testing.T) error {
		orders, billing := memory.New("orders", memory.NewDisk()), memory.New("billing", memory.NewDisk())
		c := newCluster(t, 1, func() []adapters.Resource { return []adapters.Resource{orders, billing} })
		n, id := c.leader(), txn.NewID(time.Now())
		c.prepared(orders, id, "k")
		c.prepared(billing, id, "k")
		_, err := n.Settle(t.Context(), txn.Settlement{ID: id, Decision: txn.Abort, Who: "ann", Why: "why"})
		return err
	}, says: "branch 0 of GID is prepared at billing and orders: say which one you mean, with --resource"},
	{name: "a lease that is not known yet", is: txn.ErrUnavailable,
		meet: one(func(_ context.Context, _ *testCluster, n *Node) error {
			_, err := n.RenewLease(99)
			return err
		}), says: "lease 99 is not known here yet: ask again"},

	{name: "lead by a node that is away", is: txn.ErrUnavailable, meet: func(t *testing.T) error {
		c := newCluster(t, 3, nobody)
		down := c.follower()
		c.kill(down)
		var err error
		require.Eventually(t, func() bool { // as long as the leader takes it for a follower, it waits for it
			err = c.leader().Lead(t.Context(), down, "ann", "why")
			return err != nil && strings.Contains(err.Error(), "it does not follow")
		}, 40*time.Second, 20*time.Millisecond, "%v", err)
		return errors.Join(err)
	}, says: `node N cannot take over leadership now: it does not follow this leader at the moment; see "concord ` +
		`status", and ask again`},
	{name: "remove whom the others need", is: txn.ErrRefused, meet: func(t *testing.T) error {
		c := newCluster(t, 3, nobody)
		c.listed()
		down := c.follower()
		c.kill(down)
		other := 6 - down - c.leader().config.Node
		var err error
		require.Eventually(t, func() bool {
			err = c.again(func(ctx context.Context, n *Node) error {
				return n.RemoveMember(ctx, other, time.Now().String(), "ann", "why")
			})
			return errors.Is(err, txn.ErrRefused)
		}, 40*time.Second, 20*time.Millisecond)
		return err
	}, says: "without node N too few of the voters that are left follow this leader, and the cluster would stop: " +
		"bring them back, or remove those first; " +
		`see "concord status"`},
	{name: "a node that was removed", is: peer.ErrRemoved, meet: func(t *testing.T) error {
		c := newCluster(t, 3, nobody)
		c.listed()
		id := c.follower()
		c.remove(id)
		c.mu.Lock()
		r := c.nodes[id]
		delete(c.nodes, id)
		c.mu.Unlock()
		return <-r.done
	}, says: `this node was removed from its cluster: node N reports that the members of cluster CLUSTER have been ` +
		`LIST since ZXID. Move the directory of this node away; to take the node back, run "concord member add N" ` +
		`and start it with an empty one`},

	{name: "report of what is not quarantined", is: txn.ErrRefused,
		meet: one(func(ctx context.Context, _ *testCluster, n *Node) error {
			_, err := n.Report(ctx, "orders")
			return err
		}, memory.New("orders", memory.NewDisk())),
		says: `resource "orders" is not quarantined, so the cluster knows of nothing that is missing: see "concord ` +
			`resource ls"`},
	{name: "report of what is not there", is: txn.ErrNotFound,
		meet: one(func(ctx context.Context, _ *testCluster, n *Node) error {
			_, err := n.Report(ctx, "stock")
			return err
		}), says: `there is no resource "stock": see "concord resource ls"`},
	{name: "report while the database does not answer", is: txn.ErrUnavailable, meet: func(t *testing.T) error {
		disk := memory.NewDisk()
		r := &muted{Resource: memory.New("orders", disk)}
		return one(func(ctx context.Context, _ *testCluster, n *Node) error {
			setBack(t, n, disk)
			r.mute.Store(true)
			_, err := n.Report(ctx, "orders")
			return err
		}, r)(t)
	}, says: `resource "orders" could not be asked (connection refused); run "concord resource check"`},
	{name: "recover while a resource does not answer", is: txn.ErrUnavailable,
		meet: one(func(ctx context.Context, _ *testCluster, n *Node) error {
			var unlisted error
			err := n.Recover(ctx, txn.ID{}, false, func(p Progress) error {
				unlisted = cmp.Or(unlisted, p.Unlisted)
				return nil
			})
			return cmp.Or(err, unlisted)
		}, silent{memory.New("orders", memory.NewDisk())}),
		says: `not listed: orders: connection refused; run "concord resource check orders"`},
	{name: "list one that does not answer, among others", is: txn.ErrUnavailable,
		meet: one(func(ctx context.Context, _ *testCluster, n *Node) error {
			_, err := n.listAll(ctx, txn.ID{})
			return err
		}, silent{memory.New("orders", memory.NewDisk())}, silent{memory.New("billing", memory.NewDisk())}),
		says: `not listed: billing: connection refused; orders: connection refused; run "concord resource check"`},
	{name: "look at a branch of a resource that cannot tell", is: txn.ErrRefused,
		meet: one(func(ctx context.Context, _ *testCluster, n *Node) error {
			return n.Examine(ctx, txn.NewID(time.Now()), true, []txn.Branch{{Resource: "orders"}}).Branches[0].Err
		}, silent{memory.New("orders", memory.NewDisk())}),
		says: `a resource of this kind tells nothing of a single branch: see "concord recover GID"`},
	{name: "retry what is finished", is: txn.ErrRefused,
		meet: one(func(ctx context.Context, c *testCluster, n *Node) error {
			id := txn.NewID(time.Now())
			c.commit(id)
			_, err := n.Retry(ctx, id, nil)
			return err
		}), says: `nothing of GID waits to be tried by the cluster: see "concord tx get GID" for what it waits for`},
	{name: "finish a branch through a node that does not reach its resource", is: txn.ErrUnavailable,
		meet: one(func(ctx context.Context, c *testCluster, n *Node) error {
			_, err := n.FinishThrough(ctx, txn.XID{ID: txn.NewID(time.Now())}, "orders")
			return err
		}, outage{memory.New("orders", memory.NewDisk()), refusing()}),
		says: `this node does not reach resource orders either: run "concord resource check orders"`},
	{name: "check a resource that is not there", is: txn.ErrNotFound,
		meet: one(func(ctx context.Context, _ *testCluster, n *Node) error {
			_, err := n.Check(ctx, "stock")
			return err
		}), says: `there is no resource "stock": see "concord resource ls"`},

	{name: "open at a level that nobody knows", meet: opening(func(_ *testing.T, c *Config) { c.FeatureLevel = 99 }),
		says: `"feature_level" is 99, but this release knows only up to 9: lower it, or run the release that the ` +
			`other nodes run`},
	{name: "open as nobody", meet: opening(func(_ *testing.T, c *Config) { c.Node = 2 }),
		says: `node 2 is not one of the members: add it to "members", or correct "node"`},
	{name: "open with two resources of one name", meet: opening(func(_ *testing.T, c *Config) {
		c.Resources = []adapters.Resource{memory.New("orders", memory.NewDisk()),
			memory.New("orders", memory.NewDisk())}
	}), says: `two resources have the name "orders": give each its own`},
	{name: "open with two members of one id",
		meet: opening(func(_ *testing.T, c *Config) { c.Members = append(c.Members, c.Members[0]) }),
		says: `members: members: id 1 is there twice`},
	{name: "open at an address that is taken", meet: opening(func(t *testing.T, c *Config) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		t.Cleanup(func() { _ = l.Close() })
		c.Members[0].Peer = l.Addr().String()
	}), says: `listen for peers at ADDR: listen tcp ADDR: bind: address already in use: choose another "peer" ` +
		`address, or stop the process that uses it`},
	{name: "open with a list that the log does not know", is: ErrMembers, meet: func(t *testing.T) error {
		c := newCluster(t, 1, nobody)
		c.listed()
		c.kill(1)
		_, err := c.openNode(1, append(c.members[:1:1], replica.Member{ID: 2, Peer: "127.0.0.1:1001", API: "x"}))
		return err
	}, says: "the \"members\" of the configuration are not those of this node's log (since ZXID):\n  \"members\" " +
		"in the file   in the log\n  1 voter                 1 voter\n  2 voter                 -\nThe file only " +
		"says who founds a cluster. Put back a list that the cluster has or had; members are added and removed " +
		"with \"concord member add\" and \"concord member remove\", while the cluster runs"},
	{name: "open below the level that the cluster is at", is: ErrNewerStore, meet: func(*testing.T) error {
		_, err := decodeLevel(encodeLevel(txn.Newest + 1))
		return err
	}, says: "the store belongs to a later release of concord: the cluster is at feature level 10, this program " +
		"knows only up to 9: run the release that the other nodes run"},
	{name: "a store with meta data of another version", is: txn.ErrBadTxn, meet: func(*testing.T) error {
		return decodeMeta(nil, &txn.Meta{})
	}, says: "meta data of the table: the store holds what this version of concord does not write: run the version " +
		"that wrote it, or replace this node's store"},
	{name: "a store with a level of another version", is: txn.ErrBadTxn, meet: func(*testing.T) error {
		_, err := decodeLevel(nil)
		return err
	}, says: "feature level of the state: the store holds what this version of concord does not write: run the " +
		"version that wrote it, or replace this node's store"},
	{name: "a store with leases of another version", is: txn.ErrBadTxn, meet: func(*testing.T) error {
		_, err := decodeLeases(nil)
		return err
	}, says: "leases of the clients: the store holds what this version of concord does not write: run the version " +
		"that wrote it, or replace this node's store"},
	{name: "a resource that is dropped", is: ErrDropped, meet: func(t *testing.T) error {
		orders := memory.New("orders", memory.NewDisk())
		c := newCluster(t, 1, func() []adapters.Resource { return []adapters.Resource{orders} })
		c.leader()
		c.kill(1)
		c.rules = commit.Rules{MaxTransaction: time.Hour, Grace: time.Hour, Scan: time.Hour}
		c.start(1)
		id := txn.NewID(time.Now())
		require.Equal(t, txn.Commit, c.commit(id, c.prepared(orders, id, "k")).Txn.Decision)
		err := c.leader().MayDrop("orders")
		c.kill(1)
		c.open = nobody
		_, again := c.openNode(1, c.members)
		require.EqualError(t, again, err.Error(), "at the next start")
		return err
	}, says: `a resource that has branches to finish is not in the configuration: orders has GID/0. Put it back ` +
		`until "concord tx ls --state in-doubt --resource orders" shows nothing; or, if that database is lost for ` +
		`good, start with --abandon orders, and they count as heuristic hazards`},
	{name: "open at a lower level than the cluster is at", is: ErrNewerStore, meet: func(t *testing.T) error {
		c := newCluster(t, 1, nobody)
		c.listed()
		c.kill(1)
		return opening(func(_ *testing.T, config *Config) {
			config.Members, config.DataDir, config.FeatureLevel = c.members, c.dir+"/1", txn.LevelBase
		})(t)
	}, says: "the store belongs to a later release of concord: the cluster is at feature level 9, and " +
		"\"feature_level\" holds this node at 1: remove that key; " +
		"what was switched on cannot be switched off"},
}

// varying is what differs between two runs.
var varying = []struct {
	of *regexp.Regexp
	to string
}{
	{regexp.MustCompile(`\b[0-7][0-9A-HJKMNP-TV-Z]{25}\b`), "GID"},
	{regexp.MustCompile(`127\.0\.0\.1:[0-9]{4,5}`), "ADDR"},
	{regexp.MustCompile(`cluster [0-9a-f]{8}\b`), "cluster CLUSTER"},
	{regexp.MustCompile(`\b[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]+Z`), "TIME"},
	{regexp.MustCompile(`\b(zxid|seen|since|at|to) [0-9]+\.[0-9]+\b`), "$1 ZXID"},
	{regexp.MustCompile(`(are|have been) [0-9 a-z,()]+ since`), "$1 LIST since"},
}

// aNode is for texts of real clusters, of which any node may be the leader.
var aNode = regexp.MustCompile(`\b(node|replace|add) [0-9]+`)

func TestWhatErrorsSay(t *testing.T) {
	for _, m := range messages {
		t.Run(m.name, func(t *testing.T) {
			err := m.meet(t)
			require.Error(t, err)
			said := err.Error()
			for _, v := range varying {
				said = v.of.ReplaceAllString(said, v.to)
			}
			if strings.Contains(m.says, " N ") {
				said = aNode.ReplaceAllString(said, "$1 N")
			}
			require.Equal(t, m.says, said)
			if notLeader, ok := m.is.(*txn.NotLeaderError); ok {
				require.ErrorAs(t, err, &notLeader)
			} else if m.is != nil {
				require.ErrorIs(t, err, m.is)
			}
		})
	}
}

// refusing is the state of a database that nobody reaches.
func refusing() *atomic.Int32 {
	state := &atomic.Int32{}
	state.Store(refuses)
	return state
}

// unmet are texts that only a race of some kind shows, and why there is no row for them.
var unmet = []string{
	"%s could not be asked about %v (%v);", // a database that goes away between its listing and the next question
	// the log refuses a change that its leader took for possible
	"%v: ask again in a moment",
	// a leader that has not noticed yet that it lost its quorum
	"too few voters follow this leader for a decision:",
	"node %d gave up leadership, and nobody took it",           // the next leader dies at the moment of the handover
	"node %d leads now, not node %d:",                          // another one was faster
	"branch %d of %v at %s is %v: %s; look into that database", // somebody ended it since it was listed
	"%v was committed in the meantime:",                        // its client was faster than the operator
}

// Who writes another error, here or in the cores, finds out that its text has to be looked at by everybody.
func TestEveryErrorHasARow(t *testing.T) {
	said.Within(t, []string{".", "replica", "commit"}, unmet,
		[]string{"acceptable", "Open", "makeWorkers", "makeCore", "checkList", "occupied", "onAddAsked"})
}

// Within looks for errors of requests and of Open; these are the others.
func TestEveryOtherErrorHasARow(t *testing.T) {
	var rows []string
	for _, m := range messages {
		rows = append(rows, m.says)
	}
	said.Check(t, rows, withoutRow)
}

// Why a text has no row.
const (
	breaks      = "the process ends, since its own store cannot be read: the store says why"
	ofAPeer     = "the log of a node has it: the snapshot of the other node is asked for again"
	race        = "only a race of some kind shows it"
	fallsSilent = "takes as long as a database that hangs is waited for: TestRecoverGoesRoundADatabaseThatHangs"
	notWrong    = "not shown: it tells why a call to a database was given up, which is made again"
)

// withoutRow are the texts that no row has.
var withoutRow = map[string]string{
	"read transaction %v: %w": breaks, "read an idempotency key: %w": breaks,
	"read the snapshot of %v that was installed: %w": breaks,
	"the snapshot of %v was installed, and not read": "cannot be met: it is read before anybody hears of it",
	"%w: %s has %d without a decision: see \"concord tx ls --state in-doubt --resource %[2]s\", and wait, or decide " +
		"them": race,
	"%s could not be asked about %v (%v); run \"concord resource check\"": race,
	"branch %d of %v at %s is %v: %s; look into that database":            race,
	"%v was committed in the meantime: run \"concord recover\" again":     race,

	"the workers are busy":                                 "a former leadership has left the queue full",
	"acts of people: %w":                                   breaks,
	"act %d under the key %x: %w":                          ofAPeer,
	"no answer within %v":                                  fallsSilent,
	"the database did not answer":                          fallsSilent,
	"%w within %v (%s): run \"concord resource check %s\"": fallsSilent,
	"not tried, because the database did not answer for another branch: run \"concord resource check\", and " +
		"then \"concord recover --apply\" again": fallsSilent,
	"a %s database cannot be a last resource: name another one": "cannot be met: all kinds of databases here can",
	"the cluster has not been formed yet: try again":            race,

	"open transaction %v under the key %x: %w": ofAPeer, "transaction %v under the key %x: %w": ofAPeer,
	"use of an idempotency key": ofAPeer, "%w by %v under the key %x: %w": ofAPeer,
	"what is remembered of databases: %w":                              breaks,
	"the database was away and answers again: the attempt is repeated": notWrong,
	"no answer within %v: check that the server runs and can be reached: %w": "takes as long as a database has to " +
		"say which it is",
}
