-- Who has joined which channel. A channel exists while it has members.
CREATE TABLE channel_member(
  channel TEXT NOT NULL, peer TEXT NOT NULL, joined INTEGER NOT NULL, PRIMARY KEY (channel, peer)) WITHOUT ROWID;
-- The history of one channel. The name of a channel begins with #, so that other messages pay nothing for it.
CREATE INDEX message_channel ON message(recipient_group) WHERE recipient_group >= '#' AND recipient_group < '$';
