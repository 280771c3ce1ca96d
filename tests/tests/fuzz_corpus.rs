//! Does every fuzz target still hold on its corpus, and around it?
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

use std::path::{Path, PathBuf};

use sluice_tests::fuzz_targets::{self, Target};

/// The inputs of a target, in the order of their names.
fn corpus((name, _): &Target) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "the target {name} has no corpus");
    paths.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

#[test]
fn every_corpus_holds() {
    for target in fuzz_targets::ALL {
        for (path, input) in corpus(target) {
            eprintln!("{}", path.display());
            (target.1)(&input);
        }
    }
}

/// A few bytes changed, or the end cut off: 200 repeatable variations of each input.
#[test]
fn variations_of_every_corpus_hold() {
    let mut state = 0x5eed_u64;
    let mut below = move |end: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % end.max(1) as u64) as usize
    };
    for target in fuzz_targets::ALL {
        for (path, input) in corpus(target) {
            eprintln!("{}", path.display());
            for round in 0..200 {
                let mut varied = input.clone();
                for _ in 0..=below(4) {
                    // Headers are at the front.
                    let at = below(varied.len().min(120));
                    if let Some(byte) = varied.get_mut(at) {
                        *byte = below(256) as u8;
                    }
                }
                if round % 4 == 0 {
                    varied.truncate(below(varied.len()));
                }
                (target.1)(&varied);
            }
        }
    }
}
