-- Attempts to wake a session over a message: which surface, and how it went.
CREATE TABLE wake(
  seq INTEGER NOT NULL, at INTEGER NOT NULL, surface TEXT NOT NULL, how TEXT NOT NULL,
  PRIMARY KEY (seq, at, surface)) WITHOUT ROWID;
-- Entries that were deleted wait for their end without anybody walking through the others.
CREATE INDEX state_gone ON state(updated) WHERE value IS NULL;
