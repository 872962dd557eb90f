-- content: what the request asked for, by field, so that a reuse of its id can say what differs; absent in rows of earlier releases.
ALTER TABLE requests ADD COLUMN content TEXT COLLATE "C";

-- allow_label_change: whether the job's version may serve although its labels are not those of the version that serves.
ALTER TABLE jobs ADD COLUMN allow_label_change BIGINT NOT NULL DEFAULT 0;
