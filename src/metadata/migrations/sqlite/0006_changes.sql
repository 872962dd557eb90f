-- The newest change of each resource that processes keep in memory; `sequence` rises with every change. The row of a deletion goes after a day.
CREATE TABLE changes (
    tenant      TEXT NOT NULL,
    kind        TEXT NOT NULL,
    id          TEXT NOT NULL,
    sequence    INTEGER NOT NULL,
    is_deleted  INTEGER NOT NULL,
    change_time INTEGER NOT NULL,
    PRIMARY KEY (tenant, kind, id)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX changes_by_sequence ON changes (sequence);
CREATE INDEX deletions_by_time ON changes (change_time) WHERE is_deleted = 1;

-- One row: the newest sequence that was given, and the newest of a deletion whose row is gone.
CREATE TABLE change_feed (
    only      INTEGER PRIMARY KEY CHECK (only = 1),
    newest    INTEGER NOT NULL,
    forgotten INTEGER NOT NULL
) STRICT;
INSERT INTO change_feed (only, newest, forgotten) VALUES (1, 0, 0);
