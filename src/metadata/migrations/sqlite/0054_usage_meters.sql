-- Microseconds of the device and of decoding processors, and bytes of the bodies of calls. They have defaults, because servers of the release before,
-- which may run beside this one, do not name them.
ALTER TABLE usage_hours ADD COLUMN device_micros INTEGER NOT NULL DEFAULT 0;
ALTER TABLE usage_hours ADD COLUMN decode_micros INTEGER NOT NULL DEFAULT 0;
ALTER TABLE usage_hours ADD COLUMN received_bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE usage_hours ADD COLUMN sent_bytes INTEGER NOT NULL DEFAULT 0;
