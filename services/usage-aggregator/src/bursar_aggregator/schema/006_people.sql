-- The table is fed from the governance topic: rows of users deleted there are deleted here, others come back.
ALTER TABLE bursar.people
    MODIFY COMMENT 'Names of people, from the governance topic, kept apart so that a person can be forgotten: delete the user';
