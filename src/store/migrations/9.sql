-- The first message of the conversation to which a reply belongs; null for a message that is not a reply. The new index
-- contains only replies, so other messages do not cause any work for it.
ALTER TABLE message ADD COLUMN thread INTEGER;
CREATE INDEX message_reply ON message(reply_to) WHERE reply_to IS NOT NULL;
UPDATE message SET thread = found.root FROM (
  WITH RECURSIVE tree(seq, root) AS (
    SELECT DISTINCT reply_to, reply_to FROM message AS answer WHERE reply_to IS NOT NULL
      AND NOT EXISTS (SELECT 1 FROM message AS parent WHERE parent.seq = answer.reply_to AND parent.reply_to IS NOT NULL)
    UNION ALL SELECT message.seq, tree.root FROM tree JOIN message ON message.reply_to = tree.seq)
  SELECT seq, root FROM tree) AS found
  WHERE message.seq = found.seq AND message.reply_to IS NOT NULL;
DROP INDEX message_reply;
CREATE INDEX message_thread ON message(thread) WHERE thread IS NOT NULL;
