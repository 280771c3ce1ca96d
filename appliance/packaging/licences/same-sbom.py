#!/usr/bin/env python3
"""Makes a bill of materials (SPDX 2.3, JSON) the same for the same content: same-sbom.py SECONDS <IN >OUT.

The tool that writes it gives it the time of day, a random name and any order. SECONDS (since 1970) become its time.
"""

import datetime
import hashlib
import json
import sys
import uuid

sbom = json.load(sys.stdin)
for part in ("files", "packages", "relationships"):
    sbom[part].sort(key=lambda entry: json.dumps(entry, sort_keys=True))
time = datetime.datetime.fromtimestamp(int(sys.argv[1]), datetime.timezone.utc)
sbom["creationInfo"]["created"] = time.strftime("%Y-%m-%dT%H:%M:%SZ")
del sbom["documentNamespace"]
content = hashlib.sha256(json.dumps(sbom, sort_keys=True).encode()).hexdigest()
name = uuid.uuid5(uuid.NAMESPACE_URL, content)
sbom["documentNamespace"] = f"https://spdx.org/spdxdocs/{sbom['name']}-{name}"
json.dump(sbom, sys.stdout, indent=1, sort_keys=True)
print()
