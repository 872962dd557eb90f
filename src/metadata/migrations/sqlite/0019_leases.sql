-- What one process at a time does, whoever has it: holder and lease_end are absent for what is only locked inside a transaction.
CREATE TABLE leases (
    name      TEXT NOT NULL PRIMARY KEY,
    holder    TEXT,
    lease_end INTEGER
) STRICT, WITHOUT ROWID;
INSERT INTO leases (name) VALUES ('claims'), ('bootstrap');
