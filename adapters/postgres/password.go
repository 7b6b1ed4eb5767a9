// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"crypto/tls"

	"github.com/jackc/pgx/v5"
)

// guardPassword keeps the password from whoever asks for it as it is without having shown who he is: with
// other ways of authentication a server learns nothing that it does not know. Who wants that sets
// require_auth in the dsn, or lets the server be verified by sslmode.
func guardPassword(c *pgx.ConnConfig) {
	verified := verifies(c.TLSConfig)
	for _, f := range c.Fallbacks {
		verified = verified && verifies(f.TLSConfig)
	}
	if c.RequireAuth == "" && !verified {
		c.RequireAuth = "!password"
	}
}

func verifies(c *tls.Config) bool {
	return c != nil && (!c.InsecureSkipVerify || c.VerifyPeerCertificate != nil || c.VerifyConnection != nil)
}
