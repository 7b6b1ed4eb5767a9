// SPDX-License-Identifier: Apache-2.0

package mysql

import "slices"

// savepoints are those that the application has set in the transaction, the oldest first.
type savepoints []string

// set adds a savepoint. One of the same name is replaced.
func (s *savepoints) set(name string) {
	*s = append(slices.DeleteFunc(*s, func(n string) bool { return n == name }), name)
}

// has reports whether a savepoint is certainly there.
func (s savepoints) has(name string) bool { return name != "" && slices.Contains(s, name) }

// release removes a savepoint and those behind it.
func (s *savepoints) release(name string) {
	if i := slices.Index(*s, name); i >= 0 {
		*s = (*s)[:i]
	}
}

// rollback removes those behind a savepoint.
func (s *savepoints) rollback(name string) {
	if i := slices.Index(*s, name); i >= 0 {
		*s = (*s)[:i+1]
	}
}

// note follows a statement that was executed, or has failed.
func (s *savepoints) note(k kind, failed bool) {
	switch {
	case !k.traced || failed && k.verb != noVerb:
		*s = nil // nobody knows which there are
	case k.verb == setVerb:
		s.set(k.savepoint)
	case k.verb == releaseVerb:
		s.release(k.savepoint)
	case k.verb == rollbackVerb:
		s.rollback(k.savepoint)
	}
}
