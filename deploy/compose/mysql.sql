-- SPDX-License-Identifier: Apache-2.0
-- Passwords here are for a demonstration on one machine.

-- The application prepares its branches as app.
CREATE USER app@'%' IDENTIFIED BY 'app';
CREATE DATABASE billing;
GRANT ALL ON billing.* TO app@'%';

-- The coordinators list branches and finish them (XA_RECOVER_ADMIN), see the
-- session that holds one (PROCESS) and end it (CONNECTION_ADMIN), and read and
-- remove the markers that prove a commit.
CREATE USER concord_rec@'%' IDENTIFIED BY 'concord';
GRANT XA_RECOVER_ADMIN, PROCESS, CONNECTION_ADMIN ON *.* TO concord_rec@'%';
-- They see who waits for whom, for deadlocks with other databases.
GRANT SELECT ON performance_schema.data_lock_waits TO concord_rec@'%';
GRANT SELECT, INSERT, DELETE, CREATE ON billing.* TO concord_rec@'%';
