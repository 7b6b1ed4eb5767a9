// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/api/concord/v1/concordv1connect"
	"github.com/concordtx/concord/concordhttp"
	"github.com/concordtx/concord/internal/faultproxy"
	"github.com/concordtx/concord/internal/program"
	"github.com/concordtx/concord/internal/testdb"
	"github.com/concordtx/concord/txn"
)

// serviceEnv holds the order of a child that is a service: with its own database, which joins the transactions of
// those who call it, or that begins them.
const serviceEnv = "CONCORD_E2E_SERVICE"

type serviceOrder struct {
	Addrs           []string
	Orders, Billing string // data source names
	Listen          string // where billing serves
	Next            string // the address of the service that the calls are handed on to; empty: do them here
	Die             point
	Callers         int // that move money by calls of the service that listens there; 0: be that service
}

// point is where a service kills itself.
type point string

const (
	atVote     point = "asked for its vote"
	behindVote point = "it has voted, and nobody has heard how"
	atDecision point = "its vote was counted, and it has not heard the decision"
)

func runService(text string) int {
	if err := serve(text); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func serve(text string) error {
	var order serviceOrder
	if err := json.Unmarshal([]byte(text), &order); err != nil {
		return err
	}
	a, err := openApplication(order.Orders, order.Billing)
	if err != nil {
		return err
	}
	ctx := context.Background()
	c, err := concord.Dial(ctx, order.Addrs)
	if err != nil {
		return err
	}
	if order.Callers > 0 {
		web := &http.Client{Transport: concordhttp.Transport(nil)}
		for range order.Callers {
			go func() {
				for {
					_, _ = a.callTransfer(ctx, c, web, order.Listen)
				}
			}()
		}
		fmt.Println("ready")
		_, _ = io.Copy(io.Discard, os.Stdin)
		return nil
	}
	l, err := net.Listen("tcp", order.Listen)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	handler := a.deposits(c)
	if order.Next != "" {
		handler = handOn(&http.Client{Transport: concordhttp.Transport(nil)}, order.Next)
	}
	return http.Serve(l, order.Die.at(concordhttp.Middleware(c)(handler)))
}

// at kills the process at a point.
func (p point) at(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		vote := r.URL.Path == concordv1connect.JoinServiceVoteProcedure
		switch {
		case p == behindVote && vote:
			next.ServeHTTP(httptest.NewRecorder(), r)
			fallthrough
		case p == atVote && vote, p == atDecision && r.URL.Path == concordv1connect.JoinServiceConcludeProcedure:
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}
		next.ServeHTTP(w, r)
	})
}

// deposits is the service: it adds to an account of billing.
func (a *application) deposits(c *concord.Client) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		to, amount := r.FormValue("to"), r.FormValue("amount")
		err := c.Run(r.Context(), func(ctx context.Context, tx *concord.Tx) error {
			my, err := a.billing.Tx(ctx, tx)
			if err != nil {
				return err
			}
			if _, err := my.ExecContext(ctx, "UPDATE account SET balance = balance + ? WHERE id = ?", amount,
				to); err != nil {
				return err
			}
			_, err = my.ExecContext(ctx, "INSERT INTO transfer VALUES (?, ?)", tx.ID().String(), amount)
			return err
		}, concord.WithTimeout(10*time.Minute))
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
}

// handOn is a service without a database: it makes the same call of another one, in the same transaction.
func handOn(web *http.Client, next string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		further, err := http.NewRequestWithContext(r.Context(), r.Method, "http://"+next+r.URL.RequestURI(), nil)
		if err == nil {
			var res *http.Response
			if res, err = web.Do(further); err == nil {
				w.WriteHeader(res.StatusCode)
				_, err = io.Copy(w, res.Body)
				err = errors.Join(err, res.Body.Close())
			}
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
		}
	})
}

// callTransfer moves money from orders to an account of the service that listens at addr.
func (a *application) callTransfer(ctx context.Context, c *concord.Client, web *http.Client, addr string,
	opts ...concord.TxOption) (id txn.ID, err error) {
	from, to, amount := rand.IntN(accounts), rand.IntN(accounts), rand.IntN(201)-100
	err = c.Run(ctx, func(ctx context.Context, tx *concord.Tx) error {
		id = tx.ID()
		pg, err := a.orders.Tx(ctx, tx)
		if err != nil {
			return err
		}
		if _, err := pg.Exec(ctx, "UPDATE account SET balance = balance - $1 WHERE id = $2", amount, from); err != nil {
			return err
		}
		if _, err := pg.Exec(ctx, "INSERT INTO transfer VALUES ($1, $2)", id.String(), amount); err != nil {
			return err
		}
		r, err := http.NewRequestWithContext(ctx, http.MethodPost,
			fmt.Sprintf("http://%s/?to=%s&amount=%d", addr, strconv.Itoa(to), amount), nil)
		if err != nil {
			return err
		}
		res, err := web.Do(r)
		if err != nil {
			return err
		}
		defer func() { _ = res.Body.Close() }()
		if res.StatusCode != http.StatusOK {
			text, err := io.ReadAll(res.Body)
			return errors.Join(fmt.Errorf("%s: %s", res.Status, text), err)
		}
		return nil
	}, opts...)
	return id, err
}

// startService starts a child, and waits until it is ready.
func (b *bank) startService(c *cluster, order serviceOrder) *program.Process {
	b.Helper()
	self, err := os.Executable()
	require.NoError(b, err)
	order.Addrs, order.Orders, order.Billing = c.addrs(), b.left.dsn(), b.right.dsn()
	text, err := json.Marshal(order)
	require.NoError(b, err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), serviceEnv+"="+string(text))
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, child := io.Pipe()
	cmd.Stdout = child
	_, err = cmd.StdinPipe() // stays open for as long as we live
	require.NoError(b, err)
	p, err := program.Start(cmd)
	require.NoError(b, err)
	b.Cleanup(func() { _ = p.End(syscall.SIGKILL, patience) })
	go func() {
		<-p.Done()
		_ = child.Close() // the reader below sees the end
	}()
	ready := make([]byte, len("ready\n"))
	_, err = io.ReadFull(out, ready)
	require.NoError(b, err, "the service did not start: %s", &stderr)
	go func() { _, _ = io.Copy(io.Discard, out) }()
	return p
}

// The service dies on the way of a commit. Before its vote is heard everything is aborted; behind that everything is
// committed, and the cluster does its part.
func TestAServiceThatJoinsIsKilled(t *testing.T) {
	b := newBank(t)
	c := startCluster(t, settings{resources: b.resources(), maxAge: 10 * time.Minute, grace: time.Second,
		scan: 500 * time.Millisecond})
	client := c.dial()
	c.leased(client)
	web := &http.Client{Transport: concordhttp.Transport(&http.Transport{})}
	for _, x := range []struct {
		at   point
		want concord.Outcome
	}{{atVote, concord.Aborted}, {behindVote, concord.Aborted}, {atDecision, concord.Committed}, {"",
		concord.Committed}} {
		t.Run(strings.ReplaceAll(string(x.at), ",", ""), func(t *testing.T) {
			b, c := b.in(t), c.in(t)
			listen := fmt.Sprintf("127.0.0.1:%d", testdb.FreePort(t))
			service := b.startService(c, serviceOrder{Listen: listen, Die: x.at})
			id, err := b.callTransfer(t.Context(), client, web, listen)
			if x.want == concord.Committed {
				require.NoError(t, err)
			} else {
				require.ErrorIs(t, err, concord.ErrAborted)
			}
			if x.at != "" {
				<-service.Done()
			}
			b.settled(c)
			require.Equal(t, x.want, b.shows(id))
			b.sumHolds()
		})
	}
}

// One service hands the transaction on to another one, and either dies on the way of a commit.
func TestAServiceThatHandsOnIsKilled(t *testing.T) {
	b := newBank(t)
	c := startCluster(t, settings{resources: b.resources(), maxAge: 10 * time.Minute, grace: time.Second,
		scan: 500 * time.Millisecond})
	client := c.dial()
	c.leased(client)
	web := &http.Client{Transport: concordhttp.Transport(&http.Transport{})}
	for _, x := range []struct {
		name         string
		first, other point
		want         concord.Outcome
	}{
		{"nobody dies", "", "", concord.Committed},
		{"the first before its vote", atVote, "", concord.Aborted},
		{"the first behind its vote", behindVote, "", concord.Aborted},
		{"the first before the decision", atDecision, "", concord.Committed},
		{"the other one before its vote", "", atVote, concord.Aborted},
		{"the other one behind its vote", "", behindVote, concord.Aborted},
		{"the other one before the decision", "", atDecision, concord.Committed},
	} {
		t.Run(x.name, func(t *testing.T) {
			b, c := b.in(t), c.in(t)
			listen := []string{fmt.Sprintf("127.0.0.1:%d", testdb.FreePort(t)), fmt.Sprintf("127.0.0.1:%d",
				testdb.FreePort(t))}
			other := b.startService(c, serviceOrder{Listen: listen[1], Die: x.other})
			first := b.startService(c, serviceOrder{Listen: listen[0], Next: listen[1], Die: x.first})
			id, err := b.callTransfer(t.Context(), client, web, listen[0])
			if x.want == concord.Committed {
				require.NoError(t, err)
			} else {
				require.ErrorIs(t, err, concord.ErrAborted)
			}
			if x.first != "" {
				<-first.Done()
			}
			if x.other != "" {
				<-other.Done()
			}
			b.settled(c)
			require.Equal(t, x.want, b.shows(id))
			b.sumHolds()
		})
	}
}

// Who began the transactions is killed at any time, again and again, and the service too. Nothing stays locked or
// prepared, although the transactions would have had minutes.
func TestWhoBeganIsKilled(t *testing.T) {
	b := newBank(t)
	c := startCluster(t, settings{resources: b.resources(), maxAge: 10 * time.Minute, grace: time.Second,
		scan: 500 * time.Millisecond})
	c.leased(c.dial())
	listen := fmt.Sprintf("127.0.0.1:%d", testdb.FreePort(t))
	service := b.startService(c, serviceOrder{Listen: listen})
	between := fmt.Sprintf("127.0.0.1:%d", testdb.FreePort(t))
	b.startService(c, serviceOrder{Listen: between, Next: listen})
	for round := range 6 {
		before := b.right.number(t, "SELECT COUNT(*) FROM transfer")
		caller := b.startService(c, serviceOrder{Listen: []string{listen, between}[round%2], Callers: 4})
		eventually(t, "transfers are under way", func() bool {
			return b.right.number(t, "SELECT COUNT(*) FROM transfer") >= before+5
		})
		if round%3 == 2 { // both at once
			require.NoError(t, service.End(syscall.SIGKILL, patience))
		}
		require.NoError(t, caller.End(syscall.SIGKILL, patience))
		began := time.Now()
		for _, d := range []*database{b.left, b.right} {
			eventually(t, "all rows are free", func() bool {
				ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
				defer cancel()
				_, err := d.admin.ExecContext(ctx, "UPDATE account SET balance = balance + 0")
				return err == nil
			})
		}
		t.Logf("all rows are free after %v", time.Since(began).Round(10*time.Millisecond))
		b.settled(c)
		b.sumHolds()
		require.ElementsMatch(t, b.left.texts(t, "SELECT gid FROM transfer"), b.right.texts(t,
			"SELECT gid FROM transfer"))
		if round%3 == 2 {
			service = b.startService(c, serviceOrder{Listen: listen})
		}
	}
}

// The network between the two services loses, keeps and cuts. What a caller hears is what both databases show.
func TestABadNetworkBetweenServices(t *testing.T) {
	b := newBank(t)
	c := startCluster(t, settings{resources: b.resources(), maxAge: 10 * time.Minute, grace: time.Second,
		scan: 500 * time.Millisecond})
	client := c.dial()
	c.leased(client)
	listen := fmt.Sprintf("127.0.0.1:%d", testdb.FreePort(t))
	b.startService(c, serviceOrder{Listen: listen})
	link, err := faultproxy.New(listen)
	require.NoError(t, err)
	defer link.Close()
	transport := &http.Transport{}
	web := &http.Client{Transport: concordhttp.Transport(transport)}
	defer transport.CloseIdleConnections()

	var mu sync.Mutex
	answers := map[txn.ID]concord.Outcome{}
	loading, stop := context.WithCancel(t.Context())
	defer stop()
	var workers sync.WaitGroup
	for range 4 {
		workers.Go(func() {
			for loading.Err() == nil {
				id, err := b.callTransfer(context.Background(), client, web, link.Addr(),
					concord.WithTimeout(5*time.Second))
				outcome := concord.Aborted
				switch {
				case err == nil:
					outcome = concord.Committed
				case errors.Is(err, concord.ErrUnknownOutcome):
					if outcome, err = client.Outcome(context.Background(), id); err != nil {
						t.Error(err)
					}
				case !errors.Is(err, concord.ErrAborted):
					t.Error(err)
				}
				mu.Lock()
				answers[id] = outcome
				mu.Unlock()
			}
		})
	}
	committed := func() (n int) {
		mu.Lock()
		defer mu.Unlock()
		for _, o := range answers {
			if o == concord.Committed {
				n++
			}
		}
		return n
	}
	for round := range 12 {
		before := committed()
		eventually(t, "transfers commit", func() bool { return committed() >= before+5 })
		d := []faultproxy.Direction{faultproxy.Forward, faultproxy.Backward}[round%2]
		switch round / 2 % 3 {
		case 0:
			link.Cut()
		case 1:
			link.Set(d, faultproxy.Fault{Drop: true})
		case 2:
			link.Set(d, faultproxy.Fault{Hold: true})
		}
		time.Sleep(time.Duration(rand.IntN(1500)) * time.Millisecond) // how long the fault lasts, and nothing else
		link.Heal()
	}
	stop()
	workers.Wait()
	b.settled(c)
	b.sumHolds()
	b.agree(answers)
	t.Logf("%d of %d transfers committed", committed(), len(answers))
}
