-- SPDX-License-Identifier: Apache-2.0
-- Passwords here are for a demonstration on one machine.

-- The application prepares its branches as app.
CREATE USER app@'%' IDENTIFIED BY 'app';
CREATE DATABASE ledger;
GRANT ALL ON ledger.* TO app@'%';

-- The coordinators may finish branches without a grant on MariaDB. They see the
-- session that holds one (PROCESS) and end it (CONNECTION ADMIN), finish
-- branches on a server that is read-only (READ_ONLY ADMIN), and read and remove
-- the markers that prove a commit.
CREATE USER concord_rec@'%' IDENTIFIED BY 'concord';
GRANT PROCESS, CONNECTION ADMIN, READ_ONLY ADMIN ON *.* TO concord_rec@'%';
GRANT SELECT, INSERT, DELETE, CREATE ON ledger.* TO concord_rec@'%';
