-- Whether the labels of a data set exclude one another: 'single' or 'multi'. The label of an example is then one label, or any number of them in order, joined
-- by U+001F; a snapshot has the kind of its data set.
ALTER TABLE datasets ADD COLUMN label_kind TEXT COLLATE "C" NOT NULL DEFAULT 'single';
ALTER TABLE snapshots ADD COLUMN label_kind TEXT COLLATE "C" NOT NULL DEFAULT 'single';
