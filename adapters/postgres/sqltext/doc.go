// SPDX-License-Identifier: Apache-2.0

// Package sqltext tells from the text of a message to PostgreSQL what it may do to the branch that it
// runs in. It asks nobody, and errs on the careful side.
package sqltext
