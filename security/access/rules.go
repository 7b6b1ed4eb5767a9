// SPDX-License-Identifier: Apache-2.0

package access

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/concordtx/concord/security"
)

// Rule is who may use a procedure or a page.
type Rule struct {
	// Roles are those of which one is enough.
	Roles []security.Role
	// Open lets everybody in, also those who do not say who they are.
	Open bool
	// Stream says that its request may go on for ever.
	Stream bool
}

// Needs is the rule that one of some roles is enough.
func Needs(roles ...security.Role) Rule { return Rule{Roles: roles} }

// Streams is Needs for what streams.
func Streams(roles ...security.Role) Rule { return Rule{Roles: roles, Stream: true} }

// Rules are the rules by path: "/concord.v1.CoordinatorService/Commit", "/metrics".
type Rules map[string]Rule

// Missing names a procedure of a service that has no row; empty if all have. Who serves without looking
// here serves something that nobody has thought about.
func (r Rules) Missing(service protoreflect.ServiceDescriptor) string {
	for i := range service.Methods().Len() {
		path := fmt.Sprintf("/%s/%s", service.FullName(), service.Methods().Get(i).Name())
		if rule, ok := r[path]; !ok || len(rule.Roles) == 0 && !rule.Open {
			return path
		}
	}
	return ""
}

func (r Rule) allows(a security.Access) bool { return slices.ContainsFunc(r.Roles, a.Has) }

// wanted names the roles, for texts.
func (r Rule) wanted() string {
	var names []string
	for _, role := range r.Roles {
		names = append(names, string(role))
	}
	return strings.Join(names, " or ")
}
