-- How far each shard has come in what was submitted one-way: in which life of the stream, up to which entry, and the newest
-- stamp of those applied, in nanoseconds. Written with the tasks of these entries, so that an entry that comes again is known.

create table inboxes (
    shard integer primary key,
    stream text not null,
    position integer not null,
    stamp integer not null
);
