// SPDX-License-Identifier: Apache-2.0

package access

import (
	"context"
	"fmt"
	"net/http"

	"github.com/concordtx/concord/api"
	"github.com/concordtx/concord/security"
	"github.com/concordtx/concord/txn"
)

// Caller is who makes a call. What it may do is asked each time: streams last, and grants change.
type Caller struct {
	guard *Guard // nil: nobody asks who it is
	who   security.Identity
	token string
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
