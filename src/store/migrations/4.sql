-- Messages refer to their peers by number: in an index, an id of 36 bytes needs ten times as much room, and a commit
-- writes every page that it changes.
CREATE TABLE who(num INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE);
INSERT INTO who(id) SELECT sender FROM message UNION SELECT recipient FROM message;
ALTER TABLE message RENAME TO message_of_texts;
CREATE TABLE message(
  seq INTEGER PRIMARY KEY, sender INTEGER NOT NULL, recipient INTEGER NOT NULL, target TEXT NOT NULL,
  type TEXT NOT NULL, body TEXT NOT NULL, reply_to INTEGER, key TEXT,
  created INTEGER NOT NULL, expires INTEGER,
  state INTEGER NOT NULL, surface TEXT, taken INTEGER NOT NULL,
  offered INTEGER, read INTEGER, acked INTEGER, pushed INTEGER);
INSERT INTO message SELECT
  seq, (SELECT num FROM who WHERE id = sender), (SELECT num FROM who WHERE id = recipient), target,
  type, body, reply_to, key, created, expires, state, surface, taken, offered, read, acked, pushed
  FROM message_of_texts ORDER BY seq;
DROP TABLE message_of_texts;
-- Of the three indexes by recipient, a new message is only in the index of unread messages, where a hundred recipients
-- share a few pages. When the message is read, it moves to the two indexes of the history, together with the messages
-- that are read at the same time.
CREATE INDEX message_unread ON message(recipient) WHERE state < 2;
CREATE INDEX message_box ON message(recipient) WHERE state >= 2;
CREATE INDEX message_pair ON message(recipient, sender) WHERE state >= 2;
CREATE INDEX message_sent ON message(sender);
CREATE INDEX message_key ON message(sender, key) WHERE key IS NOT NULL;
CREATE INDEX message_expiry ON message(expires) WHERE expires IS NOT NULL AND state < 2;
