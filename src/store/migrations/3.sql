-- Attempts to wake a session over a message: which surface, and how it went.
CREATE TABLE wake(
  seq INTEGER NOT NULL, at INTEGER NOT NULL, surface TEXT NOT NULL, how TEXT NOT NULL,
  PRIMARY KEY (seq, at, surface)) WITHOUT ROWID;
