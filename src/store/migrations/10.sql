-- The members of each channel. A channel exists while it has members.
CREATE TABLE channel_member(
  channel TEXT NOT NULL, peer TEXT NOT NULL, joined INTEGER NOT NULL, PRIMARY KEY (channel, peer)) WITHOUT ROWID;
-- The history of one channel. The name of a channel begins with #, so other messages are not in this index.
CREATE INDEX message_channel ON message(recipient_group) WHERE recipient_group >= '#' AND recipient_group < '$';
