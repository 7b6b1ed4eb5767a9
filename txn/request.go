// SPDX-License-Identifier: Apache-2.0

package txn

// Limits of a request: a branch number is one byte, and the texts are kept in the log.
const (
	MaxBranches     = 256
	MaxResourceName = 64   // bytes
	MaxEvidence     = 1024 // bytes
	MaxHolder       = 1024 // bytes
	MaxReason       = 1024 // bytes
	MaxLabel        = 1024 // bytes
	MaxKey          = 128  // bytes
	MaxResult       = 4096 // bytes
)

// CommitRequest asks for the decision to commit a transaction. In two phases all of its branches
// have voted Yes; in three, agents hold them and are asked for their votes.
type CommitRequest struct {
	ID       ID
	Cluster  ClusterID // by which the branches are named; 0 if whoever asks names none
	Protocol Protocol
	Label    string
	// Key is the idempotency key, and Result what is kept with it; empty if there is none.
	Key      string
	Result   []byte
	Branches []Branch // numbers and resources unique, in order of No; there may be none
	Agents   []Agent  // of three phases, and only there: in order of PartyID
	// Trace is the traceparent of the transaction's span, or empty. It is never stored.
	Trace string
}

// Record is what the log is to have of it, if it is decided as asked.
func (r CommitRequest) Record() CommitRecord {
	return CommitRecord{ID: r.ID, Protocol: r.Protocol, Branches: r.Branches, Label: r.Label, Key: r.Key,
		Result: r.Result}
}

// Agent is an agent that holds open branches of a three-phase transaction.
type Agent struct {
	Party
	Epoch uint64 // its life in which they were opened
	// Branches are known by number and resource until the agent has voted. Claims are theirs, in
	// the same order.
	Branches []Branch
	Claims   []Claim
}

// Claim is what the application knows of the work in a branch: the number of its last request, and
// the digest that was answered to it. An agent that does not hold this very work votes No.
type Claim struct {
	No     BranchNo
	Number uint64
	Digest [32]byte
}

// Resolution is an operator's decision for a transaction that has none.
type Resolution struct {
	ID       ID
	Decision Decision
	Who, Why string
	// Resources are, of a commit, all that the transaction changed, as the operator knows.
	Resources []string
	// Force, of an abort: also of a transaction of which nobody has heard.
	Force bool
	// Last names the last resource of a transaction that has one; empty if the operator leaves it to its branches.
	Last string
}

// Settlement is an operator's word about one branch that the cluster cannot, or must not, end by itself.
type Settlement struct {
	ID     ID
	Branch BranchNo
	// Decision is how its database is to end it; Undecided: nobody can, and it is given up.
	Decision Decision
	// Resource says which branch is meant, should several list it; empty if none do.
	Resource string
	Who, Why string
}

// Inquiry asks what became of a transaction; one without decision is aborted by it.
type Inquiry struct {
	ID      ID
	Cluster ClusterID // that whoever asks takes it for one of; 0 if he does not know
	// Several says that whoever asks knows that no database can have committed it alone.
	Several bool
	// Last names the last resource, which is asked if nothing is decided; empty if whoever asks does not know it.
	Last string
}

// LastDecision is the word of a client that a last resource has committed, and with it the transaction.
type LastDecision struct {
	ID   ID
	Last string
	LastMarker
}
