#!/usr/bin/env python3
"""What the package tells of the crates in a binary, beyond the texts of their licences.

shipped.py bill PACKAGE SECONDS <SBOM >SBOM   The bill of materials (SPDX 2.3, JSON) of what is in the binary alone, and
                                              the same for the same content: the tool that writes it lists crates of
                                              all platforms and of tests, and gives it the time of day, a random name
                                              and any order. SECONDS (since 1970) become its time.
shipped.py notices PACKAGE                    The notices that crates want handed on (Apache License 2.0, 4d).
"""

import datetime
import hashlib
import json
import pathlib
import subprocess
import sys
import uuid

TARGET = "x86_64-unknown-linux-gnu"


def cargo(*arguments):
    command = ["cargo", *arguments, "--offline", "--locked"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def shipped(package):
    """The crates in the binary of a package, as (name, version)."""
    lines = cargo(
        "tree", "-p", package, "-e", "normal", "--target", TARGET, "--prefix", "none", "--no-dedupe", "--format", "{p}"
    )
    crates = set()
    for line in filter(None, lines.splitlines()):
        name, version = line.split()[:2]
        crates.add((name, version.removeprefix("v")))
    return crates


def bill(package, seconds):
    sbom = json.load(sys.stdin)
    crates = shipped(package)
    packages = sbom["packages"]
    out = {entry["SPDXID"] for entry in packages if (entry["name"], entry["versionInfo"]) not in crates}
    sbom["packages"] = [entry for entry in packages if entry["SPDXID"] not in out]
    sbom["relationships"] = [
        entry for entry in sbom["relationships"] if not {entry["spdxElementId"], entry["relatedSpdxElement"]} & out
    ]
    missing = crates - {(entry["name"], entry["versionInfo"]) for entry in packages}
    if missing:
        sys.exit(f"error: the bill of materials of {package} lacks {sorted(missing)}")
    for part in ("files", "packages", "relationships"):
        sbom[part].sort(key=lambda entry: json.dumps(entry, sort_keys=True))
    time = datetime.datetime.fromtimestamp(int(seconds), datetime.timezone.utc)
    sbom["creationInfo"]["created"] = time.strftime("%Y-%m-%dT%H:%M:%SZ")
    del sbom["documentNamespace"]
    content = hashlib.sha256(json.dumps(sbom, sort_keys=True).encode()).hexdigest()
    sbom["documentNamespace"] = f"https://spdx.org/spdxdocs/{sbom['name']}-{uuid.uuid5(uuid.NAMESPACE_URL, content)}"
    json.dump(sbom, sys.stdout, indent=1, sort_keys=True)
    print()


def notices(package):
    crates = shipped(package)
    told = {}
    for crate in json.loads(cargo("metadata", "--format-version", "1"))["packages"]:
        if (crate["name"], crate["version"]) not in crates or crate["source"] is None:
            continue
        for file in sorted(pathlib.Path(crate["manifest_path"]).parent.glob("NOTICE*")):
            text = file.read_text(errors="replace").strip()
            told.setdefault(text, []).append(f"{crate['name']} {crate['version']}")
    for text, names in sorted(told.items(), key=lambda entry: entry[1]):
        print("\n" + "=" * 80 + "\nNotice of " + ", ".join(sorted(names)) + "\n" + "=" * 80 + f"\n\n{text}")


if __name__ == "__main__":
    {"bill": bill, "notices": notices}[sys.argv[1]](*sys.argv[2:])
