-- Each column has one meaning. `session_key` was a key or a JSON list of keys, or empty; `pid` was 0 for an unknown
-- process; `rejection` was also the reason why the last attempt to forward a message got no clear answer; `outcome`
-- contained sentences; an empty `recipient_group` stood for no group; and the empty namespace of the shared state stood
-- for values that remained in events.
CREATE TABLE new_message(
  seq INTEGER PRIMARY KEY, sender INTEGER NOT NULL, recipient INTEGER NOT NULL, recipient_group TEXT,
  type TEXT NOT NULL, body TEXT NOT NULL, reply_to INTEGER, key TEXT,
  created INTEGER NOT NULL, expires INTEGER,
  state INTEGER NOT NULL, channel TEXT, bytes_read INTEGER NOT NULL,
  offered INTEGER, read INTEGER, acked INTEGER, pushed INTEGER, mesh_url TEXT, rejection TEXT, thread INTEGER, unclear TEXT);
INSERT INTO new_message SELECT
  seq, sender, recipient, nullif(recipient_group, ''), type, body, reply_to, key, created, expires, state, channel,
  bytes_read, offered, read, acked, pushed, mesh_url,
  CASE WHEN state >= 2 THEN rejection END, thread, CASE WHEN state < 2 THEN rejection END FROM message;
DROP TABLE message;
ALTER TABLE new_message RENAME TO message;
CREATE INDEX message_unread ON message(recipient) WHERE state < 2;
CREATE INDEX message_box ON message(recipient) WHERE state >= 2;
CREATE INDEX message_pair ON message(recipient, sender) WHERE state >= 2;
CREATE INDEX message_sent ON message(sender);
CREATE INDEX message_key ON message(sender, key) WHERE key IS NOT NULL;
CREATE INDEX message_expiry ON message(expires) WHERE expires IS NOT NULL AND state < 2;
CREATE INDEX message_thread ON message(thread) WHERE thread IS NOT NULL;
CREATE INDEX message_channel ON message(recipient_group) WHERE recipient_group >= '#' AND recipient_group < '$';
CREATE TABLE remaining_values(last_event INTEGER PRIMARY KEY);
INSERT OR IGNORE INTO remaining_values SELECT last_event FROM state WHERE namespace = '' AND last_event IS NOT NULL;
DELETE FROM state WHERE namespace = '';
CREATE TABLE new_wakeup(
  seq INTEGER NOT NULL, at INTEGER NOT NULL, channel TEXT NOT NULL, outcome TEXT NOT NULL, reason TEXT,
  PRIMARY KEY (seq, at, channel)) WITHOUT ROWID;
-- Earlier versions stored "rang" for "sent", and failures without the word "failed".
INSERT INTO new_wakeup SELECT seq, at, channel,
  CASE WHEN outcome IN ('sent', 'rang') THEN 'sent'
       WHEN outcome LIKE 'held back: %' THEN 'held_back' ELSE 'failed' END,
  CASE WHEN outcome IN ('sent', 'rang') OR outcome LIKE 'held back: %' THEN NULL
       WHEN outcome LIKE 'failed: %' THEN substr(outcome, 9) ELSE outcome END FROM wakeup;
DROP TABLE wakeup;
ALTER TABLE new_wakeup RENAME TO wakeup;
CREATE TABLE new_peer(
  id TEXT PRIMARY KEY, name TEXT NOT NULL, kind TEXT NOT NULL, agent TEXT NOT NULL,
  project TEXT NOT NULL, git_root TEXT, git_branch TEXT, repo TEXT, summary TEXT NOT NULL,
  host TEXT NOT NULL, pid INTEGER, push_socket TEXT, session_key TEXT, older_session_keys TEXT,
  first_seen INTEGER NOT NULL, last_seen INTEGER NOT NULL, online INTEGER NOT NULL, mesh_url TEXT,
  agent_pid INTEGER, agent_start INTEGER, transcript TEXT);
INSERT INTO new_peer SELECT
  id, name, kind, agent, project, git_root, git_branch, repo, summary,
  host, nullif(pid, 0), push_socket, nullif(session_key, ''), NULL,
  first_seen, last_seen, online, mesh_url, agent_pid, agent_start, transcript FROM peer;
DROP TABLE peer;
ALTER TABLE new_peer RENAME TO peer;
-- The newest key is the text behind the last quotation mark of the list, if its end, "], is removed. The program was
-- built without SQLite's functions for JSON, so a list with escaped characters is not split, and the session gets a new
-- key.
UPDATE peer SET session_key = NULL WHERE session_key LIKE '[%' AND instr(session_key, '\') > 0;
WITH list(id, text) AS (
    SELECT id, substr(session_key, 1, length(session_key) - 2) FROM peer WHERE session_key LIKE '["%"]'),
  split(id, text, newest_at) AS (
    SELECT id, text, length(rtrim(text, replace(text, '"', ''))) + 1 FROM list)
  UPDATE peer SET
    session_key = nullif(substr(split.text, split.newest_at), ''),
    older_session_keys =
      CASE WHEN split.newest_at > 3 THEN substr(split.text, 1, split.newest_at - 3) || ']' END
  FROM split WHERE split.id = peer.id;
