-- backbone: the digest of the backbone that a job is for, where servers with several share the records; absent when any server may work on it.
ALTER TABLE jobs ADD COLUMN backbone TEXT;
