#!/usr/bin/env python3
"""Holds a folder of Parquet files against JSON lines of the same records: 
check.py FOLDER FLOWS.jsonl METRICS.jsonl [COUNTERS.jsonl]

Every row and column must be equal, and the questions of docs/analytics.md must have, with each tool, the answers that
plain Python finds in the JSON lines. The code that runs is that of the document.
"""
import collections
import datetime
import json
import pathlib
import re
import sys

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

DOCUMENT = pathlib.Path(__file__).resolve().parent.parent.parent / "docs" / "analytics.md"
EPOCH = datetime.datetime.fromtimestamp(0, datetime.timezone.utc)


def block(name, language):
    """The code of docs/analytics.md below the mark `name`."""
    found = re.search(rf"<!-- {name} -->\n```{language}\n(.*?)```\n", DOCUMENT.read_text(), re.S)
    assert found, f"{DOCUMENT.name}: no {language} block {name}"
    return found.group(1)


def plain(value):
    """A value as JSON lines have it."""
    if isinstance(value, datetime.datetime):
        return (value - EPOCH) // datetime.timedelta(microseconds=1)
    return value


def rows(folder):
    """The rows of all whole files in a folder, each read by itself: no tool may have to guess a schema."""
    for path in sorted(folder.rglob("*.parquet")):
        names = path.relative_to(folder).parts[:-1]
        for row in pq.read_table(path, partitioning=None).to_pylist():
            row = {name: plain(value) for name, value in row.items()}
            at = EPOCH + datetime.timedelta(microseconds=row["start_time" if "start_time" in row else "time"])
            assert names == (f"date={at:%Y-%m-%d}", f"hour={at:%H}"), f"{path}: {at}"
            yield row


def lines(path):
    with open(path) as file:
        return [json.loads(line) for line in file]


def as_set(records, columns=None):
    keys = (lambda record: {name: record[name] for name in columns}) if columns else (lambda record: record)
    return collections.Counter(json.dumps(keys(record), sort_keys=True) for record in records)


def check_rows(name, found, wanted, columns):
    found = as_set(found)
    wanted = as_set(wanted, columns)
    missing, extra = wanted - found, found - wanted
    assert not missing and not extra, (
        f"{name}: {missing.total()} rows missing, {extra.total()} too many\n"
        f"  missing: {next(iter(missing), None)}\n  too many: {next(iter(extra), None)}")
    print(f"{name}: {found.total()} rows equal")


def answers(flows):
    """What plain Python says to the questions."""
    talkers, acks, pairs = (collections.defaultdict(lambda: [0, 0]) for _ in range(3))
    for flow in flows:
        client, server = flow["ip4_0"] or flow["ip6_0"], flow["ip4_1"] or flow["ip6_1"]
        if client is not None:
            talkers[client][0] += flow["byte_tx"]
        if server is not None:
            talkers[server][0] += flow["byte_rx"]
        if flow["srt_count"]:
            acks[server, flow["server_port"]][0] += flow["srt_sum"]
            acks[server, flow["server_port"]][1] += flow["srt_count"]
        if flow["protocol"] == 6:
            pairs[client, server][0] += flow["retrans_tx"] + flow["retrans_rx"]
            pairs[client, server][1] += flow["packet_tx"] + flow["packet_rx"]
    def first(rows):
        return sorted(rows, key=lambda row: (-row[0], *row[1]))[:10]
    return {
        "top_talkers": [(a, n) for n, (a,) in first((n, (a,)) for a, (n, _) in talkers.items())],
        "slowest_servers": [(s, p, m, n) for m, (s, p, n) in first((t / n, (s, p, n)) for (s, p), (t, n) in acks.items())],
        "retransmission_rate": [(c, s, r, n) for r, (c, s, n) in first((t / n, (c, s, n)) for (c, s), (t, n) in pairs.items())],
    }


def close(found, wanted):
    if isinstance(wanted, float):
        return abs(float(found) - wanted) <= 1e-9 * max(1.0, abs(wanted))
    return found == wanted


def check_answers(tool, question, found, wanted):
    found = [tuple(int(v) if type(v).__name__ == "Decimal" else v for v in row) for row in found]
    equal = len(found) == len(wanted) and all(
        len(f) == len(w) and all(close(a, b) for a, b in zip(f, w)) for f, w in zip(found, wanted))
    assert equal, f"{tool}: {question}:\n  found  {found}\n  wanted {wanted}"
    print(f"{tool}: {question}: {len(found)} rows equal")


def check_tools(folder, wanted):
    sql = {q: block(q.replace("_", " "), "sql") for q in wanted}
    names = {q.upper(): text for q, text in sql.items()}

    def run(tool):
        space = dict(names)
        exec(block(tool, "python").replace("records/", f"{folder}/"), space)
        return space

    run("duckdb")
    for question, text in sql.items():
        check_answers("duckdb", question, duckdb.sql(text).fetchall(), wanted[question])
    context = run("datafusion")["context"]
    for question, text in sql.items():
        found = [tuple(row.values()) for row in context.sql(text).to_pylist()]
        check_answers("datafusion", question, found, wanted[question])
    space = run("pyarrow")
    order = {
        "top_talkers": ["address", "bytes_sum"],
        "slowest_servers": ["server", "server_port", "srt_us", "srt_count_sum"],
        "retransmission_rate": ["client", "server", "rate", "packets_sum"],
    }
    for question in sql:
        found = [tuple(row.values()) for row in space[question].select(order[question]).to_pylist()]
        check_answers("pyarrow", question, found, wanted[question])


def check_filters(folder, flows):
    """Filters find what is there, whatever statistics say of row groups and pages."""
    space = {q.upper(): "" for q in ("top_talkers", "slowest_servers", "retransmission_rate")}
    tools = {}
    for tool in ("duckdb", "datafusion"):
        # The first statements of the document: what a query needs to see the table.
        code = block(tool, "python").replace("records/", f"{folder}/").split("top_talkers =")[0]
        exec(code, space)
    tools["duckdb"] = lambda sql: duckdb.sql(sql).fetchall()[0][0]
    tools["datafusion"] = lambda sql: list(space["context"].sql(sql).to_pylist()[0].values())[0]
    queries = 0
    for column in ("ip4_0", "ip6_0", "ip4_1", "ip6_1", "protocol", "client_port", "server_port", "flow_id", "start_time"):
        values = sorted({flow[column] for flow in flows if flow[column] is not None})
        picked = {values[len(values) * part // 8] for part in range(8)} | {values[-1]} if values else set()
        for value in picked:
            if column == "start_time":
                text = f"TIMESTAMP '{EPOCH + datetime.timedelta(microseconds=value):%Y-%m-%d %H:%M:%S.%f}+00'"
            else:
                text = f"'{value}'" if isinstance(value, str) else str(value)
            for operator, holds in (("=", lambda a, b: a == b), (">", lambda a, b: a > b)):
                wanted = sum(flow[column] is not None and holds(flow[column], value) for flow in flows)
                sql = f"SELECT count(*) FROM flows WHERE {column} {operator} {text}"
                for tool, run in tools.items():
                    found = run(sql)
                    assert found == wanted, f"{tool}: {sql}: {found}, wanted {wanted}"
                queries += 1
    print(f"filters: {queries} queries equal")


def check_layout(folder):
    """Types and statistics that filters rely on."""
    schema = ds.dataset(folder / "table=flows", partitioning="hive").schema
    assert schema.field("start_time").type == pa.timestamp("us", "UTC"), schema
    assert schema.field("ip4_0").type == pa.string() and schema.field("flow_id").type == pa.uint64(), schema
    for path in (folder / "table=flows").rglob("*.parquet"):
        metadata = pq.ParquetFile(path).metadata
        latest = None
        for group in range(metadata.num_row_groups):
            for number in range(metadata.num_columns):
                column = metadata.row_group(group).column(number)
                assert column.compression == "ZSTD", column
                if column.path_in_schema == "start_time":
                    assert column.statistics.has_min_max and column.has_column_index and column.has_offset_index
                if column.path_in_schema == "ip4_0":
                    assert column.has_column_index, column
        times = pq.read_table(path, columns=["start_time"], partitioning=None)["start_time"].to_pylist()
        start = 0
        for group in range(metadata.num_row_groups):
            part = times[start:start + metadata.row_group(group).num_rows]
            assert part == sorted(part), f"{path}: row group {group} is not in the order of time"
            start += len(part)
    left = [path for path in folder.rglob(".*") if path.name.endswith(".tmp")]
    assert not left, left


def main():
    folder, flows, metrics = (pathlib.Path(argument) for argument in sys.argv[1:4])
    flows, metrics = lines(flows), lines(metrics)
    found = list(rows(folder / "table=flows"))
    check_rows("flows", found, flows, list(found[0]) if found else None)
    for table, interval in (("metrics_1s", 1), ("metrics_1m", 60)):
        check_rows(table, rows(folder / f"table={table}"), [m for m in metrics if m["interval"] == interval], None)
    for counters in sys.argv[4:]:
        check_rows("counters", rows(folder / "table=counters"), lines(counters), None)
    check_layout(folder)
    check_filters(folder, flows)
    # Records with counters are random ones: answers to questions would hang on how a tool orders nulls.
    if not sys.argv[4:]:
        check_tools(folder, answers(flows))


if __name__ == "__main__":
    main()
