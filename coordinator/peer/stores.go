// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"fmt"
)

// foreignStore says why a node must not speak from this store; empty if it may.
func (p *Transport) foreignStore(h Hello) string {
	known := p.known.Load()
	if known == nil || p.config.List.Load().Observes(h.From) {
		return ""
	}
	for _, m := range *known {
		switch holds := m.Holds; {
		case m.Node != uint64(h.From):
		case m.Store != h.Store:
			return fmt.Sprintf("node %d has a different store from the one that the cluster knows: its disk was "+
				"lost, or directories were swapped. Give it its own directory back; if that is lost for good, run "+
				"\"concord member replace %d\"", h.From,
				h.From)
		case h.Tail.Less(holds):
			return fmt.Sprintf("the store of node %d was set back: its log ends at %v, but it had everything up to "+
				"%v. It has forgotten what it promised since. Stop it, run \"concord member replace %d\", and "+
				"start it with an empty directory", h.From, h.Tail, holds,
				h.From)
		}
	}
	return ""
}
