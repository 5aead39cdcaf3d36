-- Schedules, their ticks, backfills and calendars. There may be millions of schedules and most of them wait for a long
-- time, so a row is one record in one tree, with two indexes. The state is rewritten with every tick, the body, which may
-- be large, only when somebody changes it; so the body is last, where it may go on in pages of its own.

create table schedules (
    id integer primary key,
    shard integer not null,
    tier integer not null,
    next_ms integer not null,
    template_id integer not null,
    revision integer not null,
    calendars integer not null,
    tenant text not null,
    name text not null,
    state blob not null,
    body blob not null
);
create unique index schedule_names on schedules (tenant, name);

-- Each ends with the row's id, as every index does, which makes the order of equal entries exact.
create index schedule_timers on schedules (shard, tier, next_ms) where next_ms > 0;
create index schedules_calendared on schedules (shard) where calendars <> 0;

-- A tick fires once since it is a primary key. `template_id` is its task's, so that what ticks made can be counted when the
-- task is gone or the schedule was changed; 0 where there is no task.
create table ticks (
    schedule_id integer not null,
    tick_ms integer not null,
    source integer not null,
    revision integer not null,
    task_id integer not null,
    at_ms integer not null,
    outcome integer not null,
    template_id integer not null,
    primary key (schedule_id, tick_ms, source)
) without rowid;
create index ticks_alive on ticks (schedule_id >> 12 & 1023) where outcome = 0;
create index ticks_over on ticks (at_ms) where outcome <> 0;

create table backfills (
    id integer primary key,
    schedule_id integer not null,
    is_over integer not null,
    body blob not null,
    state blob not null
);
create index backfills_of on backfills (schedule_id);
create index backfills_alive on backfills (id >> 12 & 1023) where is_over = 0;

create table calendars (
    tenant text not null,
    name text not null,
    shard integer not null,
    body blob not null,
    epoch integer not null,
    number integer not null,
    primary key (tenant, name)
) without rowid;
