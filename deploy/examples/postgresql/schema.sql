-- What load.sh needs, in the schema that comes first in the search path. Run it
-- once, and again after an upgrade: psql -v ON_ERROR_STOP=1 -f schema.sql
-- The database must be of the encoding UTF8.
set client_min_messages = warning;

create table if not exists lockstitch_files (
    name      text,
    number    bigint,
    order_id  text not null,
    sha256    text not null,
    rows      bigint not null,
    loaded_at timestamptz not null default now(),
    primary key (name, number)
);

-- The name of the column for a cell of the header. PostgreSQL cuts names at 63
-- bytes; of a longer one the definition's name is cut and not the version id, so
-- that no two become the same.
create or replace function lockstitch_column(cell text) returns text language sql immutable as $$
    select left(cell, (select max(n) from generate_series(0, 63) n where octet_length(left(cell, n)) + octet_length(tail) <= 63)) || tail
    from (select coalesce(case when octet_length(cell) > 63 then substring(cell from ' \(version_id: \d+\)(?: #\d+)?$') end, '') as tail) t
$$;

-- The names of the columns for a header line, which is CSV. The second of the same
-- name is numbered.
create or replace function lockstitch_columns(header text) returns text[] language sql immutable as $$
    select array_agg(lockstitch_column(case when nth > 1 then cell || ' #' || nth::text else cell end) order by at)
    from (select cell, at, row_number() over (partition by lockstitch_column(cell) order by at) as nth
        from (select case when m[1] like '"%' then replace(substr(m[1], 2, length(m[1]) - 2), '""', '"') else m[1] end as cell, at
            from regexp_matches(header || ',', '("(?:[^"]|"")*"|[^",]*),', 'g') with ordinality as x (m, at)) y) z
$$;

-- The number of the last file that is loaded, 0 if none is. It is an error if the
-- manifest, of whatever file, is of another order: that has numbers of its own.
create or replace function lockstitch_last(manifest json) returns bigint language plpgsql as $$
declare
    export text := manifest->>'name';
    last   lockstitch_files;
begin
    select * into last from lockstitch_files where name = export order by number desc limit 1;
    if last.order_id <> manifest->>'order_id' then
        raise exception 'file % belongs to another rolling export of the name %: load it into another schema or database', manifest->>'number', export;
    end if;
    return coalesce(last.number, 0);
end $$;

-- Called first in the transaction that loads a file: enters it among those that
-- are loaded and makes the table if there is none. False when the file is loaded
-- already. Loaders of one export wait here for each other.
create or replace function lockstitch_begin(manifest json, digest text, header text, after bigint) returns boolean language plpgsql as $$
declare
    export text := manifest->>'name';
    file   bigint := manifest->>'number';
    wanted text[] := lockstitch_columns(header);
    there  text[];
    last   bigint;
begin
    perform pg_advisory_xact_lock(hashtextextended('lockstitch ' || export, 0));
    last := lockstitch_last(manifest);
    if file <= last then
        return false;
    elsif file > greatest(nullif(last, 0), nullif(after, 0)) + 1 then
        raise exception 'file % of % is missing; to go on without it, call load.sh with % behind the name', greatest(last, after) + 1, export, file - 1;
    elsif digest is distinct from manifest->>'sha256' then
        raise exception 'file % of %: the SHA-256 is not that of the manifest; remove both and pull again', file, export;
    end if;
    insert into lockstitch_files values (export, file, manifest->>'order_id', digest, (manifest->>'rows')::bigint);
    if to_regclass(quote_ident(export)) is null then
        execute format('create table %I (%s)', export, (
            select string_agg(format('%I %s', c, case when c in ('event_time', 'server_time') then 'bigint' else 'text' end), ', ' order by at)
            from unnest(wanted) with ordinality as x (c, at)));
    end if;
    select array_agg(attname::text order by attnum) into there from pg_attribute
        where attrelid = quote_ident(export)::regclass and attnum > 0 and not attisdropped;
    if there is distinct from wanted then
        raise exception 'file % has other columns than the table %: rename the table to go on with a new one', file, export
            using detail = format(E'only in the file: %s\nonly in the table: %s',
                array(select unnest(wanted) except select unnest(there)), array(select unnest(there) except select unnest(wanted)));
    end if;
    return true;
end $$;

-- Called last: what was read is what the manifest says.
create or replace function lockstitch_end(manifest json, got bigint) returns text language plpgsql as $$
begin
    if got is distinct from (manifest->>'rows')::bigint then
        raise exception 'file % of %: % rows were read, the manifest says %', manifest->>'number', manifest->>'name', got, manifest->>'rows';
    end if;
    return format('%s: %s rows', manifest->>'file', got);
end $$;
