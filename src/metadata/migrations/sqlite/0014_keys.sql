-- Tenants that are known by name, and the keys that callers prove themselves with.

-- A row is made by an administrator; without authentication there need not be one. revision rises with every change.
CREATE TABLE tenants (
    tenant       TEXT NOT NULL PRIMARY KEY,
    display_name TEXT NOT NULL,
    state        TEXT NOT NULL CHECK (state IN ('active', 'suspended')),
    revision     INTEGER NOT NULL,
    create_time  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- An id is unique among the keys of all tenants, since a caller shows nothing but a key. tenant is absent for the keys of operators. Of a secret there is
-- its hash alone; previous_hash is that of the secret before the newest rotation, good until previous_end. tasks is a list, absent when every task is
-- allowed; scopes are names with spaces between them; last_use is a day since the Unix epoch.
CREATE TABLE api_keys (
    id                 TEXT NOT NULL PRIMARY KEY,
    tenant             TEXT REFERENCES tenants (tenant),
    display_name       TEXT NOT NULL,
    scopes             TEXT NOT NULL,
    tasks              TEXT,
    hash               BLOB NOT NULL,
    hash_kind          TEXT NOT NULL CHECK (hash_kind IN ('sha256', 'hmac_sha256')),
    previous_hash      BLOB,
    previous_hash_kind TEXT CHECK (previous_hash_kind IN ('sha256', 'hmac_sha256')),
    previous_end       INTEGER,
    created_by         TEXT NOT NULL,
    create_time        INTEGER NOT NULL,
    expire_time        INTEGER,
    revoke_time        INTEGER,
    last_use           INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX api_keys_by_tenant ON api_keys (tenant, id);
-- What a bootstrap looks for: keys of operators that are not revoked.
CREATE INDEX fleet_keys ON api_keys (id) WHERE tenant IS NULL AND revoke_time IS NULL;
