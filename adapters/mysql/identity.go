// SPDX-License-Identifier: Apache-2.0

package mysql

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"time"

	"github.com/concordtx/concord/txn"
)

// Identity names the server and the database. XA names are server-wide, but the markers are
// the database's. It does not change when the server gets another host, address or port: what
// it is made of lives with the data.
//
// MySQL has server_uuid, which images and copies of a data directory share. MariaDB has no
// such thing: its server_uid comes from port and network card. So an id is drawn once, and kept
// in a row of the marker table that is no marker, beside server_uuid or server_id, which
// replicas of one server must not share. Who may neither read nor write the row goes without.
func (r *Resource) Identity(ctx context.Context) (string, error) {
	var id string
	err := r.onServer(ctx, func(c *sql.Conn, s server) error {
		if s.database == "" {
			return errNoDatabase
		}
		drawn := ""
		if !r.options.NoMarker {
			var err error
			if drawn, err = drawnIdentity(ctx, c, s); err != nil {
				return err
			}
		}
		id = fmt.Sprintf("%s %s database=%s", s.flavor, identityOf(s, drawn), s.database)
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("identity of %s: %w", r.name, advise(err))
	}
	return id, nil
}

func identityOf(s server, drawn string) string {
	v := s.variables
	who := "server_uuid=" + v["server_uuid"]
	if s.flavor == flavorMariaDB {
		who = "server_id=" + v["server_id"]
	}
	switch {
	case drawn != "":
		return who + " id=" + drawn
	case s.flavor == flavorMySQL:
		return who
	case v["server_uid"] != "":
		return who + " server_uid=" + v["server_uid"]
	}
	return who + " datadir=" + v["datadir"] // older than server_uid
}

// drawnIdentity reads the id, and draws it if nobody has. It is empty if the grants allow
// neither, or the server takes no writes.
func drawnIdentity(ctx context.Context, c *sql.Conn, s server) (string, error) {
	draw := fmt.Sprintf("INSERT IGNORE INTO %s (cluster, gid, branch, holder) VALUES (0, '%s', 0, '%s%s')",
		tableIn(s), txn.ID{}, identityMark, txn.NewID(time.Now()))
	for _, write := range []string{"", createMarkerTable(s), draw} {
		if write != "" {
			if _, err := c.ExecContext(ctx, write); err != nil {
				if _, answered := codeOf(err); !answered {
					return "", err
				}
			}
		}
		rows, err := readAt(ctx, c, sql.LevelReadCommitted, selectMarker(s, txn.XID{}, "''"))
		switch _, answered := codeOf(err); {
		case err != nil && !answered:
			return "", err
		case len(rows) == 1:
			id, _ := strings.CutPrefix(rows[0][0], identityMark)
			return id, nil
		}
	}
	return "", nil
}

// identityMark begins the holder in the row that has the id.
const identityMark = "identity "

func createMarkerTable(s server) string {
	return strings.Replace(CreateMarkerTable, markerTable, tableIn(s), 1)
}
