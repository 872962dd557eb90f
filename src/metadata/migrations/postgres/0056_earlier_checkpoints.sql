-- Checkpoints before the newest one that a job keeps, as an array of such documents as `checkpoint` has, newest first; NULL: none.
ALTER TABLE jobs ADD COLUMN earlier_checkpoints TEXT COLLATE "C";
