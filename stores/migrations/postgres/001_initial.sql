-- Everything of Foliot, in a schema of its own. Texts that users choose may hold any character, also a NUL, which PostgreSQL
-- does not take in a text: those are bytea, in UTF-8, which sorts them by code point, as SQLite does.

create table migrations (
    number int primary key,
    name text not null,
    applied_ms bigint not null
);

create table meta (
    name text primary key,
    value bigint not null
);

-- Who writes: one row a store. Its number of the last group tells, when an answer was lost, whether that group was written;
-- its incarnation keeps a lost connection's group, should it still be on its way, from being written after that question.
create table writers (
    writer bigint generated always as identity primary key,
    incarnation bigint not null,
    group_no bigint not null,
    seen_ms bigint not null
) with (fillfactor = 10);

-- With how far each has come in its inbox: in which life of the stream, up to which entry, and the newest stamp applied.
create table shards (
    shard smallint primary key,
    epoch bigint not null,
    node text not null,
    last_id bigint not null,
    inbox_stream text not null default '',
    inbox_position bigint not null default 0,
    inbox_stamp bigint not null default 0
) with (fillfactor = 10);

create table kinds (
    template_id bigint primary key,
    tenant text collate "C" not null,
    handler text collate "C" not null,
    queue text collate "C" not null,
    pool text collate "C" not null,
    body text not null
);
create index kinds_of on kinds (tenant, queue, handler);

-- No index has a column that a lease or an outcome changes, so a task's row is updated in place (HOT), without touching an
-- index, and half of each page is left free for that. Where a task waits stands in `places`, who is leased in `leases`.
-- Columns that change stand together, so that the log of an update holds little more than those.
create table tasks (
    id bigint not null,
    template_id bigint not null,
    lane bigint not null,
    due_ms bigint not null,
    updated_ms bigint not null,
    started_ms bigint not null,
    ended_ms bigint not null,
    attempt int not null,
    spent int not null,
    interruptions int not null,
    state smallint not null,
    priority smallint not null,
    cancelling smallint not null,
    session bytea not null,
    result bytea not null,
    error bytea not null,
    key bytea not null,
    dedupe_key bytea not null,
    payload bytea not null
) partition by range (id);
alter table tasks alter payload set storage external, alter result set storage external, alter error set storage external;
create table tasks_rest partition of tasks default with (fillfactor = 50);
create unique index tasks_by_id on tasks (id);
create index tasks_by_template on tasks (template_id, id);

-- Where a task in QUEUED waits: its lane; in SCHEDULED or RETRYING: lane -1.
create table places (
    lane bigint not null,
    due_ms bigint not null,
    id bigint not null,
    shard smallint not null
) with (fillfactor = 95, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 20000);
create unique index places_in_order on places (shard, lane, due_ms, id);

-- One row a turn that leased: which tasks. Made shorter from time to time, so that it has few that run no more.
create table leases (
    shard smallint not null,
    ids bigint[] not null
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
create index leases_of on leases (shard);

-- Tasks that ended otherwise than COMPLETED: few among many, and what people look for.
create table odd_ends (
    state smallint not null,
    template_id bigint not null,
    id bigint not null
);
create unique index odd_ends_of on odd_ends (template_id, state, id);

-- Attempts are shown in the order they were written. Not an identity: before PostgreSQL 17 partitions cannot have one.
create sequence attempt_numbers cache 64;
create table attempts (
    id bigint not null,
    attempt int not null,
    kind smallint not null,
    started_ms bigint not null,
    ended_ms bigint not null,
    number bigint not null default nextval('attempt_numbers'),
    session bytea not null,
    error bytea not null
) partition by range (id);
create table attempts_rest partition of attempts default;
create index attempts_of on attempts (id, attempt);

create table logs (
    id bigint not null,
    attempt int not null,
    part int not null,
    text bytea not null
) partition by range (id);
create table logs_rest partition of logs default;
create unique index logs_of on logs (id, attempt, part);

create table progress (
    id bigint not null,
    attempt int not null,
    permille int not null,
    updated_ms bigint not null,
    note bytea not null,
    checkpoint bytea
) partition by range (id);
create table progress_rest partition of progress default with (fillfactor = 70);
create unique index progress_of on progress (id);

-- The shard is part of the key: only its owner may write under it.
create table dedupe (
    expires_ms bigint not null,
    task_id bigint not null,
    shard smallint not null,
    tenant text collate "C" not null,
    key bytea not null
);
create unique index dedupe_of on dedupe (shard, tenant, key);
create index dedupe_expiry on dedupe (expires_ms);

create table requests (
    expires_ms bigint not null,
    shard smallint not null,
    request_id bytea not null,
    answer bytea not null
);
create unique index requests_of on requests (shard, request_id);
create index requests_expiry on requests (expires_ms);

create table ledger (
    shard smallint not null,
    tenant text collate "C" not null,
    queue text collate "C" not null,
    what text collate "C" not null,
    count bigint not null,
    primary key (shard, tenant, queue, what)
) with (fillfactor = 30);

create table queues (
    pool text collate "C" not null,
    queue text collate "C" not null,
    shard smallint not null,
    body text not null,
    primary key (pool, queue)
);

create table tenants (
    tenant text collate "C" primary key,
    shard smallint not null,
    body text not null
);

create table set_aside (
    id bigint generated always as identity primary key,
    at_ms bigint not null,
    address text not null,
    error text not null,
    message bytea not null
);

create table schedules (
    id bigint primary key,
    next_ms bigint not null,
    template_id bigint not null,
    calendars bigint not null,
    revision int not null,
    shard smallint not null,
    tier smallint not null,
    tenant text collate "C" not null,
    name bytea not null,
    state bytea not null,
    body bytea not null
) with (fillfactor = 70);
create unique index schedule_names on schedules (tenant, name);
create index schedule_timers on schedules (shard, tier, next_ms, id) where next_ms > 0;
create index schedules_calendared on schedules (shard, id) where calendars <> 0;

-- A tick fires once since it is a primary key. `template_id` is its task's, so that what ticks made can be counted when the
-- task is gone or the schedule was changed; 0 where there is no task.
create table ticks (
    schedule_id bigint not null,
    tick_ms bigint not null,
    source bigint not null,
    task_id bigint not null,
    at_ms bigint not null,
    template_id bigint not null,
    revision int not null,
    outcome smallint not null,
    primary key (schedule_id, tick_ms, source)
);
create index ticks_alive on ticks ((schedule_id >> 12 & 1023)) where outcome = 0;
create index ticks_over on ticks (at_ms) where outcome <> 0;

create table backfills (
    id bigint primary key,
    schedule_id bigint not null,
    is_over boolean not null,
    body bytea not null,
    state bytea not null
);
create index backfills_of on backfills (schedule_id);
create index backfills_alive on backfills ((id >> 12 & 1023)) where not is_over;

create table calendars (
    tenant text collate "C" not null,
    name bytea not null,
    shard smallint not null,
    epoch bigint not null,
    number bigint not null,
    body bytea not null,
    primary key (tenant, name)
);
