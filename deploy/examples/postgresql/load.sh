#!/usr/bin/env bash
# Loads what `lockstitch rolling pull` has brought into PostgreSQL
# (tried with 15).
#
#   load.sh DIR NAME [AFTER]
#
# Needs bash, gzip, psql and, once for each new load.sh, schema.sql. Where the database is, PGHOST,
# PGDATABASE, PGUSER, ~/.pgpass and the like say. Run it behind every pull, from cron
# or with the units beside it.
#
# The rows are in the table NAME (in SQL with quotes where it has a hyphen), with the
# columns of the files' header line. Of a name that comes twice there, as an attribute
# and a tag may have it, the second column is NAME #2.
# event_time and server_time are bigint, milliseconds since 1970 (an event_time may
# be any 64-bit integer, which no timestamp can): to_timestamp(server_time / 1000.0).
# The rest is text; an empty cell is NULL. PostgreSQL cannot hold the NUL character:
# it is left out.
#
# Every file is loaded once, whenever this or the database is killed: its number
# goes into lockstitch_files in the transaction that brings its rows. Several at a
# time do not hurt: they wait for each other. AFTER goes on behind that number,
# although files up to it are missing.
#
# When the header changes, because the rolling export was changed, it stops. Rename
# the table NAME and run it again: it goes on with the next file and a new table.
#
# Exit status 0: all files with a manifest are loaded. Else something is wrong, said
# on standard error; what came before is loaded.
set -euo pipefail
[ $# -ge 2 ] || { echo "usage: load.sh DIR NAME [AFTER]" >&2; exit 2; }
cd "$1"
name=$2 after=${3:-0}
[[ $name =~ ^[a-z0-9-]+$ && $after =~ ^[0-9]+$ ]] || { echo "load.sh: not the name of a rolling export, or no number: $*" >&2; exit 2; }
export PGCLIENTENCODING=UTF8

sql() { psql -X -q -A -t -v ON_ERROR_STOP=1 -v name="$name" -v after="$after" -f -; }

# What psql reads, in shells of its own. A line within a text that is just \. would
# end the data for psql, whatever the quotes around it: \"."  is the same to the server.
text() { gzip -dc -- "$FILE.csv.gz" | tr -d '\000'; }
data() { text | LC_ALL=C sed 's/^\\\.\(\r*\)$/\\"."\1/'; }
# The header line, which is several when there is a line end in a name.
header() { text | LC_ALL=C awk '{ all = all end $0; end = "\n"; quotes += gsub(/"/, "") } quotes % 2 == 0 { print all; exit }'; }
export FUNCTIONS="set -o pipefail; $(declare -f text data header)" # sh, which psql calls, passes on no functions

# The manifest is written last: a file that has one is whole. In order of the numbers.
numbers=$(for manifest in "$name"-*.json; do
	number=${manifest#"$name"-} number=${number%.json}
	if [[ $number =~ ^[1-9][0-9]*$ ]]; then echo "$number"; fi
done | sort -n)
[ -n "$numbers" ] || exit 0

# Of another order the files may have the numbers of those that are loaded: asked first.
export NEWEST=$name-${numbers##*$'\n'}
last=$(sql <<-'SQL'
	\set manifest `cat -- "$NEWEST.json"`
	select lockstitch_last(:'manifest');
SQL
)

while read -r number; do
	((number > last && number > after)) || continue
	export FILE=$name-$number
	# That the pipe has failed is known before the commit: \copy is then an error.
	sql <<-SQL
		\set manifest \`cat -- "\$FILE.json"\`
		\set digest \`sha256sum -- "\$FILE.csv.gz" | cut -c -64\`
		\set header \`bash -c "\$FUNCTIONS; header"\`
		begin;
		select lockstitch_begin(:'manifest', :'digest', :'header', :after) as fresh \gset
		\if :fresh
			\copy "$name" from program 'bash -c "\$FUNCTIONS; data"' with (format csv, header)
			select lockstitch_end(:'manifest', :ROW_COUNT);
		\endif
		commit;
	SQL
done <<<"$numbers"
