// SPDX-License-Identifier: Apache-2.0

package concord

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/txn"
)

// maxSkew is how far clocks may differ without being corrected for.
const maxSkew = 2 * time.Second

// recognizePatience bounds the question which cluster it is.
const recognizePatience = 3 * time.Second

// maxFitting bounds how many resources are remembered as checked.
const maxFitting = 1024

// resources is what the cluster said about itself and its databases, and which of
// the application's fit.
type resources struct {
	api    *api.Client
	logger *slog.Logger

	mu      sync.Mutex
	id      txn.ClusterID
	other   txn.ClusterID // that answers now in the place of id; zero as a rule
	longest time.Duration
	leases  bool // the cluster grants them
	level   txn.FeatureLevel
	skew    time.Duration // what the cluster's clock is ahead of ours
	known   []*concordv1.ResourceStatus
	fitting map[adapters.Opener]bool // adapters are pointers
}

func (r *resources) cluster() (id txn.ClusterID, longest time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.id, r.longest
}

// now is the time by the cluster's clock, as far as it differs from ours by more than a
// call may explain. A gid tells when its transaction began: one minted by a clock that
// is far behind would be taken for an orphan, or for older than the log remembers.
func (r *resources) now() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.skew.Abs() < maxSkew {
		return time.Now()
	}
	return time.Now().Add(r.skew)
}

// grantsLeases reports whether the cluster has said that it grants leases.
func (r *resources) grantsLeases() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.leases
}

// knows waits for a moment for the cluster to be at a feature level: a new one comes to it within a
// second. It reports whether it is.
func (r *resources) knows(ctx context.Context, level txn.FeatureLevel) bool {
	ctx, cancel := context.WithTimeout(ctx, recognizePatience)
	defer cancel()
	for {
		if r.knownLevel() >= level {
			return true
		}
		if api.Wait(ctx, 50*time.Millisecond) != nil || r.recognize(ctx) != nil {
			return false
		}
	}
}

func (r *resources) knownLevel() txn.FeatureLevel {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.level
}

// follow asks for the level of the cluster, ever more rarely, until that is all that this program knows.
func (r *resources) follow(ctx context.Context) {
	for pause := 250 * time.Millisecond; r.knownLevel() < txn.Newest; pause = min(2*pause, 10*time.Second) {
		if api.Wait(ctx, pause) != nil {
			return
		}
		_ = r.recognize(ctx) // another cluster in its place is told to whoever begins a transaction
	}
}

// clock takes what the cluster's clock says now, in milliseconds since 1970.
func (r *resources) clock(ms int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.skew = time.Until(time.UnixMilli(ms))
}

// refresh asks the cluster, and waits for it to be formed until ctx ends. With the name of a
// resource it tells which database that is here: a node that takes it for another one looks again.
func (r *resources) refresh(ctx context.Context, name, identity string) error {
	for {
		res, err := r.api.Resources(ctx, &concordv1.ResourcesRequest{Name: name, Identity: identity})
		if err != nil {
			return err
		}
		if res.GetCluster() == "" {
			if err := api.Wait(ctx, 50*time.Millisecond); err != nil {
				return fmt.Errorf("the cluster has not been formed yet: %w: start a majority of its nodes", err)
			}
			continue
		}
		return r.learn(res)
	}
}

// learn takes what a node says. Branches are named with the cluster that they began in, so
// another one is not taken over: the error wraps ErrCluster.
func (r *resources) learn(res *concordv1.ResourcesResponse) error {
	id, err := api.ParseCluster("cluster", res.GetCluster())
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.other = 0
	if r.id != 0 && r.id != id {
		r.other = id
		return r.strangeLocked()
	}
	r.id, r.known = id, res.GetResources()
	r.longest = time.Duration(res.GetMaxTransactionMs()) * time.Millisecond
	r.leases = res.GetLeaseMs() > 0
	r.level = txn.FeatureLevel(res.GetFeatureLevel())
	r.skew = time.Until(time.UnixMilli(res.GetNowMs()))
	return nil
}

// recognize asks which cluster the nodes belong to now, and returns an error that wraps
// ErrCluster if it is another one than before.
func (r *resources) recognize(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, recognizePatience)
	defer cancel()
	res, err := r.api.Identify(ctx)
	if err != nil || res.GetCluster() == "" {
		return r.strange() // as far as is known
	}
	if err := r.learn(res); errors.Is(err, ErrCluster) {
		return err
	}
	return nil
}

// strange returns an error that wraps ErrCluster if another cluster was seen last.
func (r *resources) strange() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.strangeLocked()
}

func (r *resources) strangeLocked() error {
	if r.other == 0 {
		return nil
	}
	return fmt.Errorf("%w: the nodes at %s are cluster %v now, and this client was dialed when they were %v: if "+
		"they were set up anew, "+
		"look for branches of %[4]v with \"concord recover\" and restart the application; if not, correct the "+
		"addresses",
		ErrCluster, strings.Join(r.api.Addrs(), ","), r.other, r.id)
}

// fits checks at first use that the cluster could finish the branches of an
// application's resource. The error wraps ErrResource and names both sides.
func (r *resources) fits(ctx context.Context, o adapters.Opener) error {
	r.mu.Lock()
	fitting := r.fitting[o]
	r.mu.Unlock()
	if fitting {
		return nil
	}
	ours, err := o.Identity(ctx)
	if err != nil {
		return fmt.Errorf("ask %s which database it is: %w", o.Name(), err)
	}
	theirs := r.find(o.Name())
	if theirs.GetIdentity() != ours || !theirs.GetOk() { // perhaps not so any more: look again
		if err := r.refresh(ctx, o.Name(), ours); err != nil {
			return fmt.Errorf("check resource %s: %w", o.Name(), err)
		}
		theirs = r.find(o.Name())
	}
	if err := r.compare(o, ours, theirs); err != nil {
		return err
	}
	if l, ok := o.(adapters.Logging); ok {
		l.LogTo(r.logger)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fitting == nil || len(r.fitting) >= maxFitting {
		r.fitting = make(map[adapters.Opener]bool)
	}
	r.fitting[o] = true
	return nil
}

func (r *resources) compare(o adapters.Opener, ours string, theirs *concordv1.ResourceStatus) error {
	switch {
	case theirs == nil:
		return fmt.Errorf("%w: the coordinator knows no resource %q, only %s: add it to the nodes' config, or use a "+
			"name from \"concord resource ls\"",
			ErrResource, o.Name(), r.names())
	case theirs.GetDriver() != o.Driver():
		return fmt.Errorf("%w: %q is a %s database here and a %s database at the coordinator: give one of them "+
			"another name",
			ErrResource, o.Name(), o.Driver(), theirs.GetDriver())
	case theirs.GetIdentity() == "":
		return fmt.Errorf("%w: the coordinator could not ask its %q which database it is (%s): run \"concord "+
			"resource check %s\"",
			ErrResource, o.Name(), theirs.GetError(), o.Name())
	case theirs.GetIdentity() != ours:
		return fmt.Errorf("%w: %q is %s here and %s at the coordinator, which could not finish a branch of yours: "+
			"connect both to the same database",
			ErrResource, o.Name(), ours, theirs.GetIdentity())
	case theirs.GetQuarantine() != nil:
		return fmt.Errorf("%w: %s", ErrQuarantined, txn.Quarantined(o.Name()))
	case !theirs.GetOk():
		return fmt.Errorf("%w: the coordinator finds %q not fit: %s: run \"concord resource check %s\"",
			ErrResource, o.Name(), theirs.GetError(), o.Name())
	}
	return nil
}

// explain puts ErrQuarantined in front of why the cluster aborted, if one of the databases is quarantined.
// Whatever it was, databases are asked about again before their next branches.
func (r *resources) explain(ctx context.Context, branches []txn.Branch, why error) error {
	r.mu.Lock()
	clear(r.fitting)
	r.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, recognizePatience)
	defer cancel()
	if r.refresh(ctx, "", "") != nil {
		return why
	}
	for _, b := range branches {
		if r.find(b.Resource).GetQuarantine() != nil {
			return fmt.Errorf("%w: %w", ErrQuarantined, why)
		}
	}
	return why
}

// suspect has a database be asked about again, and the cluster too, since it could not be used.
func (r *resources) suspect(o adapters.Opener) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.fitting, o)
	r.known = nil
}

func (r *resources) find(name string) *concordv1.ResourceStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.known {
		if s.GetName() == name {
			return s
		}
	}
	return nil
}

func (r *resources) names() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.known) == 0 {
		return "none at all"
	}
	var names []string
	for _, s := range r.known {
		names = append(names, s.GetName())
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}
