-- What a search for text compares: of each key's day every name once, instead of fourteen columns and the tags of each
-- request. Who searches finds here on which days of which keys a text can stand at all, and looks through those alone; a
-- name that stands here for nothing (its requests have left, or were made again) costs a look in vain, nothing more.
-- Replacing: names that come again meet their twins.
CREATE TABLE IF NOT EXISTS bursar.usage_names
(
    `day` Date COMMENT 'Day on which the request was admitted, UTC',
    `virtual_key_id` String COMMENT 'Virtual key\'s id',
    `name` String COMMENT 'A name, tag\'s value or person\'s id that stands in a request of the key on that day'
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(day)
ORDER BY (day, virtual_key_id, name)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'Names by day and key, for the search for text; query bursar.usage instead';

-- Written by the insert into usage_events itself, as usage_recent is.
CREATE MATERIALIZED VIEW IF NOT EXISTS bursar.usage_names_feed TO bursar.usage_names
AS SELECT DISTINCT toDate(started_at) AS day, virtual_key_id, arrayJoin(arrayFilter(each -> each != '', arrayConcat([toString(virtual_key), toString(team), toString(customer), toString(project), toString(repository), branch, toString(environment), toString(cost_center), toString(provider), toString(model), toString(requested_model), toString(error_type), toString(refused_by), toString(client_version), user_id], mapValues(tags)))) AS name
FROM bursar.usage_events
COMMENT 'Notes the names of what is inserted into usage_events in usage_names';

-- An insert of another replica that began before there was a view to feed is in usage_events by the end of this.
SELECT sleepEachRow(3) FROM (SELECT request_id FROM bursar.usage_events LIMIT 1);

-- What is there already; run a day at a time, or a part of one.
INSERT INTO bursar.usage_names (day, virtual_key_id, name)
SELECT DISTINCT toDate(started_at) AS day, virtual_key_id, arrayJoin(arrayFilter(each -> each != '', arrayConcat([toString(virtual_key), toString(team), toString(customer), toString(project), toString(repository), branch, toString(environment), toString(cost_center), toString(provider), toString(model), toString(requested_model), toString(error_type), toString(refused_by), toString(client_version), user_id], mapValues(tags)))) AS name
FROM bursar.usage_events WHERE 1;
