// SPDX-License-Identifier: Apache-2.0

package security

import (
	"fmt"
	"slices"
	"strings"
)

// Role is what somebody may do. What each call needs is in the tables of those who serve them.
type Role string

// The roles. An operator is a viewer, too, and an admin an operator. A node runs transactions for those who
// ask it to, and looks.
const (
	Application Role = "application" // runs transactions on its resources
	AgentRole   Role = "agent"       // asks for the decisions of branches on its resources, and reports
	Viewer      Role = "viewer"      // sees, and changes nothing
	Operator    Role = "operator"    // resolves, settles, forgets, recovers
	// speaks in three-phase transactions, for itself; an agent's certificate grants it, and nothing else does
	MemberRole Role = "member"
	Admin      Role = "admin" // changes who the members are
	// what nodes do for each other; a node's certificate grants it, and nothing else does
	NodeRole Role = "node"
)

const (
	AnyResource = "*" // in a grant: all resources
	maxGrants   = 10_000
)

var grantable = []Role{Application, AgentRole, Viewer, Operator, Admin}

// includes says which roles a role has in it.
var includes = map[Role][]Role{Operator: {Viewer}, Admin: {Viewer, Operator},
	NodeRole: {Viewer, Application, AgentRole, MemberRole}}

// Grant gives roles to a subject, the name of a client or an agent. Resources are those on which
// an application or an agent may act.
type Grant struct {
	Subject   string
	Roles     []Role
	Resources []string
}

func (g Grant) String() string {
	var roles []string
	for _, r := range g.Roles {
		roles = append(roles, string(r))
	}
	text := strings.Join(roles, ", ")
	if len(g.Resources) > 0 {
		text += " on " + strings.Join(g.Resources, ", ")
	}
	return text
}

// Policy is who may do what. The zero Policy denies everything.
type Policy struct {
	grants map[string][]Grant // by subject
}

// NewPolicy checks grants: a role or a resource that does not exist is an error, and never a grant
// that silently means less, or more, than it says.
func NewPolicy(grants []Grant, resources []string) (*Policy, error) {
	p := &Policy{grants: map[string][]Grant{}}
	if len(grants) > maxGrants {
		return nil, fmt.Errorf("auth.grants: there are %d, at most %d are allowed", len(grants), maxGrants)
	}
	for i, g := range grants {
		wrong := func(format string, args ...any) error {
			return fmt.Errorf("auth.grants[%d]: %s", i, fmt.Sprintf(format, args...))
		}
		if err := CheckName(g.Subject); err != nil {
			return nil, wrong("subject: %v", err)
		}
		if len(g.Roles) == 0 {
			return nil, wrong("%q gets no role: give \"roles\" one or more of %s", g.Subject, roleNames())
		}
		onResources := false
		for _, r := range g.Roles {
			if !slices.Contains(grantable, r) {
				return nil, wrong("%.40q is no role: there are %s", string(r), roleNames())
			}
			onResources = onResources || r == Application || r == AgentRole
		}
		switch {
		case onResources && len(g.Resources) == 0:
			return nil, wrong("%q is %s on no resource: name them in \"resources\", or \"*\" for all", g.Subject,
				g.Roles[0])
		case !onResources && len(g.Resources) > 0:
			return nil, wrong("the roles of %q are for the whole cluster: remove \"resources\"", g.Subject)
		}
		for _, r := range g.Resources {
			if r != AnyResource && !slices.Contains(resources, r) {
				return nil, wrong("there is no resource %.40q: correct the name, or add it to \"resources\"", r)
			}
		}
		p.grants[g.Subject] = append(p.grants[g.Subject], g)
	}
	return p, nil
}

func roleNames() string {
	var names []string
	for _, r := range grantable {
		names = append(names, string(r))
	}
	return strings.Join(names, ", ")
}

// Of returns what somebody may do.
func (p *Policy) Of(who Identity) Access {
	if who.Kind == Node {
		return Access{Subject: who.String(),
			grants: []Grant{{Roles: []Role{NodeRole}, Resources: []string{AnyResource}}}}
	}
	a := Access{Subject: who.Name, grants: p.grants[who.Name]}
	if who.Kind == Agent {
		a.grants = append(slices.Clone(a.grants), Grant{Roles: []Role{MemberRole}})
	}
	return a
}

// Access is what one caller may do.
type Access struct {
	Subject string
	grants  []Grant
	all     bool
}

// Everything is the access of whoever reaches a listener that is not protected.
func Everything() Access { return Access{all: true} }

// All reports whether nothing is asked of who it is.
func (a Access) All() bool { return a.all }

// IsNode reports whether it is that of a node.
func (a Access) IsNode() bool { return !a.all && a.Has(NodeRole) }

// Has reports whether a role was granted.
func (a Access) Has(role Role) bool {
	return a.all || slices.ContainsFunc(a.grants, func(g Grant) bool { return g.has(role) })
}

func (g Grant) has(role Role) bool {
	return slices.ContainsFunc(g.Roles, func(r Role) bool { return r == role || slices.Contains(includes[r], role) })
}

// On reports whether one of the roles was granted on a resource.
func (a Access) On(resource string, roles ...Role) bool {
	return a.all || slices.ContainsFunc(a.grants, func(g Grant) bool {
		return slices.ContainsFunc(roles, g.has) &&
			(slices.Contains(g.Resources, AnyResource) || slices.Contains(g.Resources, resource))
	})
}

// Resources are those on which one of the roles was granted; all reports that this is any.
func (a Access) Resources(roles ...Role) (names []string, all bool) {
	if a.all {
		return nil, true
	}
	for _, g := range a.grants {
		if slices.ContainsFunc(roles, g.has) {
			names = append(names, g.Resources...)
		}
	}
	return names, slices.Contains(names, AnyResource)
}

// Grants are for people.
func (a Access) Grants() string {
	var texts []string
	for _, g := range a.grants {
		texts = append(texts, g.String())
	}
	if len(texts) == 0 {
		return "none"
	}
	return strings.Join(texts, "; ")
}
