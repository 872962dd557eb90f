-- One row: which database this is (the same id lies beside the blobs), and how many transactions changed it (the same count lies in a file beside
-- the database, so that a lost write-ahead log is noticed).
CREATE TABLE store (
    one     BIGINT NOT NULL PRIMARY KEY CHECK (one = 1),
    id      TEXT COLLATE "C" NOT NULL,
    commits BIGINT NOT NULL
);
