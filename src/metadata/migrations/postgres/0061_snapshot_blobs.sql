-- Examples of snapshots that no job reads are in a blob instead of rows: its name (the snapshot's digest as text), and its size and sha256 once it is there.
ALTER TABLE snapshots ADD COLUMN blob TEXT COLLATE "C";
ALTER TABLE snapshots ADD COLUMN blob_size BIGINT NOT NULL DEFAULT 0;
ALTER TABLE snapshots ADD COLUMN blob_sha256 BYTEA;
UPDATE snapshots SET blob = encode(digest, 'hex');
-- Versions keep their rows for a while from now on, in which a release that does not know such blobs can take over again.
UPDATE snapshots SET create_time = CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)
    WHERE EXISTS (SELECT 1 FROM dataset_versions WHERE dataset_versions.tenant = snapshots.tenant AND dataset_versions.digest = snapshots.digest);
CREATE INDEX snapshots_by_blob ON snapshots (tenant, blob);
CREATE INDEX forgotten_snapshots ON snapshots (tenant, digest) WHERE forgotten = 2;
