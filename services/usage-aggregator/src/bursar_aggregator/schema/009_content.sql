-- What requests said and were answered, where content is on. One row per request; redelivered records meet their twins.
-- Rows go after a time of their own (BURSAR_CONTENT_RETENTION_DAYS; the aggregator sets the TTL), and when content of
-- their user, key or session is deleted.
CREATE TABLE IF NOT EXISTS bursar.content
(
    `request_id` String COMMENT 'The request, as in bursar.usage',
    `started_at` DateTime64(3, 'UTC') COMMENT 'When the edge admitted the request, UTC, milliseconds',
    `virtual_key_id` String COMMENT 'Virtual key\'s id',
    `team_id` LowCardinality(String) COMMENT 'Team\'s id; empty: the key belongs to none',
    `customer_id` LowCardinality(String) COMMENT 'Customer\'s id; empty: the key belongs to none',
    `user_id` String COMMENT 'Person\'s id',
    `session_id` String COMMENT 'Claude Code\'s session',
    `agent_id` String COMMENT 'Claude Code\'s agent within the session',
    `model` LowCardinality(String) COMMENT 'Model that served, as far as known',
    `prompt_parts` UInt32 COMMENT 'How many of the parts are the prompt; the others are the answer',
    `roles` Array(String) COMMENT 'Of each part who speaks: system, tools, user, assistant',
    `kinds` Array(String) COMMENT 'Of each part what it is: text, thinking, tool_use, tool_result, image ...',
    `names` Array(String) COMMENT 'Of each part its tool\'s name or media type, else empty',
    `texts` Array(String) COMMENT 'Of each part its text, secrets taken out' CODEC(ZSTD(3)),
    `prompt_bytes` UInt64 COMMENT 'Size of the request\'s body as it came',
    `answer_bytes` UInt64 COMMENT 'Size of the answer\'s body as it came',
    `prompt_cut` Bool COMMENT 'Some of the prompt is not stored: the oldest of it is missing',
    `answer_cut` Bool COMMENT 'Some of the answer is not stored: its end is missing',
    `redacted` UInt32 COMMENT 'Secrets taken out of what is stored',
    `event_id` String COMMENT 'CloudEvents id of the event the row was made of',
    `log_topic` LowCardinality(String) COMMENT 'Topic the event was read from',
    `log_partition` UInt32 COMMENT 'Partition the event was read from',
    `log_offset` UInt64 COMMENT 'Offset the event was read at'
)
ENGINE = ReplacingMergeTree
PARTITION BY toMonday(started_at)
ORDER BY (toDate(started_at), virtual_key_id, request_id)
TTL toDateTime(started_at) + toIntervalDay(30)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, index_granularity_bytes = 1048576, merge_with_ttl_timeout = 3600
COMMENT 'Prompts and answers of requests, where content is on';
