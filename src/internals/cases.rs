//! The properties over the seeds, findings of fuzzing among them, and over random inputs made of their parts.

use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::sample::Index;

use super::PROPERTIES;

fn seeds_of(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/properties/seeds").join(name)
}

fn seeds(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let mut seeds: Vec<_> = fs::read_dir(seeds_of(name))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect();
    seeds.sort();
    seeds
}

#[test]
fn every_property_holds_for_every_seed() {
    for (name, property) in PROPERTIES {
        let seeds = seeds(name);
        assert!(seeds.len() >= 3, "{name} has {} seeds", seeds.len());
        for (path, bytes) in seeds {
            let held = catch_unwind(|| property(&bytes));
            assert!(held.is_ok(), "{}", path.display());
        }
    }
}

#[test]
fn every_fuzz_target_has_a_property_and_seeds() {
    let names = |directory: PathBuf| {
        let paths = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
        let mut names: Vec<String> = paths.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
        names.sort();
        names
    };
    let mut properties = PROPERTIES.map(|(name, _)| name.to_owned()).to_vec();
    properties.sort();
    assert_eq!(names(seeds_of("")), properties);
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    // A published package has no fuzz/.
    if fuzz.exists() {
        assert_eq!(names(fuzz.join("fuzz_targets")), properties);
    }
}

/// What a mutation puts in: what readers of these texts act on.
const PARTS: [&str; 24] = [
    "\"",
    "\\",
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "\n",
    "\r\n\r\n",
    "\0",
    "\u{1b}",
    "$",
    "~",
    "0",
    "-1",
    "1e999",
    "NaN",
    "null",
    "18446744073709551615",
    "\\u0000",
    "../",
    "%00",
    "ü",
];

#[derive(Debug, Clone)]
enum Mutation {
    Remove(Index, Index),
    Repeat(Index, Index, Index),
    Insert(Index, usize),
    Byte(Index, u8),
}

impl Mutation {
    fn apply(&self, bytes: &mut Vec<u8>) {
        let length = bytes.len() + 1;
        let range = |from: &Index, to: &Index| {
            let (from, to) = (from.index(length), to.index(length));
            from.min(to)..from.max(to)
        };
        match self {
            Self::Remove(from, to) => drop(bytes.drain(range(from, to))),
            Self::Repeat(from, to, at) => {
                let piece = bytes[range(from, to)].to_vec();
                let at = at.index(length);
                bytes.splice(at..at, piece);
            }
            Self::Insert(at, part) => {
                let at = at.index(length);
                bytes.splice(at..at, PARTS[*part].bytes());
            }
            Self::Byte(at, byte) => {
                if let Some(there) = bytes.get_mut(at.index(length)) {
                    *there = *byte;
                }
            }
        }
    }
}

fn mutations() -> impl Strategy<Value = Vec<Mutation>> {
    let mutation = prop_oneof![
        any::<(Index, Index)>().prop_map(|(from, to)| Mutation::Remove(from, to)),
        any::<(Index, Index, Index)>().prop_map(|(from, to, at)| Mutation::Repeat(from, to, at)),
        (any::<Index>(), 0..PARTS.len()).prop_map(|(at, part)| Mutation::Insert(at, part)),
        any::<(Index, u8)>().prop_map(|(at, byte)| Mutation::Byte(at, byte)),
    ];
    prop::collection::vec(mutation, 0..6)
}

fn holds_for_mutated_seeds(name: &str) {
    let (_, property) = PROPERTIES.into_iter().find(|(known, _)| *known == name).unwrap();
    let seeds = seeds(name);
    // What it finds becomes a seed, not a line in a file of numbers.
    let default = ProptestConfig::default();
    let config =
        ProptestConfig { cases: default.cases.max(2048), failure_persistence: None, max_shrink_iters: 100, ..default };
    proptest!(config, |(seed: Index, mutations in mutations())| {
        let mut bytes = seeds[seed.index(seeds.len())].1.clone();
        for mutation in mutations {
            mutation.apply(&mut bytes);
        }
        property(&bytes);
    });
}

#[test]
fn a_credential_file_keeps_its_meaning_and_foreign_fields() {
    holds_for_mutated_seeds("credential_file");
}

#[test]
fn a_grant_can_be_stored_and_read_again() {
    holds_for_mutated_seeds("token_reply");
}

#[test]
fn a_device_login_has_a_code_an_end_and_a_bounded_interval() {
    holds_for_mutated_seeds("device_reply");
}

#[test]
fn only_the_issuer_that_was_asked_is_believed() {
    holds_for_mutated_seeds("discovery_reply");
}

#[test]
fn a_secret_that_comes_back_in_an_error_is_not_repeated() {
    holds_for_mutated_seeds("error_reply");
}

#[test]
fn no_configuration_sends_a_credential_in_clear() {
    holds_for_mutated_seeds("config");
}

#[test]
fn only_who_knows_the_nonce_has_an_outcome() {
    holds_for_mutated_seeds("callback");
}

#[test]
fn a_wait_that_a_server_names_is_bounded() {
    holds_for_mutated_seeds("retry_after");
}

#[test]
fn tokens_are_the_same_however_an_answer_is_cut() {
    holds_for_mutated_seeds("usage_stream");
}

#[test]
fn an_answer_means_the_same_however_it_is_cut() {
    holds_for_mutated_seeds("answer");
}
