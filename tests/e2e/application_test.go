// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	sqldriver "github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/adapters/mysql"
	"github.com/concordtx/concord/adapters/postgres"
	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/txn"
)

// application is the user's side: it moves money from PostgreSQL to MariaDB or MySQL,
// always in this order.
type application struct {
	pool    *pgxpool.Pool
	orders  *postgres.Resource
	billing *mysql.Resource
}

func openApplication(ordersDSN, billingDSN string) (*application, error) {
	config, err := pgxpool.ParseConfig(ordersDSN)
	if err != nil {
		return nil, err
	}
	config.MaxConns = 24
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		return nil, err
	}
	my, err := sqldriver.ParseDSN(billingDSN)
	if err != nil {
		return nil, err
	}
	my.Logger = &sqldriver.NopLogger{} // servers are killed here
	connector, err := mysql.NewConnector(my)
	if err != nil {
		return nil, err
	}
	return &application{pool: pool, orders: postgres.New("orders", pool), billing: mysql.New("billing", connector)}, nil
}

func (a *application) close() {
	_ = a.billing.Close() // the tests kill servers under it
	a.pool.Close()
}

// transfer moves a random amount between the databases and notes the gid in both.
func (a *application) transfer(ctx context.Context, g adapters.Global, id txn.ID) error {
	from, to, amount := rand.IntN(accounts), rand.IntN(accounts), rand.IntN(201)-100
	pg, err := a.orders.Tx(ctx, g)
	if err != nil {
		return err
	}
	if _, err := pg.Exec(ctx, "UPDATE account SET balance = balance - $1 WHERE id = $2", amount, from); err != nil {
		return err
	}
	if _, err := pg.Exec(ctx, "INSERT INTO transfer VALUES ($1, $2)", id.String(), amount); err != nil {
		return err
	}
	my, err := a.billing.Tx(ctx, g)
	if err != nil {
		return err
	}
	if _, err := my.ExecContext(ctx, "UPDATE account SET balance = balance + ? WHERE id = ?", amount, to); err != nil {
		return err
	}
	_, err = my.ExecContext(ctx, "INSERT INTO transfer VALUES (?, ?)", id.String(), amount)
	return err
}

// hand is a global transaction whose steps are taken one by one, to stop between them:
// what the SDK's Tx does in one go.
type hand struct {
	cluster  txn.ClusterID
	id       txn.ID
	opened   []adapters.Opener
	sessions []adapters.Session // by branch number
	branches []txn.Branch       // once prepared
	siblings []txn.BranchNo     // that the prepared branches are to name; nil: none
	last     string             // its last resource; empty: it has none
}

var _ adapters.Global = (*hand)(nil)

// Enlist opens one branch per resource.
func (h *hand) Enlist(ctx context.Context, r adapters.Opener) (adapters.Session, error) {
	for i, o := range h.opened {
		if o == r {
			return h.sessions[i], nil
		}
	}
	s, err := r.Open(ctx, h.xid(len(h.sessions)))
	if err != nil {
		return nil, err
	}
	switch {
	case h.last == r.Name():
		err = s.(adapters.Last).BeLast(ctx)
	case h.last != "":
		s.(adapters.Tagged).SetTag(txn.TagOf(h.last))
	}
	h.opened, h.sessions = append(h.opened, r), append(h.sessions, s)
	return s, err
}

func (h *hand) xid(no int) txn.XID {
	return txn.XID{Cluster: h.cluster, ID: h.id, Branch: txn.BranchNo(no)}
}

// prepareTransfer does the work of one transfer and prepares both branches.
func (a *application) prepareTransfer(ctx context.Context, cluster txn.ClusterID) (*hand, error) {
	h := &hand{cluster: cluster, id: txn.NewID(time.Now())}
	return h, a.prepare(ctx, h)
}

func (a *application) prepare(ctx context.Context, h *hand) error {
	if err := a.transfer(ctx, h, h.id); err != nil {
		return err
	}
	for i, s := range h.sessions {
		if s, ok := s.(adapters.Counted); ok && h.siblings != nil {
			s.Siblings(h.siblings)
		}
		vote, branch, err := s.Prepare(ctx)
		if err != nil {
			return err
		}
		if vote != txn.VoteYes {
			return fmt.Errorf("branch %d votes %v", i, vote)
		}
		branch.No, branch.Resource = txn.BranchNo(i), h.opened[i].Name()
		h.branches = append(h.branches, branch)
	}
	return nil
}

// request is the one commit request.
func (h *hand) request() *concordv1.CommitRequest {
	return api.CommitRequest(txn.CommitRequest{ID: h.id, Cluster: h.cluster, Branches: h.branches})
}
