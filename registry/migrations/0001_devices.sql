-- 'mbrg': a database of medbind's registry.
PRAGMA application_id = 1835168359;

-- The one history that this database tells. A new database is a new history.
CREATE TABLE history (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    feed BLOB NOT NULL CHECK (length(feed) = 16),
    created_at INTEGER NOT NULL
) STRICT;

-- Keys that edges fetch. `purpose` is 'pseudonym'; the newest of a purpose is in use.
CREATE TABLE keys (
    id TEXT PRIMARY KEY,
    purpose TEXT NOT NULL,
    key BLOB NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

-- The newest state of each device. Times are milliseconds since 1970 in UTC; pins are 32 octets
-- each, one after the other. The secret's hash is kept after use. `owned`: has been claimed, so
-- that the next claim begins a new epoch.
CREATE TABLE devices (
    device TEXT NOT NULL PRIMARY KEY,
    code TEXT NOT NULL UNIQUE,
    secret_hash BLOB NOT NULL CHECK (length(secret_hash) = 32),
    secret_used INTEGER NOT NULL CHECK (secret_used IN (0, 1)),
    state TEXT NOT NULL CHECK (state IN ('unclaimed', 'active', 'suspended', 'revoked')),
    account TEXT,
    class TEXT NOT NULL,
    epoch INTEGER NOT NULL CHECK (epoch >= 1),
    owned INTEGER NOT NULL CHECK (owned IN (0, 1)),
    expires_at INTEGER,
    pins BLOB NOT NULL CHECK (length(pins) % 32 = 0),
    revision INTEGER NOT NULL UNIQUE,
    pseudonym TEXT NOT NULL,
    enrolled_at INTEGER NOT NULL,
    changed_at INTEGER NOT NULL
) STRICT;

CREATE INDEX devices_by_pseudonym ON devices (pseudonym);
CREATE INDEX devices_by_account ON devices (account, device) WHERE account IS NOT NULL;
CREATE INDEX devices_by_state ON devices (state, device);

-- Every change, in the order of commit, without gaps. `hash` is chained: it covers the hash before
-- it, the time and the record as the feed sends it.
CREATE TABLE changes (
    revision INTEGER PRIMARY KEY,
    device TEXT NOT NULL,
    at INTEGER NOT NULL,
    hash BLOB NOT NULL CHECK (length(hash) = 32)
) STRICT;

-- Who did what, when and why; only ever added to.
CREATE TABLE audit (
    id INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    device TEXT,
    account TEXT,
    reason TEXT,
    first_revision INTEGER,
    last_revision INTEGER
) STRICT;

-- Refused claims of the last while, by the code that was typed, whether a device has it or not.
CREATE TABLE refused_claims (
    code TEXT NOT NULL,
    at INTEGER NOT NULL
) STRICT;

CREATE INDEX refused_claims_by_code ON refused_claims (code, at);
CREATE INDEX refused_claims_by_time ON refused_claims (at);
