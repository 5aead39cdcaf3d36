-- How a group of turns is written: functions that take its rows as columns, called in one statement, in one round trip, as
-- one transaction. Each checks for emptiness first, since a statement that finds nothing still costs its start.

create function shard_of(id bigint) returns smallint language sql immutable parallel safe
    as $$ select (id >> 12 & 1023)::smallint $$;

create function state_label(state smallint) returns text language sql immutable parallel safe
    as $$ select case state when 10 then 'completed' when 11 then 'failed' when 12 then 'cancelled' when 13 then 'dead'
        when 14 then 'expired' when 15 then 'skipped' end $$;

-- The lane of a place, null where a task in that state has none.
create function place_lane(state smallint, lane bigint) returns bigint language sql immutable parallel safe
    as $$ select case when state = 2 then lane when state in (1, 4) then -1 end $$;

-- Locks the rows of the shards, in the order given, until the end of the transaction. Raises: FO003 if this writer was
-- replaced; FO001 if an epoch is old, and then the detail has all shards' epochs.
create function commit_fence(
    writer_ bigint, incarnation_ bigint, group_ bigint, shards_ smallint[], epochs_ bigint[], last_ids_ bigint[],
    streams_ text[], positions_ bigint[], stamps_ bigint[]
) returns void language plpgsql as $$
declare
    found_ int;
begin
    update writers set group_no = group_ where writer = writer_ and incarnation = incarnation_;
    if not found then
        raise exception using errcode = 'FO003', message = 'this writer was replaced';
    end if;
    update shards set last_id = greatest(last_id, u.newest), inbox_stream = coalesce(u.stream, inbox_stream),
            inbox_position = coalesce(u.reached, inbox_position), inbox_stamp = coalesce(u.stamp, inbox_stamp)
        from unnest(shards_, epochs_, last_ids_, streams_, positions_, stamps_)
            u(number, claimed, newest, stream, reached, stamp)
        where shards.shard = u.number and shards.epoch = u.claimed;
    get diagnostics found_ = row_count;
    if found_ < cardinality(shards_) then
        raise exception using errcode = 'FO001', message = 'stale epoch', detail = (
            select coalesce(json_agg(json_build_array(shard, epoch)), '[]')::text from shards where shard = any(shards_));
    end if;
end $$;

create function commit_tasks(
    i_id bigint[], i_template bigint[], i_state smallint[], i_priority smallint[], i_due bigint[], i_updated bigint[],
    i_lane bigint[], i_key bytea[], i_dedupe bytea[], i_payload bytea[],
    l_id bigint[], l_attempt int[], l_session bytea[], l_updated bigint[],
    m_id bigint[], m_state smallint[], m_due bigint[], m_spent int[], m_interruptions int[], m_cancelling smallint[],
    m_updated bigint[],
    e_id bigint[], e_state smallint[], e_spent int[], e_started bigint[], e_ended bigint[], e_result bytea[], e_error bytea[],
    shorten_ smallint[]
) returns bigint[] language plpgsql as $$
declare
    left_ bigint[] := '{}';
begin
    if cardinality(i_id) > 0 then
        insert into tasks (id, template_id, lane, due_ms, updated_ms, started_ms, ended_ms, attempt, spent, interruptions,
                state, priority, cancelling, session, result, error, key, dedupe_key, payload)
            select id, template_id, lane, due_ms, updated_ms, 0, 0, 0, 0, 0, state, priority, 0, '', '', '', key, dedupe_key,
                payload
            from unnest(i_id, i_template, i_state, i_priority, i_due, i_updated, i_lane, i_key, i_dedupe, i_payload)
                u(id, template_id, state, priority, due_ms, updated_ms, lane, key, dedupe_key, payload);
        insert into places (lane, due_ms, id, shard)
            select case when state = 2 then lane else -1 end, due_ms, id, (id >> 12 & 1023)::smallint
            from unnest(i_id, i_state, i_due, i_lane) u(id, state, due_ms, lane) where state in (1, 2, 4);
    end if;
    if cardinality(l_id) > 0 then
        with leased as (
            update tasks set state = 3, attempt = u.attempt, session = u.session, updated_ms = u.updated_ms
                from unnest(l_id, l_attempt, l_session, l_updated) u(id, attempt, session, updated_ms)
                where tasks.id = u.id returning tasks.id, tasks.lane, tasks.due_ms
        ) delete from places using leased where places.shard = (leased.id >> 12 & 1023)::smallint
            and places.lane = leased.lane and places.due_ms = leased.due_ms and places.id = leased.id;
        insert into leases (shard, ids) select (id >> 12 & 1023)::smallint, array_agg(id) from unnest(l_id) id group by 1;
    end if;
    if cardinality(m_id) > 0 then
        delete from places using tasks, unnest(m_id) u(id)
            where tasks.id = u.id and places.shard = (u.id >> 12 & 1023)::smallint
                and places.lane = case when tasks.state = 2 then tasks.lane when tasks.state in (1, 4) then -1 end
                and places.due_ms = tasks.due_ms and places.id = u.id;
        delete from odd_ends using tasks, unnest(m_id) u(id)
            where tasks.id = u.id and tasks.state > 10
                and odd_ends.template_id = tasks.template_id and odd_ends.state = tasks.state and odd_ends.id = u.id;
        with moved as (
            update tasks set state = u.state, due_ms = u.due_ms, spent = u.spent, interruptions = u.interruptions,
                    cancelling = u.cancelling, updated_ms = u.updated_ms, ended_ms = 0,
                    session = case u.state when 3 then session else '' end
                from unnest(m_id, m_state, m_due, m_spent, m_interruptions, m_cancelling, m_updated)
                    u(id, state, due_ms, spent, interruptions, cancelling, updated_ms)
                where tasks.id = u.id returning tasks.id, tasks.state, tasks.lane, tasks.due_ms
        ) insert into places (lane, due_ms, id, shard)
            select case when state = 2 then lane else -1 end, due_ms, id, (id >> 12 & 1023)::smallint
            from moved where state in (1, 2, 4);
    end if;
    if cardinality(e_id) > 0 then
        -- A task without a session waited somewhere until now.
        with ended as (
            update tasks set state = u.state, spent = u.spent, started_ms = u.started_ms, ended_ms = u.ended_ms,
                    updated_ms = u.ended_ms, result = u.result, error = u.error
                from unnest(e_id, e_state, e_spent, e_started, e_ended, e_result, e_error)
                    u(id, state, spent, started_ms, ended_ms, result, error)
                where tasks.id = u.id returning tasks.id, tasks.template_id, tasks.state, tasks.lane, tasks.due_ms, tasks.session
        ), odd as (
            insert into odd_ends (state, template_id, id) select state, template_id, id from ended where state > 10
            on conflict do nothing
        ) delete from places using ended where ended.session = '' and places.shard = (ended.id >> 12 & 1023)::smallint
            and places.lane in (ended.lane, -1) and places.due_ms = ended.due_ms and places.id = ended.id;
    end if;
    if cardinality(shorten_) > 0 then
        with gone as (
            delete from leases where shard = any(shorten_) returning ids
        ), alive as (
            select distinct tasks.id from gone, unnest(gone.ids) leased(id), tasks where tasks.id = leased.id and tasks.state = 3
        ), kept as (
            insert into leases (shard, ids) select (id >> 12 & 1023)::smallint, array_agg(id) from alive group by 1
            returning shard, cardinality(ids) as size
        ) select coalesce(array_agg(shard::bigint << 32 | size), '{}') into left_ from kept;
    end if;
    return left_;
end $$;

create function commit_counts(
    c_shard smallint[], c_tenant text[], c_queue text[], c_what text[], c_count bigint[]
) returns void language plpgsql as $$
begin
    if cardinality(c_shard) > 0 then
        insert into ledger (shard, tenant, queue, what, count)
            select * from unnest(c_shard, c_tenant, c_queue, c_what, c_count)
            on conflict (shard, tenant, queue, what) do update set count = ledger.count + excluded.count;
    end if;
end $$;

-- Raises: FO002 if a task that is to be revived was deleted meanwhile; the rows of the others stay locked.
create function commit_before(
    k_template bigint[], k_tenant text[], k_handler text[], k_queue text[], k_pool text[], k_body text[], revived_ bigint[]
) returns void language plpgsql as $$
declare
    found_ int;
begin
    if cardinality(k_template) > 0 then
        insert into kinds (template_id, tenant, handler, queue, pool, body)
            select * from unnest(k_template, k_tenant, k_handler, k_queue, k_pool, k_body) on conflict do nothing;
    end if;
    if cardinality(revived_) > 0 then
        perform 1 from tasks where id = any(revived_) for update;
        get diagnostics found_ = row_count;
        if found_ < cardinality(revived_) then
            raise exception using errcode = 'FO002', message = 'a task to be revived was deleted';
        end if;
    end if;
end $$;

create function purge(ids_ bigint[]) returns bigint language plpgsql as $$
declare
    count_ bigint;
begin
    with gone as (
        delete from tasks where id = any(ids_) returning id, template_id, state, lane, due_ms, session
    ), counted as (
        insert into ledger (shard, tenant, queue, what, count)
            select shard_of(id), tenant, queue, 'purged_' || state_label(state), count(*)
            from gone join kinds using (template_id) where state >= 10 group by 1, 2, 3, 4
            on conflict (shard, tenant, queue, what) do update set count = ledger.count + excluded.count
    ), free as (
        delete from places using gone where gone.session = '' and places.shard = shard_of(gone.id)
            and places.lane in (gone.lane, -1) and places.due_ms = gone.due_ms and places.id = gone.id
    ), odd as (
        delete from odd_ends using gone where gone.state > 10
            and odd_ends.template_id = gone.template_id and odd_ends.state = gone.state and odd_ends.id = gone.id
    ) select count(*) into count_ from gone;
    delete from attempts where id = any(ids_);
    delete from logs where id = any(ids_);
    delete from progress where id = any(ids_);
    return count_;
end $$;

create function commit_rare(
    a_id bigint[], a_attempt int[], a_kind smallint[], a_session bytea[], a_started bigint[], a_ended bigint[], a_error bytea[],
    p_id bigint[], p_payload bytea[],
    d_shard smallint[], d_tenant text[], d_key bytea[], d_task bigint[], d_expires bigint[],
    r_shard smallint[], r_request bytea[], r_answer bytea[], r_expires bigint[],
    o_id bigint[], o_attempt int[], o_permille int[], o_note bytea[], o_checkpoint bytea[], o_updated bigint[],
    l_id bigint[], l_attempt int[], l_part int[], l_text bytea[],
    purged_ bigint[],
    q_pool text[], q_queue text[], q_shard smallint[], q_body text[],
    t_tenant text[], t_shard smallint[], t_body text[]
) returns void language plpgsql as $$
begin
    if cardinality(a_id) > 0 then
        insert into attempts (id, attempt, kind, session, started_ms, ended_ms, error)
            select * from unnest(a_id, a_attempt, a_kind, a_session, a_started, a_ended, a_error);
    end if;
    if cardinality(p_id) > 0 then
        update tasks set payload = u.payload from unnest(p_id, p_payload) u(id, payload) where tasks.id = u.id;
    end if;
    if cardinality(d_shard) > 0 then
        insert into dedupe (shard, tenant, key, task_id, expires_ms)
            select * from unnest(d_shard, d_tenant, d_key, d_task, d_expires)
            on conflict (shard, tenant, key) do update set task_id = excluded.task_id, expires_ms = excluded.expires_ms;
    end if;
    if cardinality(r_shard) > 0 then
        insert into requests (shard, request_id, answer, expires_ms)
            select * from unnest(r_shard, r_request, r_answer, r_expires)
            on conflict (shard, request_id) do update set answer = excluded.answer, expires_ms = excluded.expires_ms;
    end if;
    if cardinality(o_id) > 0 then
        insert into progress (id, attempt, permille, note, checkpoint, updated_ms)
            select * from unnest(o_id, o_attempt, o_permille, o_note, o_checkpoint, o_updated)
            on conflict (id) do update set attempt = excluded.attempt, permille = excluded.permille, note = excluded.note,
                checkpoint = coalesce(excluded.checkpoint, progress.checkpoint), updated_ms = excluded.updated_ms;
    end if;
    if cardinality(l_id) > 0 then
        insert into logs (id, attempt, part, text) select * from unnest(l_id, l_attempt, l_part, l_text)
            on conflict (id, attempt, part) do update set text = excluded.text;
    end if;
    if cardinality(purged_) > 0 then
        perform purge(purged_);
    end if;
    if cardinality(q_pool) > 0 then
        insert into queues (pool, queue, shard, body) select * from unnest(q_pool, q_queue, q_shard, q_body)
            on conflict (pool, queue) do update set shard = excluded.shard, body = excluded.body;
    end if;
    if cardinality(t_tenant) > 0 then
        insert into tenants (tenant, shard, body) select * from unnest(t_tenant, t_shard, t_body)
            on conflict (tenant) do update set shard = excluded.shard, body = excluded.body;
    end if;
end $$;

-- A tick takes its template from its task, which is inserted before it: the ledger counts it where the task counts. The
-- tenant of a schedule is its kind's; without that, null, it is refused. What is deleted in a turn is not there after it.
create function commit_schedules(
    gone_ bigint[],
    s_id bigint[], s_name bytea[], s_tier smallint[], s_next bigint[], s_template bigint[], s_revision int[],
    s_calendars bigint[], s_body bytea[], s_state bytea[],
    m_id bigint[], m_next bigint[], m_calendars bigint[], m_state bytea[],
    t_schedule bigint[], t_tick bigint[], t_source bigint[], t_revision int[], t_task bigint[], t_at bigint[],
    t_outcome smallint[],
    e_schedule bigint[], e_tick bigint[], e_source bigint[], e_outcome smallint[],
    b_id bigint[], b_schedule bigint[], b_over boolean[], b_body bytea[], b_state bytea[],
    c_tenant text[], c_name bytea[], c_body bytea[], c_epoch bigint[], c_number bigint[], c_shard smallint[]
) returns void language plpgsql as $$
begin
    if cardinality(gone_) > 0 then
        delete from schedules where id = any(gone_);
    end if;
    if cardinality(s_id) > 0 then
        insert into schedules (id, shard, tier, next_ms, template_id, revision, calendars, tenant, name, state, body)
            select id, shard_of(id), tier, next_ms, u.template_id, revision, calendars, kinds.tenant, name, state, u.body
            from unnest(s_id, s_name, s_tier, s_next, s_template, s_revision, s_calendars, s_body, s_state)
                u(id, name, tier, next_ms, template_id, revision, calendars, body, state)
            left join kinds on kinds.template_id = u.template_id
            on conflict (id) do update set tier = excluded.tier, next_ms = excluded.next_ms,
                template_id = excluded.template_id, revision = excluded.revision, calendars = excluded.calendars,
                tenant = excluded.tenant, name = excluded.name, state = excluded.state, body = excluded.body;
    end if;
    if cardinality(m_id) > 0 then
        update schedules set next_ms = u.next_ms, calendars = u.calendars, state = u.state
            from unnest(m_id, m_next, m_calendars, m_state) u(id, next_ms, calendars, state) where schedules.id = u.id;
    end if;
    if cardinality(t_schedule) > 0 then
        insert into ticks (schedule_id, tick_ms, source, revision, task_id, at_ms, outcome, template_id)
            select u.*, case u.task_id when 0 then 0 else
                coalesce((select tasks.template_id from tasks where tasks.id = u.task_id), 0) end
            from unnest(t_schedule, t_tick, t_source, t_revision, t_task, t_at, t_outcome)
                u(schedule_id, tick_ms, source, revision, task_id, at_ms, outcome);
    end if;
    if cardinality(e_schedule) > 0 then
        update ticks set outcome = u.outcome
            from unnest(e_schedule, e_tick, e_source, e_outcome) u(schedule_id, tick_ms, source, outcome)
            where ticks.schedule_id = u.schedule_id and ticks.tick_ms = u.tick_ms and ticks.source = u.source;
    end if;
    if cardinality(gone_) > 0 then
        with over as (
            delete from ticks where schedule_id = any(gone_) returning schedule_id, task_id, template_id
        ) insert into ledger (shard, tenant, queue, what, count)
            select shard_of(schedule_id), tenant, queue, 'fired_purged', count(*)
            from over join kinds using (template_id) where task_id > 0 group by 1, 2, 3
            on conflict (shard, tenant, queue, what) do update set count = ledger.count + excluded.count;
        delete from backfills where schedule_id = any(gone_);
    end if;
    if cardinality(b_id) > 0 then
        insert into backfills (id, schedule_id, is_over, body, state)
            select * from unnest(b_id, b_schedule, b_over, b_body, b_state)
            on conflict (id) do update set is_over = excluded.is_over, body = excluded.body, state = excluded.state;
    end if;
    if cardinality(c_tenant) > 0 then
        delete from calendars using unnest(c_tenant, c_name, c_body) u(tenant, name, body)
            where calendars.tenant = u.tenant and calendars.name = u.name and u.body = '';
        insert into calendars (tenant, name, body, epoch, number, shard)
            select * from unnest(c_tenant, c_name, c_body, c_epoch, c_number, c_shard)
                u(tenant, name, body, epoch, number, shard) where body <> ''
            on conflict (tenant, name) do update set shard = excluded.shard, body = excluded.body,
                epoch = excluded.epoch, number = excluded.number;
    end if;
end $$;
