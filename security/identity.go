// SPDX-License-Identifier: Apache-2.0

package security

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"strings"
)

// Kind is what somebody is. It decides what a certificate is good for at all.
type Kind string

// The kinds of identities.
const (
	Node   Kind = "node"   // a coordinator: its name is its id
	Agent  Kind = "agent"  // a participant that holds branches for others
	Client Kind = "client" // an application, or a person
)

// Identity is who somebody is.
type Identity struct {
	Cluster string // its name, which its authority was given
	Kind    Kind
	Name    string
}

const scheme = "concord"

// name is what clusters, clients and agents may be called: it is part of files, addresses and lists.
var name = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// CheckName returns an error unless a cluster, a client or an agent may have that name.
func CheckName(s string) error {
	if !name.MatchString(s) {
		return fmt.Errorf("%.70q is no name: use 1 to 64 letters, digits, dots, hyphens and underscores, and begin "+
			"with a letter or a digit", s)
	}
	return nil
}

// NodeIdentity is that of a node.
func NodeIdentity(cluster string, id uint64) Identity {
	return Identity{Cluster: cluster, Kind: Node, Name: strconv.FormatUint(id, 10)}
}

// String is the URI that certificates have.
func (i Identity) String() string {
	return scheme + "://" + i.Cluster + "/" + string(i.Kind) + "/" + i.Name
}

func (i Identity) uri() *url.URL {
	return &url.URL{Scheme: scheme, Host: i.Cluster, Path: "/" + string(i.Kind) + "/" + i.Name}
}

// NodeID is the id of a node, 0 for others.
func (i Identity) NodeID() uint64 {
	if i.Kind != Node {
		return 0
	}
	id, err := strconv.ParseUint(i.Name, 10, 64)
	if err != nil {
		return 0
	}
	return id
}

func (i Identity) check() error {
	if err := CheckName(i.Cluster); err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	switch i.Kind {
	case Node:
		if id := i.NodeID(); id == 0 || strconv.FormatUint(id, 10) != i.Name {
			return fmt.Errorf("node %.30q: a node's name is its id, from 1", i.Name)
		}
	case Agent, Client:
		if err := CheckName(i.Name); err != nil {
			return fmt.Errorf("%s: %w", i.Kind, err)
		}
	default:
		return fmt.Errorf("%.30q is no kind of identity: there are node, agent and client", string(i.Kind))
	}
	return nil
}

// ParseIdentity is the inverse of String.
func ParseIdentity(s string) (Identity, error) {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != scheme {
		return Identity{}, fmt.Errorf("%.150q is not an identity such as concord://CLUSTER/client/NAME", s)
	}
	return parseURI(u)
}

// parseURI is the inverse of uri, and strict: an identity has one spelling.
func parseURI(u *url.URL) (Identity, error) {
	kind, rest, _ := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
	i := Identity{Cluster: u.Host, Kind: Kind(kind), Name: rest}
	if err := i.check(); err != nil {
		return Identity{}, err
	}
	if i.String() != u.String() {
		return Identity{}, fmt.Errorf("%.150q is not written as %s", u, i)
	}
	return i, nil
}

var errNoIdentity = errors.New("the certificate does not say who it is for: it has no subject alternative name such " +
	"as concord://CLUSTER/client/NAME")

// identityOf returns whom a certificate is for. It does not say whether that is to be believed.
func identityOf(c *x509.Certificate) (found Identity, err error) {
	for _, u := range c.URIs {
		if u.Scheme != scheme {
			continue
		}
		if found != (Identity{}) {
			return Identity{}, errors.New("the certificate is for several: it must have one subject alternative " +
				"name of the form concord://CLUSTER/KIND/NAME")
		}
		if found, err = parseURI(u); err != nil {
			return Identity{}, fmt.Errorf("subject alternative name: %w", err)
		}
	}
	if found == (Identity{}) {
		return found, errNoIdentity
	}
	return found, nil
}
