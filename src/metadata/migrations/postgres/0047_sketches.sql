-- sketch: what the video looks like to a backbone, as text; then `sampling` is the digest of the sketch's kind.
ALTER TABLE decoded_videos ADD COLUMN sketch TEXT COLLATE "C";
