-- Attempts to wake a session because of a message: the channel that was used, and the outcome.
CREATE TABLE wake(
  seq INTEGER NOT NULL, at INTEGER NOT NULL, surface TEXT NOT NULL, how TEXT NOT NULL,
  PRIMARY KEY (seq, at, surface)) WITHOUT ROWID;
-- With this index, old deleted entries are found without a scan of the other entries.
CREATE INDEX state_gone ON state(updated) WHERE value IS NULL;
