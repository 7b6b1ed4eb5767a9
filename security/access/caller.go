// SPDX-License-Identifier: Apache-2.0

package access

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"strconv"
	"strings"

	"github.com/concordtx/concord/api"
	"github.com/concordtx/concord/security"
	"github.com/concordtx/concord/txn"
)

// Caller is who makes a call. What it may do is asked each time: streams last, and grants change.
type Caller struct {
	guard *Guard // nil: nobody asks who it is
	who   security.Identity
	token string
	addr  string // as the node saw it that was called
	node  uint64 // which one that was; 0: this one
}

type callerKey struct{}

// Of returns who makes the call that a context belongs to. Where no Guard stands everything is allowed.
func Of(ctx context.Context) *Caller {
	if c, ok := ctx.Value(callerKey{}).(*Caller); ok {
		return c
	}
	return &Caller{}
}

// With is for who calls a handler without HTTP.
func With(ctx context.Context, c *Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// Subject is the name of the caller, empty if nobody asks.
func (c *Caller) Subject() string {
	switch {
	case c.guard == nil:
		return ""
	case c.who.Kind == security.Node:
		return c.who.String()
	}
	return c.who.Name
}

// Relay says in a call to another node for whom it is made: that node decides whether that one may.
func (c *Caller) Relay(h http.Header) {
	if c.guard != nil && c.who.Kind != security.Node {
		h.Set(api.CallerHeader, c.who.String())
	}
	if c.addr != "" {
		h.Set(api.CallerAddressHeader, c.addr)
	}
}

// maxRoles is how much of the caller's roles is kept, in bytes.
const maxRoles = 256

// From is from where the caller calls, for the audit. self is this node.
func (c *Caller) From(self uint64) txn.Caller {
	from := txn.Caller{Addr: c.addr, Node: cmp.Or(c.node, self)}
	if a, err := c.Access(); err == nil && c.guard != nil {
		from.Roles = strings.ToValidUTF8(a.Grants()[:min(maxRoles, len(a.Grants()))], "")
	}
	return from
}

// calledFrom notes from where a request came. spokenFor: whoever sent it may speak for others.
func (c *Caller) calledFrom(r *http.Request, spokenFor bool) *Caller {
	c.addr = r.RemoteAddr
	if !spokenFor {
		return c
	}
	if told := r.Header.Get(api.CallerAddressHeader); told != "" {
		if _, err := netip.ParseAddrPort(told); err == nil { // else whoever says so has no address to tell
			c.addr = told
		}
	}
	c.node, _ = strconv.ParseUint(r.Header.Get(api.HandedOnHeader), 10, 64)
	return c
}

// IsNode reports whether a node calls, for itself, and IsAgent whether the agent of that name does. Where
// nobody asks, it may be anybody.
func (c *Caller) IsNode() bool { return c.guard == nil || c.who.Kind == security.Node }

// IsAgent is described with IsNode.
func (c *Caller) IsAgent(name string) bool {
	return c.guard == nil || c.who.Kind == security.Agent && c.who.Name == name
}

// Access is what the caller may do now.
func (c *Caller) Access() (security.Access, error) {
	if c.guard == nil {
		return security.Everything(), nil
	}
	if c.token != "" {
		if _, ok := c.guard.subject(c.token); !ok {
			return security.Access{}, errToken
		}
	}
	return c.guard.policy.Load().Of(c.who), nil
}

// Has reports whether the caller has a role.
func (c *Caller) Has(role security.Role) bool {
	a, err := c.Access()
	return err == nil && a.Has(role)
}

// OnAll returns an error unless the caller has one of the roles on each of the resources.
func (c *Caller) OnAll(resources []string, roles ...security.Role) error {
	a, err := c.Access()
	if err != nil {
		return err
	}
	for _, r := range resources {
		if !a.On(r, roles...) {
			return Denied(a, string(roles[0])+" on "+r)
		}
	}
	return nil
}

// Denied is the error of who lacks something.
func Denied(a security.Access, what string) error {
	return fmt.Errorf("%w: %q has no role %s (grants: %s): \"auth.grants\" in the configuration gives roles",
		txn.ErrDenied, a.Subject, what, a.Grants())
}

// Who is what a record keeps of a person's act: who it was by the certificate or the token, and as whom
// that one signed.
func (c *Caller) Who(claim string) string {
	switch subject := c.Subject(); {
	case subject == "" || subject == claim:
		return claim
	case claim == "":
		return subject
	default:
		return subject + " (signed " + claim + ")"
	}
}
