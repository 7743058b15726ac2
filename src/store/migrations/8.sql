-- Where a session's agent keeps its transcript, as its hooks report it. The transcript itself is not stored.
ALTER TABLE peer ADD COLUMN transcript TEXT;
