#!/usr/bin/env python3
"""Proves from `cargo metadata` that dependencies between the crates only run the allowed way.

ffi <- dataplane <- controlplane <- appliance, and the walls: unsafe code only in ffi, no DPDK in core, model and api,
no tokio in the dataplane.
"""
import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Which crates of the workspace each crate may depend on; "all" for those at the top.
ALLOWED = {
    "dpdk-sys": set(),
    "dpdk": {"dpdk-sys"},
    "sluice-af-packet": {"dpdk"},
    "sluice-cpu": set(),
    "sluice-model": set(),
    "sluice-core": {"sluice-model", "sluice-cpu"},
    "sluice-capture": {"sluice-model"},
    "sluice-engine": {"sluice-core", "sluice-model", "sluice-capture", "sluice-cpu", "dpdk", "sluice-af-packet"},
    "sluice-api": {"sluice-model"},
    "sluice-export": {"sluice-model"},
    "sluice-ovsdb": {"sluice-model"},
    "sluice-store": {"sluice-model"},
    "sluice-agent": {"sluice-api", "sluice-capture", "sluice-core", "sluice-engine", "sluice-model", "sluice-ovsdb", "sluice-store"},
    "sluice-host": {"sluice-model"},
    "sluice": {"sluice-api", "sluice-host", "sluice-model"},
    "sluiced": "all",
    "sluice-perf": "all",
    "sluice-tests": "all",
}
# Nothing may depend on these.
TOP = {"sluice", "sluiced", "sluice-perf", "sluice-tests"}
NO_DPDK = {"sluice-core", "sluice-model", "sluice-capture", "sluice-cpu", "sluice-api", "sluice-export", "sluice-ovsdb", "sluice-store", "sluice-host", "sluice"}
UNSAFE_FOLDER = "ffi"
NO_TOKIO_FOLDER = "dataplane"


def main() -> int:
    command = ["cargo", "metadata", "--format-version", "1", "--locked"]
    metadata = json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)
    packages = {p["id"]: p for p in metadata["packages"]}
    nodes = {n["id"]: n for n in metadata["resolve"]["nodes"]}
    members = sorted(metadata["workspace_members"])
    names = {packages[m]["name"] for m in members}
    faults = []

    def dependencies(node):
        """Normal and build dependencies: tests may use what they like."""
        return [d["pkg"] for d in nodes[node]["deps"] if any(k["kind"] in (None, "build") for k in d["dep_kinds"])]

    def reachable(node):
        seen, todo = set(), [node]
        while todo:
            new = set(dependencies(todo.pop())) - seen
            seen |= new
            todo += new
        return {packages[i]["name"] for i in seen}

    for member in members:
        package = packages[member]
        name = package["name"]
        folder = pathlib.Path(package["manifest_path"]).relative_to(ROOT).parts[0]
        if name not in ALLOWED:
            faults.append(f"{name}: not in the list of allowed arrows of scripts/check-arrows.py")
            continue
        for other in sorted({packages[d]["name"] for d in dependencies(member)} & names):
            if other in TOP or (ALLOWED[name] != "all" and other not in ALLOWED[name]):
                faults.append(f"{name} must not depend on {other}")
        everything = reachable(member)
        if name in NO_DPDK and everything & {"dpdk", "dpdk-sys"}:
            faults.append(f"{name} must build without DPDK")
        if folder == NO_TOKIO_FOLDER and "tokio" in everything:
            faults.append(f"{name}: no tokio in the dataplane")
        if folder != UNSAFE_FOLDER:
            for target in package["targets"]:
                source = pathlib.Path(target["src_path"])
                if {"lib", "bin"} & set(target["kind"]) and "#![forbid(unsafe_code)]" not in source.read_text():
                    faults.append(f"{source.relative_to(ROOT)}: needs #![forbid(unsafe_code)]")
    for fault in faults:
        print(f"arrows: {fault}", file=sys.stderr)
    if not faults:
        print(f"arrows: {len(members)} crates, every dependency runs the allowed way")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
