//! Does every kind of mistake in a policy file or boot config get the message that it should?
//!
//! `tests/golden/policy-errors/CASE/policy.toml` and `tests/golden/boot-errors/CASE/boot.toml` hold the mistakes,
//! `expected.txt` beside them the findings. `SLUICE_BLESS=1` writes these anew, to be read before they are committed.
#![expect(clippy::unwrap_used, reason = "a test that cannot read its cases fails")]

use std::fs;
use std::path::{Path, PathBuf};

use sluice_model::spec::{Diagnostics, Loaded, parse_boot, parse_policy};

fn findings<T>(result: Result<Loaded<T>, Diagnostics>) -> String {
    let (list, end) = match result {
        Ok(loaded) => (loaded.warnings, "accepted"),
        Err(diagnostics) => (diagnostics.0, "refused"),
    };
    let lines: Vec<String> = list.iter().map(ToString::to_string).collect();
    format!("{}{}{end}\n", lines.join("\n"), if lines.is_empty() { "" } else { "\n" })
}

fn golden(folder: &str, file: &str, find: impl Fn(&str) -> String) {
    let root: PathBuf = [env!("CARGO_MANIFEST_DIR"), "golden", folder].iter().collect();
    let mut cases: Vec<PathBuf> = fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    assert!(!cases.is_empty(), "no cases in {}", root.display());
    let bless = std::env::var_os("SLUICE_BLESS").is_some();
    let mut wrong = Vec::new();
    for case in cases {
        let found = find(&fs::read_to_string(case.join(file)).unwrap());
        let expected = case.join("expected.txt");
        if bless {
            fs::write(&expected, &found).unwrap();
        } else if fs::read_to_string(&expected).unwrap_or_default() != found {
            wrong.push(format!("{}:\n{found}", case.display()));
        }
    }
    assert!(wrong.is_empty(), "other findings than expected:\n{}", wrong.join("\n"));
}

#[test]
fn mistakes_in_policies_are_told() {
    golden("policy-errors", "policy.toml", |text| findings(parse_policy("policy.toml", text)));
}

#[test]
fn mistakes_in_boot_configs_are_told() {
    golden("boot-errors", "boot.toml", |text| findings(parse_boot("boot.toml", text)));
}

#[test]
fn the_examples_are_right() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let text = |name: &str| fs::read_to_string(examples.join(name)).unwrap();
    assert_eq!(findings(parse_policy("quickstart.toml", &text("quickstart.toml"))), "accepted\n");
    for (boot_file, policy_file) in
        [("sluiced.toml", "policy.toml"), ("decapsulation-node.toml", "decapsulation-node-policy.toml")]
    {
        assert_eq!(findings(parse_policy(policy_file, &text(policy_file))), "accepted\n");
        assert_eq!(findings(parse_boot(boot_file, &text(boot_file))), "accepted\n");
        let policies = parse_policy(policy_file, &text(policy_file)).unwrap().value;
        let boot = parse_boot(boot_file, &text(boot_file)).unwrap().value;
        assert_eq!(boot.policy.to_str(), Some(policy_file));
        assert_eq!(sluice_model::spec::check_against(&policies, &boot), []);
    }
}
