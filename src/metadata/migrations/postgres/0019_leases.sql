-- What one process at a time does, whoever has it: holder and lease_end are absent for what is only locked inside a transaction.
CREATE TABLE leases (
    name      TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    holder    TEXT COLLATE "C",
    lease_end BIGINT
);
INSERT INTO leases (name) VALUES ('claims'), ('bootstrap');
