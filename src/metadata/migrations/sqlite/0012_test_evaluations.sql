-- test_evaluation: metrics on the test split, which the job that made the version measures once it is published; the version's file does not have them.
ALTER TABLE versions ADD COLUMN test_evaluation TEXT;
