//! Does a policy file say the same to the dataplane when it comes through the API?
#![expect(clippy::unwrap_used, reason = "a test that cannot read the examples fails")]

use std::fs;
use std::path::{Path, PathBuf};

use prost::Message as _;
use sluice_api::v1;
use sluice_core::classify::Program;
use sluice_model::spec::{PolicySetSpec, load_policy_spec, parse_policy};
use sluice_model::{Generation, PolicySet};

/// Every policy file among the examples, and those of the golden cases that are taken.
fn policy_files() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for entry in fs::read_dir(root.join("../examples")).unwrap() {
        let path = entry.unwrap().path();
        // Boot configs have ports.
        let text = fs::read_to_string(&path).unwrap();
        if path.extension().is_some_and(|e| e == "toml") && !text.contains("\n[[port]]") {
            files.push(path);
        }
    }
    assert!(files.len() >= 2, "{files:?}");
    for entry in fs::read_dir(root.join("golden/policy-errors")).unwrap() {
        let path = entry.unwrap().path().join("policy.toml");
        if parse_policy("p", &fs::read_to_string(&path).unwrap()).is_ok() {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// What workers would work with.
fn program(set: &PolicySet) -> String {
    let ports: Vec<String> = ["tap0", "tap1"].map(str::to_owned).into();
    let (program, report) = Program::compile(set, &ports, Generation(7));
    format!("{program:?}\n{report:?}")
}

#[test]
fn files_compile_to_the_same_program_by_way_of_the_api() {
    for path in policy_files() {
        let (spec, set) = load_policy_spec(&path).unwrap().value;
        let message = v1::PolicySet::try_from(&spec).unwrap();
        let received = v1::PolicySet::decode(message.encode_to_vec().as_slice()).unwrap();
        assert_eq!(PolicySetSpec::from(&received), spec, "{}", path.display());
        let same = sluice_api::validate(&received).unwrap().value;
        assert_eq!(same, set, "{}", path.display());
        assert!(program(&same) == program(&set), "another program: {}", path.display());
    }
}

/// With the groups resolved and what is switched off left out, too.
#[test]
fn what_is_in_force_can_be_sent() {
    for path in policy_files() {
        let set = load_policy_spec(&path).unwrap().value.1;
        let message = v1::PolicySet::try_from(&PolicySetSpec::from(&set)).unwrap();
        let same = sluice_api::validate(&message).unwrap().value;
        assert_eq!(same, set, "{}", path.display());
        assert!(program(&same) == program(&set), "another program: {}", path.display());
    }
}
