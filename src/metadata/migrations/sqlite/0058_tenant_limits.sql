-- More of what a tenant may have; absent means the server's own settings. Those at once are of each server by itself.
ALTER TABLE tenants ADD COLUMN examples_limit INTEGER;
ALTER TABLE tenants ADD COLUMN upload_bytes_limit INTEGER;
ALTER TABLE tenants ADD COLUMN requests_at_once INTEGER;
ALTER TABLE tenants ADD COLUMN streams_at_once INTEGER;
ALTER TABLE tenants ADD COLUMN live_streams_at_once INTEGER;
ALTER TABLE tenants ADD COLUMN clips_at_once INTEGER;

-- Bytes of a part of an upload that is being written: they count before the part is in the store, and become committed ones with it. A table of its own,
-- so that servers of the release before, which run beside this one, find the uploads as they were. A part that begins before the committed bytes end has
-- become some of them, or never will: what is reserved for it counts no more.
CREATE TABLE upload_reservations (
    tenant TEXT NOT NULL,
    upload TEXT NOT NULL,
    bytes  INTEGER NOT NULL,
    start  INTEGER NOT NULL,
    PRIMARY KEY (tenant, upload),
    FOREIGN KEY (tenant, upload) REFERENCES uploads (tenant, id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
