-- The tables of the first version. Times are in milliseconds since the epoch. Sequence numbers only grow.
CREATE TABLE meta(name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE tally(
  id INTEGER PRIMARY KEY CHECK (id = 1),
  message_last INTEGER NOT NULL, event_last INTEGER NOT NULL, token_last INTEGER NOT NULL,
  messages INTEGER NOT NULL, unread INTEGER NOT NULL, events INTEGER NOT NULL);
INSERT INTO tally VALUES (1, 0, 0, 0, 0, 0, 0);
CREATE TABLE peer(
  id TEXT PRIMARY KEY, name TEXT NOT NULL, kind TEXT NOT NULL, agent TEXT NOT NULL,
  project TEXT NOT NULL, git_root TEXT, git_branch TEXT, repo TEXT, summary TEXT NOT NULL,
  host TEXT NOT NULL, pid INTEGER NOT NULL, uds_path TEXT, session TEXT NOT NULL,
  started INTEGER NOT NULL, seen INTEGER NOT NULL, here INTEGER NOT NULL);
CREATE TABLE message(
  seq INTEGER PRIMARY KEY, sender TEXT NOT NULL, recipient TEXT NOT NULL, target TEXT NOT NULL,
  type TEXT NOT NULL, body TEXT NOT NULL, reply_to INTEGER, key TEXT,
  created INTEGER NOT NULL, expires INTEGER,
  state INTEGER NOT NULL, surface TEXT, taken INTEGER NOT NULL,
  offered INTEGER, read INTEGER, acked INTEGER, pushed INTEGER);
CREATE TABLE state(
  namespace TEXT NOT NULL, key TEXT NOT NULL, value TEXT, version INTEGER NOT NULL,
  by TEXT NOT NULL, updated INTEGER NOT NULL, expires INTEGER, PRIMARY KEY (namespace, key));
CREATE TABLE lock(
  token INTEGER NOT NULL, path TEXT NOT NULL, holder TEXT NOT NULL, bound TEXT NOT NULL,
  reason TEXT NOT NULL, host TEXT NOT NULL, repo TEXT, rel TEXT, everywhere INTEGER NOT NULL,
  taken INTEGER NOT NULL, expires INTEGER NOT NULL, PRIMARY KEY (token, path));
CREATE TABLE event(
  seq INTEGER PRIMARY KEY, type TEXT NOT NULL, by TEXT NOT NULL, at INTEGER NOT NULL,
  payload TEXT NOT NULL);
