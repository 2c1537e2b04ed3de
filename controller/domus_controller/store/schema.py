"""The tables of the manager's database and of the statistics, as migrations; what was released is never edited, only added to."""

from __future__ import annotations

import uuid

from sqlite_utils import Database, Migrations

MANAGER = Migrations("manager")
STATISTICS = Migrations("statistics")

# Times are seconds since 1970; `sequence` comes from the one counter of the change feed.
FIRST_TABLES = """
CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;

CREATE TABLE servers (
    id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, address TEXT NOT NULL, port INTEGER NOT NULL, serial TEXT,
    state TEXT NOT NULL DEFAULT 'unknown', last_seen REAL, version TEXT, libvirt TEXT, facts TEXT, added_at REAL NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE callback_positions (
    server_id TEXT NOT NULL, epoch TEXT NOT NULL, acknowledged INTEGER NOT NULL, current INTEGER NOT NULL, complete INTEGER NOT NULL,
    PRIMARY KEY (server_id, epoch)
) STRICT, WITHOUT ROWID;
CREATE TABLE callback_gaps (
    server_id TEXT NOT NULL, epoch TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL, PRIMARY KEY (server_id, epoch, first)
) STRICT, WITHOUT ROWID;

CREATE TABLE objects (
    row INTEGER PRIMARY KEY, kind TEXT NOT NULL, id TEXT NOT NULL, key TEXT NOT NULL, name TEXT NOT NULL, server_id TEXT NOT NULL,
    site TEXT, state TEXT, generation INTEGER NOT NULL, content TEXT NOT NULL, sequence INTEGER NOT NULL,
    changed_at REAL NOT NULL, deleted REAL, conflict TEXT, drifted INTEGER NOT NULL, etag TEXT, item TEXT, description TEXT
) STRICT;
CREATE UNIQUE INDEX objects_id ON objects (kind, id, server_id);
CREATE INDEX objects_key ON objects (server_id, kind, key) WHERE deleted IS NULL;
CREATE INDEX objects_name ON objects (kind, name, row) WHERE deleted IS NULL;
CREATE INDEX objects_server ON objects (kind, server_id, name, row) WHERE deleted IS NULL;
CREATE INDEX objects_state ON objects (kind, state, name, row) WHERE deleted IS NULL;
CREATE INDEX objects_site ON objects (kind, site, name, row) WHERE deleted IS NULL;
CREATE INDEX objects_site_key ON objects (kind, key, site, server_id) WHERE deleted IS NULL;
CREATE INDEX objects_place ON objects (site, kind, name, server_id) WHERE deleted IS NULL;
CREATE INDEX objects_drifted ON objects (kind, name, row) WHERE deleted IS NULL AND drifted = 1;
CREATE INDEX objects_sequence ON objects (kind, sequence);
CREATE INDEX objects_deleted ON objects (deleted) WHERE deleted IS NOT NULL;
CREATE TABLE object_tags (
    tag TEXT NOT NULL, kind TEXT NOT NULL, name TEXT NOT NULL, row INTEGER NOT NULL REFERENCES objects (row) ON DELETE CASCADE,
    PRIMARY KEY (tag, kind, name, row)
) STRICT, WITHOUT ROWID;
CREATE INDEX object_tags_row ON object_tags (row);

CREATE TABLE requests (
    id INTEGER PRIMARY KEY, site TEXT NOT NULL, server_id TEXT, kind TEXT NOT NULL, key TEXT NOT NULL, asked TEXT NOT NULL,
    job_id TEXT NOT NULL, state TEXT NOT NULL, created_at REAL NOT NULL, settled_at REAL
) STRICT;
CREATE INDEX requests_object ON requests (kind, key, site, id);
CREATE INDEX requests_job ON requests (job_id, kind, key);
CREATE INDEX requests_state ON requests (state, id);

CREATE TABLE jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, state TEXT NOT NULL, changed INTEGER,
    error TEXT, checked INTEGER NOT NULL, created_at REAL NOT NULL, started_at REAL, finished_at REAL, created_by TEXT NOT NULL,
    reason TEXT NOT NULL, objects TEXT NOT NULL, servers TEXT NOT NULL, options TEXT NOT NULL, sealed BLOB, process TEXT,
    waiting_for TEXT, cancelled_by TEXT, relaunch_of TEXT, result TEXT
) STRICT;
CREATE INDEX jobs_state ON jobs (state, number);
CREATE INDEX jobs_kind ON jobs (kind, number);
CREATE INDEX jobs_finished ON jobs (finished_at);
CREATE TABLE job_events (
    job_id TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE, number INTEGER NOT NULL, at REAL NOT NULL, kind TEXT NOT NULL,
    data TEXT NOT NULL, PRIMARY KEY (job_id, number)
) STRICT, WITHOUT ROWID;
CREATE TABLE audit (
    number INTEGER PRIMARY KEY, job_id TEXT NOT NULL UNIQUE, content TEXT NOT NULL, hash TEXT NOT NULL, forgotten_at REAL
) STRICT;

CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, received_at REAL NOT NULL, kind TEXT NOT NULL, severity TEXT NOT NULL,
    server_id TEXT, object_id TEXT, object TEXT, data TEXT NOT NULL, operation TEXT
) STRICT;
CREATE INDEX events_kind ON events (kind, id);
CREATE INDEX events_server ON events (server_id, id);
CREATE INDEX events_object ON events (object_id, id);
CREATE INDEX events_severity ON events (severity, id);

CREATE TABLE plans (
    id TEXT PRIMARY KEY, state TEXT NOT NULL, created_at REAL NOT NULL, created_by TEXT NOT NULL, changed INTEGER NOT NULL,
    objects TEXT NOT NULL, fingerprints TEXT NOT NULL, errors TEXT NOT NULL, options TEXT NOT NULL, sealed BLOB
) STRICT, WITHOUT ROWID;
CREATE INDEX plans_created ON plans (created_at);

CREATE TABLE users (
    name TEXT PRIMARY KEY, password TEXT NOT NULL, role TEXT NOT NULL, created_at REAL NOT NULL, changed_at REAL NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE tokens (
    id TEXT PRIMARY KEY, digest TEXT NOT NULL UNIQUE, user TEXT NOT NULL REFERENCES users (name) ON DELETE CASCADE, name TEXT NOT NULL,
    role TEXT NOT NULL, created_at REAL NOT NULL, expires_at REAL
) STRICT, WITHOUT ROWID;
CREATE INDEX tokens_user ON tokens (user, id);

CREATE TABLE revoked (
    serial TEXT PRIMARY KEY, server_ids TEXT NOT NULL, until REAL NOT NULL
) STRICT, WITHOUT ROWID;
"""

CERTIFICATE_TABLES = """
CREATE TABLE server_trust (
    server_id TEXT PRIMARY KEY, pool TEXT NOT NULL DEFAULT 'default', ends_at REAL, next_serial TEXT, next_ends_at REAL,
    libvirt INTEGER NOT NULL DEFAULT 0, libvirt_serial TEXT, qemu_serial TEXT, libvirt_ends_at REAL, libvirt_pool TEXT,
    next_libvirt_serial TEXT, next_qemu_serial TEXT, next_libvirt_ends_at REAL, next_pool TEXT, told_serial TEXT, gone_at REAL
) STRICT, WITHOUT ROWID;
CREATE TABLE person_certificates (
    serial TEXT PRIMARY KEY, user TEXT NOT NULL REFERENCES users (name) ON DELETE CASCADE, name TEXT NOT NULL, role TEXT NOT NULL,
    created_at REAL NOT NULL, expires_at REAL NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX person_certificates_user ON person_certificates (user, serial);
"""

# One row per thing and step; counters are kept as they are, so a rate over any time is the difference of two rows.
STATISTICS_TABLES = """
CREATE TABLE latest (server_id TEXT PRIMARY KEY, at REAL NOT NULL, statistics TEXT NOT NULL, steps TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE samples (
    step INTEGER NOT NULL, subject TEXT NOT NULL, at REAL NOT NULL, server_id TEXT NOT NULL, sample TEXT NOT NULL,
    PRIMARY KEY (step, subject, at)
) STRICT, WITHOUT ROWID;
CREATE INDEX samples_age ON samples (step, at);
"""


@MANAGER(name="first_tables")
def first_tables(database: Database) -> None:
    """Everything that the first version keeps."""
    _run(database, FIRST_TABLES)
    database.execute("INSERT INTO about VALUES ('manager_id', ?)", [str(uuid.uuid4())])
    database.execute("INSERT INTO counters VALUES ('sequence', 0)")


@MANAGER(name="problems_of_servers")
def problems_of_servers(database: Database) -> None:
    """What is wrong with an agent, as it says itself."""
    database.execute("ALTER TABLE servers ADD COLUMN problem TEXT")


@MANAGER(name="what_is_gone_and_what_failed")
def what_is_gone_and_what_failed(database: Database) -> None:
    """Objects that were asked for and are gone are drift, too; a request that failed says why."""
    database.execute("DROP INDEX objects_drifted")
    database.execute("CREATE INDEX objects_drifted ON objects (kind, name, row) WHERE drifted = 1")
    database.execute("CREATE INDEX objects_gone ON objects (kind, key) WHERE deleted IS NOT NULL")
    database.execute("ALTER TABLE requests ADD COLUMN error TEXT")


@MANAGER(name="certificates")
def certificates(database: Database) -> None:
    """Which certificates servers and people have. The row of a server outlives it, as long as a certificate of it could be good."""
    _run(database, CERTIFICATE_TABLES)


@MANAGER(name="states_of_servers")
def states_of_servers(database: Database) -> None:
    """What is known of a silent server, an administrator's maintenance mode, and facts apart: a heartbeat does not write them again."""
    for column in (
        "state_since REAL",
        "maintenance INTEGER NOT NULL DEFAULT 0",
        "maintenance_reason TEXT",
        "diagnosis TEXT",
        "distrusted INTEGER NOT NULL DEFAULT 0",
    ):
        database.execute(f"ALTER TABLE servers ADD COLUMN {column}")
    database.execute("UPDATE servers SET state = CASE state WHEN 'online' THEN 'running' ELSE state END")
    database.execute("CREATE TABLE server_facts (server_id TEXT PRIMARY KEY, host_uuid TEXT, facts TEXT NOT NULL) STRICT, WITHOUT ROWID")
    database.execute("CREATE INDEX server_facts_host_uuid ON server_facts (host_uuid)")
    database.execute("INSERT INTO server_facts SELECT id, json_extract(facts, '$.uuid'), facts FROM servers WHERE facts IS NOT NULL")
    database.execute("UPDATE servers SET facts = NULL")


@MANAGER(name="cpu_groups")
def cpu_groups(database: Database) -> None:
    """The baselines of CPU compatibility groups, with what they were made of."""
    database.execute("CREATE TABLE cpu_groups (name TEXT PRIMARY KEY, fingerprint TEXT NOT NULL, baseline TEXT, problem TEXT) STRICT, WITHOUT ROWID")


@MANAGER(name="server_pools")
def server_pools(database: Database) -> None:
    """What the manager must remember of a clustered pool: its members' numbers, and sealed: Corosync's key, and what was asked with its secrets."""
    database.execute("CREATE TABLE server_pools (name TEXT PRIMARY KEY, node_ids TEXT NOT NULL, sealed BLOB NOT NULL) STRICT, WITHOUT ROWID")


@MANAGER(name="policies")
def policies(database: Database) -> None:
    """Servers that are off on purpose ({at, by, reason, policy}), and what the policies of pools have looked at and will."""
    database.execute("ALTER TABLE servers ADD COLUMN powered_off TEXT")
    database.execute(
        "CREATE TABLE policy_looks (pool TEXT PRIMARY KEY, looked_at REAL, next_at REAL, job_id TEXT, found TEXT, waits TEXT,"
        " failures INTEGER NOT NULL DEFAULT 0, resting TEXT NOT NULL DEFAULT '{}') STRICT, WITHOUT ROWID"
    )


@STATISTICS(name="first_tables")
def first_statistics(database: Database) -> None:
    """The latest statistics of each server, and samples at several steps."""
    _run(database, STATISTICS_TABLES)


def _run(database: Database, script: str) -> None:
    # executescript() would commit, and a migration must be all or nothing.
    for statement in script.split(";\n"):
        if statement.strip():
            database.execute(statement)
