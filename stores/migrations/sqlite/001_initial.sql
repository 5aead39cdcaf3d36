-- Tasks, and what hangs on them. Ids carry their shard (bits 12..21) and sort by time, so new rows go to the end of
-- every tree. Bodies live apart: leases and outcomes rewrite a task's row several times, its payload never.

create table meta (
    name text primary key,
    value not null
) without rowid;

create table migrations (
    number integer primary key,
    name text not null,
    applied_ms integer not null
);

create table shards (
    shard integer primary key,
    epoch integer not null,
    node text not null,
    last_id integer not null
);

create table kinds (
    template_id integer primary key,
    tenant text not null,
    handler text not null,
    queue text not null,
    pool text not null,
    body text not null
);

create table tasks (
    id integer primary key,
    shard integer not null,
    state integer not null,
    template_id integer not null,
    due_ms integer not null,
    lane integer not null,
    priority integer not null,
    attempt integer not null,
    spent integer not null,
    interruptions integer not null,
    cancelling integer not null,
    updated_ms integer not null,
    started_ms integer not null,
    ended_ms integer not null,
    key text not null,
    dedupe_key text not null,
    session text not null,
    result blob not null,
    error blob not null
);

-- Each ends with the row's id, as every index does, which makes the order of equal entries exact.
create index ready on tasks (shard, lane, due_ms) where state = 2;
create index timers on tasks (shard, due_ms) where state in (1, 4);
create index by_state on tasks (state, template_id);

create table payloads (
    id integer primary key,
    payload blob not null
);

create table attempts (
    id integer not null,
    attempt integer not null,
    kind integer not null,
    session text not null,
    started_ms integer not null,
    ended_ms integer not null,
    error blob not null
);
create index attempts_of on attempts (id, attempt);

create table logs (
    id integer not null,
    attempt integer not null,
    part integer not null,
    text blob not null
);
create unique index logs_of on logs (id, attempt, part);

create table progress (
    id integer primary key,
    attempt integer not null,
    permille integer not null,
    note text not null,
    checkpoint blob,
    updated_ms integer not null
);

-- The shard is part of the key: only its owner may write under it.
create table dedupe (
    shard integer not null,
    tenant text not null,
    key text not null,
    task_id integer not null,
    expires_ms integer not null
);
create unique index dedupe_of on dedupe (shard, tenant, key);
create index dedupe_expiry on dedupe (expires_ms);

create table requests (
    shard integer not null,
    request_id text not null,
    answer blob not null,
    expires_ms integer not null
);
create unique index requests_of on requests (shard, request_id);
create index requests_expiry on requests (expires_ms);

create table ledger (
    shard integer not null,
    tenant text not null,
    queue text not null,
    what text not null,
    count integer not null,
    primary key (shard, tenant, queue, what)
) without rowid;

create table queues (
    pool text not null,
    queue text not null,
    shard integer not null,
    body text not null,
    primary key (pool, queue)
) without rowid;

create table tenants (
    tenant text primary key,
    shard integer not null,
    body text not null
) without rowid;

create table set_aside (
    id integer primary key,
    at_ms integer not null,
    address text not null,
    error text not null,
    message blob not null
);
