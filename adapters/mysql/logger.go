// SPDX-License-Identifier: Apache-2.0

package mysql

import (
	"fmt"
	"log/slog"

	sqldriver "github.com/go-sql-driver/mysql"
)

// Logger makes the driver log to l what it finds wrong with a connection, for Config.Logger; best to the
// logger that concord.WithLogger has. Without it NewConnector keeps the driver from writing to standard
// error: whatever it finds is an error of some call as well.
func Logger(l *slog.Logger) sqldriver.Logger { return logger{l} }

type logger struct{ log *slog.Logger }

// Print implements the driver's interface.
func (l logger) Print(v ...any) { l.log.Warn("the MySQL driver: " + fmt.Sprint(v...)) }

// quiet returns the configuration's logger, or one that is silent in the place of the driver's default.
func quiet(cfg *sqldriver.Config) sqldriver.Logger {
	if cfg.Logger == nil || cfg.Logger == sqldriver.NewConfig().Logger {
		return &sqldriver.NopLogger{}
	}
	return cfg.Logger
}
