-- Searches over many jobs. spec and progress are JSON; revision rises with every change; backbone is that of the servers that may move the sweep on.
CREATE TABLE sweeps (
    tenant           TEXT NOT NULL,
    id               TEXT NOT NULL,
    spec             TEXT NOT NULL,
    progress         TEXT NOT NULL,
    state            TEXT NOT NULL,
    message          TEXT,
    revision         INTEGER NOT NULL DEFAULT 0,
    cancel_requested INTEGER NOT NULL DEFAULT 0,
    backbone         TEXT,
    create_time      INTEGER NOT NULL,
    end_time         INTEGER,
    PRIMARY KEY (tenant, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX open_sweeps ON sweeps (create_time) WHERE end_time IS NULL;
CREATE INDEX ended_sweeps ON sweeps (end_time) WHERE end_time IS NOT NULL;
CREATE TRIGGER sweeps_of_erased BEFORE INSERT ON sweeps
WHEN EXISTS (SELECT 1 FROM erasures WHERE erasures.tenant = NEW.tenant)
BEGIN SELECT RAISE(ABORT, 'the tenant was erased'); END;
