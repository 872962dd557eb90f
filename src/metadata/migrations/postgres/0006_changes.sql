-- The newest change of each resource that processes keep in memory; `sequence` rises with every change. The row of a deletion goes after a day.
CREATE TABLE changes (
    tenant      TEXT COLLATE "C" NOT NULL,
    kind        TEXT COLLATE "C" NOT NULL,
    id          TEXT COLLATE "C" NOT NULL,
    sequence    BIGINT NOT NULL,
    is_deleted  BIGINT NOT NULL,
    change_time BIGINT NOT NULL,
    PRIMARY KEY (tenant, kind, id)
);
CREATE UNIQUE INDEX changes_by_sequence ON changes (sequence);
CREATE INDEX deletions_by_time ON changes (change_time) WHERE is_deleted = 1;

-- One row: the newest sequence that was given, and the newest of a deletion whose row is gone.
CREATE TABLE change_feed (
    one       BIGINT PRIMARY KEY CHECK (one = 1),
    newest    BIGINT NOT NULL,
    forgotten BIGINT NOT NULL
);
INSERT INTO change_feed (one, newest, forgotten) VALUES (1, 0, 0);
