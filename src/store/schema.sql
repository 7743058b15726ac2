-- The tables of a new database, as the numbered files in `migrations` would leave them; a test compares the two.
-- Times are in milliseconds since the epoch. Sequence numbers only grow.

CREATE TABLE meta(name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

-- The highest numbers given out, and the numbers of rows. A turn that only adds messages and events does not update
-- them.
CREATE TABLE counters(
  id INTEGER PRIMARY KEY CHECK (id = 1),
  message_last INTEGER NOT NULL, event_last INTEGER NOT NULL, token_last INTEGER NOT NULL,
  messages INTEGER NOT NULL, unread INTEGER NOT NULL, events INTEGER NOT NULL);
INSERT INTO counters VALUES (1, 0, 0, 0, 0, 0, 0);

-- `agent_pid` and `agent_start` together identify the process of the agent, if the agent's hooks, or commands of
-- slm-mesh in its shell, registered the session. `older_session_keys` is a JSON list of the keys that the session had
-- before, oldest first.
CREATE TABLE peer(
  id TEXT PRIMARY KEY, name TEXT NOT NULL, kind TEXT NOT NULL, agent TEXT NOT NULL,
  project TEXT NOT NULL, git_root TEXT, git_branch TEXT, repo TEXT, summary TEXT NOT NULL,
  host TEXT NOT NULL, pid INTEGER, push_socket TEXT, session_key TEXT, older_session_keys TEXT,
  first_seen INTEGER NOT NULL, last_seen INTEGER NOT NULL, online INTEGER NOT NULL, mesh_url TEXT,
  agent_pid INTEGER, agent_start INTEGER, transcript TEXT);

-- Messages refer to their peers by number: in an index, an id of 36 bytes needs ten times as much room, and a commit
-- writes every page that it changes.
CREATE TABLE peer_number(num INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE);

-- `thread` is the first message of the conversation to which a reply belongs; null for a message that is not a reply.
-- `rejection` is the reason why a linked mesh refused the message. `unclear` is the reason why the last attempt to
-- forward a waiting message got no clear answer.
CREATE TABLE message(
  seq INTEGER PRIMARY KEY, sender INTEGER NOT NULL, recipient INTEGER NOT NULL, recipient_group TEXT,
  type TEXT NOT NULL, body TEXT NOT NULL, reply_to INTEGER, key TEXT,
  created INTEGER NOT NULL, expires INTEGER,
  state INTEGER NOT NULL, channel TEXT, bytes_read INTEGER NOT NULL,
  offered INTEGER, read INTEGER, acked INTEGER, pushed INTEGER, mesh_url TEXT, rejection TEXT, thread INTEGER, unclear TEXT);

-- Of the three indexes by recipient, a new message is only in the index of unread messages, where a hundred recipients
-- share a few pages. When the message is read, it moves to the two indexes of the history, together with the messages
-- that are read at the same time.
CREATE INDEX message_unread ON message(recipient) WHERE state < 2;
CREATE INDEX message_box ON message(recipient) WHERE state >= 2;
CREATE INDEX message_pair ON message(recipient, sender) WHERE state >= 2;
CREATE INDEX message_sent ON message(sender);
CREATE INDEX message_key ON message(sender, key) WHERE key IS NOT NULL;
CREATE INDEX message_expiry ON message(expires) WHERE expires IS NOT NULL AND state < 2;
CREATE INDEX message_thread ON message(thread) WHERE thread IS NOT NULL;
-- The history of one channel. The name of a channel begins with #, so other messages are not in this index.
CREATE INDEX message_channel ON message(recipient_group) WHERE recipient_group >= '#' AND recipient_group < '$';

-- Attempts to wake a session because of a message: the channel that was used (empty if none was), the outcome (sent,
-- failed or held_back), and the reason for a failure.
CREATE TABLE wakeup(
  seq INTEGER NOT NULL, at INTEGER NOT NULL, channel TEXT NOT NULL, outcome TEXT NOT NULL, reason TEXT,
  PRIMARY KEY (seq, at, channel)) WITHOUT ROWID;

-- The members of each channel. A channel exists while it has members.
CREATE TABLE channel_member(
  channel TEXT NOT NULL, peer TEXT NOT NULL, joined INTEGER NOT NULL, PRIMARY KEY (channel, peer)) WITHOUT ROWID;

-- The value of a deleted entry is null. `last_event` is the newest event that contains a value of the entry.
CREATE TABLE state(
  namespace TEXT NOT NULL, key TEXT NOT NULL, value TEXT, version INTEGER NOT NULL,
  by TEXT NOT NULL, updated INTEGER NOT NULL, expires INTEGER, last_event INTEGER, PRIMARY KEY (namespace, key));
CREATE INDEX state_expiry ON state(expires) WHERE expires IS NOT NULL;
CREATE INDEX state_gone ON state(updated) WHERE value IS NULL;

-- If a deleted entry is set again before all events have lost its old values: the newest event that still contains one.
CREATE TABLE remaining_values(last_event INTEGER PRIMARY KEY);

-- `owner` is 'peer', 'turn', 'subagent:' and the id of a subagent, or 'command:' and the key of a command.
CREATE TABLE lock(
  token INTEGER NOT NULL, path TEXT NOT NULL, holder TEXT NOT NULL, owner TEXT NOT NULL,
  reason TEXT NOT NULL, host TEXT NOT NULL, repo TEXT, repo_path TEXT, all_worktrees INTEGER NOT NULL,
  granted INTEGER NOT NULL, expires INTEGER NOT NULL, PRIMARY KEY (token, path));

-- `earlier` is the event with the previous value of the same entry of the shared state. From `state.last_event`, this
-- list leads to all events that contain values of an entry, so that the values can be removed when the entry is
-- deleted. An index of these events would cost each change of an entry one more page.
CREATE TABLE event(
  seq INTEGER PRIMARY KEY, type TEXT NOT NULL, by TEXT NOT NULL, at INTEGER NOT NULL,
  payload TEXT NOT NULL, earlier INTEGER);

-- The blocks of 64 sequence numbers that contain an event of a type. The events of one type are found through these
-- blocks. Most events cause no new row here, while an index of all events would cost each event one more page.
CREATE TABLE event_block(type TEXT NOT NULL, block INTEGER NOT NULL, PRIMARY KEY (type, block)) WITHOUT ROWID;
CREATE INDEX event_block_number ON event_block(block);
