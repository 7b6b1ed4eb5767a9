-- SPDX-License-Identifier: Apache-2.0
-- Passwords here are for a demonstration on one machine.

-- The application prepares its transactions as app.
CREATE ROLE app LOGIN PASSWORD 'app';
CREATE DATABASE orders OWNER app;

-- The coordinators finish them. PostgreSQL lets only a superuser or the very
-- role that prepared a transaction do that: concord_rec takes that role on with
-- SET ROLE. It may end a session that still holds a branch. As a member of app it
-- also reads and removes the markers that prove a commit, in the table
-- concord.branch, which the first branch of app creates.
CREATE ROLE concord_rec LOGIN PASSWORD 'concord';
GRANT app TO concord_rec;
GRANT pg_signal_backend TO concord_rec;
