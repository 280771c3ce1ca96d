//! Does the store keep what it acknowledged, on a disk that fails or stops anywhere?

use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;
use sluice_model::Generation;
use sluice_model::spec::{Change, ChangeType, FieldChange, ObjectKind};

use crate::sim::{Fault, Plan, SimDisk};
use crate::{Damage, Entry, Origin, Repair, Store, StoreError, Stored, encode, seal};

const MAX_KEPT: usize = 3;

fn open(disk: &SimDisk) -> (Store, Vec<Repair>) {
    Store::open_disk(Path::new("/store"), Box::new(disk.clone()), MAX_KEPT, None).unwrap()
}

fn entry(number: u64) -> Entry {
    Entry {
        applied_at_ns: i64::try_from(number).unwrap() * 1_000_000_007,
        applied_by: format!("operator {number}"),
        comment: "a\nb \u{7f} \"ü\"".into(),
        origin: if number % 3 == 2 { Origin::Rollback { to: Generation(number - 1) } } else { Origin::Apply },
        policies: 1,
        groups: 0,
        destinations: 2,
        changes: vec![Change {
            kind: ObjectKind::Policy,
            name: format!("policy {number}"),
            change: ChangeType::Changed,
            fields: vec![FieldChange { field: "tag".into(), before: None, after: Some(number.to_string()) }],
        }],
        policy_text: format!(
            "# set {number}\nnumber = {number}{}",
            "\n".repeat(usize::try_from(number % 3).unwrap())
        ),
    }
}

/// What was acknowledged, and what may be there as well.
#[derive(Clone, Debug, Default)]
struct Model {
    acknowledged: BTreeMap<u64, Entry>,
    in_flight: Option<(u64, Entry)>,
}

impl Model {
    /// Appends until something fails; the error, if the process still runs.
    fn append(&mut self, disk: &SimDisk, store: &mut Store, entry: Entry) -> Result<(), StoreError> {
        let generation = store.reserve()?;
        self.in_flight = Some((generation.0, entry.clone()));
        let result = store.append(generation, &entry);
        match &result {
            Ok(_) => {
                self.acknowledged.insert(generation.0, entry);
                self.in_flight = None;
            }
            Err(StoreError::InDoubt { .. }) => {}
            Err(_) if disk.stopped() => {}
            Err(_) => self.in_flight = None,
        }
        result.map(drop)
    }

    /// Whether `store` has what it must. What may be there and is becomes acknowledged: a start showed it.
    fn check(&mut self, store: &Store) {
        let last = store.history().last().map(|summary| summary.generation.0);
        if let Some((number, entry)) = self.in_flight.take_if(|(number, _)| Some(*number) == last) {
            self.acknowledged.insert(number, entry);
        }
        let surplus = self.acknowledged.len().saturating_sub(MAX_KEPT);
        let expected: Vec<u64> = self.acknowledged.keys().copied().skip(surplus).collect();
        let kept: Vec<u64> = store.history().iter().map(|summary| summary.generation.0).collect();
        assert_eq!(kept, expected);
        for summary in store.history() {
            let number = summary.generation.0;
            let stored = store.get(summary.generation).unwrap();
            let before = self.acknowledged.range(..number).next_back().map(|(before, _)| Generation(*before));
            assert_eq!(stored.summary, *summary);
            assert_eq!(stored, self.acknowledged[&number].stored(summary.generation, before));
        }
        assert_eq!(store.last().unwrap().map(|stored| stored.summary.generation.0), last);
    }
}

/// Opens after a crash: nothing acknowledged is missing, and life goes on.
fn check_restart(disk: &SimDisk, mut model: Model) {
    disk.restart();
    let (mut store, repairs) = open(disk);
    assert!(!repairs.iter().any(Repair::is_loss), "{repairs:?}");
    model.check(&store);
    model.in_flight = None;
    model.append(disk, &mut store, entry(99)).unwrap();
    model.check(&store);
    drop(store);
    let (store, repairs) = open(disk);
    assert!(repairs.is_empty(), "{repairs:?}");
    model.check(&store);
}

/// A folder with four generations of which three are kept, then two more with the fault.
fn scenario(plan: Option<Plan>) -> (SimDisk, Model, Vec<StoreError>, Store) {
    let disk = SimDisk::default();
    let mut model = Model::default();
    let (mut store, _) = open(&disk);
    for number in 1..=4 {
        model.append(&disk, &mut store, entry(number)).unwrap();
    }
    disk.plan(plan);
    let mut errors = Vec::new();
    for number in 5..=6 {
        if !disk.stopped() {
            errors.extend(model.append(&disk, &mut store, entry(number)).err());
        }
        if matches!(errors.last(), Some(StoreError::InDoubt { .. })) {
            break;
        }
    }
    (disk, model, errors, store)
}

/// Every operation, and of writes every length.
fn plans(fault: Fault) -> Vec<Plan> {
    let (disk, ..) = scenario(None);
    let (count, longest) = (disk.count(), disk.longest());
    assert_eq!(count, 12, "create, write, synchronise, rename, synchronise, remove the oldest; twice");
    let plan = |at: usize, partial| Plan { at, partial, fault };
    let partials = |at| if at % 6 == 1 { 0..=longest } else { 0..=0 };
    (0..=count).flat_map(|at| partials(at).map(move |partial| plan(at, partial))).collect()
}

#[test]
fn a_process_can_stop_anywhere() {
    for plan in plans(Fault::Stop) {
        let (disk, model, ..) = scenario(Some(plan));
        check_restart(&disk, model);
    }
}

#[test]
fn the_power_can_fail_anywhere() {
    for plan in plans(Fault::Stop) {
        for luck in 0..16 {
            let (disk, model, ..) = scenario(Some(plan));
            disk.power_cut(luck << 32 | u64::try_from(plan.at).unwrap());
            check_restart(&disk, model);
        }
    }
}

#[test]
fn a_disk_can_be_full_or_broken_anywhere() {
    for errno in [libc::ENOSPC, libc::EIO] {
        for plan in [plans(Fault::Once(errno)), plans(Fault::Always(errno))].concat() {
            let (disk, mut model, errors, store) = scenario(Some(plan));
            // Removing the oldest is no reason to refuse the newest.
            assert!(errors.len() <= 2, "{errors:?}");
            for error in &errors {
                let advice = if errno == libc::ENOSPC { "make room" } else { "check its file system" };
                assert!(error.to_string().contains(advice), "{error}");
                assert!(error.to_string().contains("/store/0000000"), "{error}");
            }
            let in_doubt = matches!(errors.last(), Some(StoreError::InDoubt { .. }));
            assert!(!in_doubt || matches!(plan.fault, Fault::Always(_)), "{errors:?}");
            // What was in force still is, in this process and after it.
            let last = store.last().unwrap().unwrap().summary.generation.0;
            assert_eq!(model.acknowledged.last_key_value().map(|(number, _)| *number), Some(last));
            let power = disk.count() % 2 == 0;
            drop(store);
            if power {
                disk.power_cut(u64::try_from(plan.at).unwrap());
            } else {
                disk.restart();
            }
            if in_doubt {
                assert!(model.in_flight.is_some());
            } else {
                model.in_flight = None;
            }
            check_restart(&disk, model);
        }
    }
}

#[test]
fn nothing_is_kept_after_a_doubt() {
    // The second synchronisation fails, and so does the attempt to take the file away again.
    let fault = Fault::Always(libc::EIO);
    let (_, _, errors, mut store) = scenario(Some(Plan { at: 4, partial: 0, fault }));
    assert!(matches!(errors[..], [StoreError::InDoubt { .. }]), "{errors:?}");
    let generation = store.reserve().unwrap();
    assert!(matches!(store.append(generation, &entry(1)), Err(StoreError::Closed { .. })));
}

#[test]
fn any_changed_byte_is_found_and_the_next_best_taken() {
    let (disk, model, ..) = scenario(None);
    let whole = disk.get("00000006.toml").unwrap();
    let mut variants: Vec<Vec<u8>> = (0..whole.len()).map(|end| whole[..end].to_vec()).collect();
    for at in 0..whole.len() {
        for change in [1, 0x20, 0x80, 0xff] {
            let mut varied = whole.clone();
            varied[at] ^= change;
            variants.push(varied);
        }
    }
    variants.push([&whole[..], b"\n"].concat());
    variants.push([&whole[..], &whole[..]].concat());
    for varied in variants {
        disk.put("00000006.toml", &varied);
        let (mut store, repairs) = open(&disk);
        assert_eq!(store.last().unwrap().unwrap().policy_text, model.acknowledged[&5].policy_text);
        let words: Vec<String> = repairs.iter().map(ToString::to_string).collect();
        let [first, second] = &words[..] else { panic!("{words:?}") };
        assert!(
            first.contains("generation 6, which was in force, cannot be read; generation 5 takes its place")
        );
        assert!(second.contains("kept as 00000006.damaged"), "{second}");
        assert_eq!(disk.get("00000006.damaged").unwrap(), varied);
        assert_eq!(store.reserve().unwrap(), Generation(7), "its number is used up");
    }
}

#[test]
fn all_damaged_is_nothing_and_loud() {
    let disk = SimDisk::default();
    disk.put("00000001.toml", b"");
    let (store, repairs) = open(&disk);
    assert!(store.last().unwrap().is_none());
    assert!(repairs[0].to_string().contains("no other is kept"), "{repairs:?}");
    assert!(repairs.iter().all(Repair::is_loss));
}

#[test]
fn an_older_one_that_is_damaged_costs_only_itself() {
    let (disk, model, ..) = scenario(None);
    disk.put("00000005.toml", b"# sluice generation, format 1; x");
    let (store, repairs) = open(&disk);
    assert!(matches!(&repairs[..], [Repair::Damaged { generation: Generation(5), damage: Damage::Cut, .. }]));
    assert_eq!(store.last().unwrap().unwrap().policy_text, model.acknowledged[&6].policy_text);
    assert_eq!(store.history().len(), 2);
}

#[test]
fn damage_after_the_start_is_told() {
    let (disk, _, _, store) = scenario(None);
    let newest = disk.get("00000006.toml").unwrap();
    disk.put("00000005.toml", &newest);
    let error = store.get(Generation(5)).unwrap_err().to_string();
    assert_eq!(
        error,
        "/store/00000005.toml: damaged: it is generation 6, and has the name of 5; roll back to another generation, \
         and check the disk"
    );
    assert!(matches!(store.get(Generation(1)), Err(StoreError::NotKept { .. })));
}

#[test]
fn a_newer_format_is_refused_and_left_as_it_is() {
    let (disk, ..) = scenario(None);
    let newer = seal(b"# sluice generation, format 77; whatever\nelse".to_vec());
    disk.put("00000004.toml", &newer);
    disk.put("00000006.toml", b"damaged");
    disk.put("00000009.tmp", b"");
    let opened = Store::open_disk(Path::new("/store"), Box::new(disk.clone()), MAX_KEPT, None);
    let Err(error) = opened else { panic!("opened") };
    assert!(
        error.to_string().starts_with("/store/00000004.toml: written in format 77, and this version knows")
    );
    for (name, bytes) in [("00000004.toml", &newer[..]), ("00000006.toml", b"damaged"), ("00000009.tmp", b"")]
    {
        assert_eq!(disk.get(name).as_deref(), Some(bytes), "{name}");
    }
}

/// What format 1 wrote, byte for byte.
#[test]
fn format_1_is_read() {
    let bytes = include_bytes!("../tests/samples/format-1.toml");
    let entry = Entry {
        applied_at_ns: 1_700_000_000_123_456_789,
        applied_by: "operator".into(),
        comment: "back to \"web\"".into(),
        origin: Origin::Rollback { to: Generation(1) },
        policies: 1,
        groups: 0,
        destinations: 1,
        changes: vec![],
        policy_text: "[[destination]]\nname = \"ids\"\ntype = \"pcap\"\nfile = \"ids.pcap\"\n\n\
                      [[policy]]\nname = \"web\"\nprotocol = \"tcp\"\nto = [\"ids\"]\n"
            .into(),
    };
    let mut stored = entry.stored(Generation(3), Some(Generation(2)));
    (stored.changes, stored.summary.changes) = (None, None);
    assert_eq!(crate::decode(bytes).unwrap(), stored);
    assert_eq!(crate::decode(&encode(&stored).unwrap()).unwrap(), stored, "format 2 can say the same");
}

/// What format 2 writes, byte for byte: any version from now on reads it.
#[test]
fn format_2_is_read_and_written() {
    let bytes = include_bytes!("../tests/samples/format-2.toml");
    let field = |field: &str, before: Option<&str>, after: Option<&str>| FieldChange {
        field: field.into(),
        before: before.map(str::to_owned),
        after: after.map(str::to_owned),
    };
    let change = |kind, name: &str, change, fields| Change { kind, name: name.into(), change, fields };
    let entry = Entry {
        applied_at_ns: 1_700_000_000_123_456_789,
        applied_by: "operator".into(),
        comment: "tags".into(),
        origin: Origin::Put,
        policies: 1,
        groups: 0,
        destinations: 0,
        changes: vec![
            change(
                ObjectKind::Destination,
                "ids",
                ChangeType::Removed,
                vec![field("mtu", Some("1500"), None)],
            ),
            change(
                ObjectKind::Group,
                "g",
                ChangeType::Added,
                vec![field("addresses", None, Some("[\"::1\"]"))],
            ),
            change(ObjectKind::Policy, "web", ChangeType::Changed, vec![field("tag", Some("1"), Some("2"))]),
        ],
        policy_text: "[[policy]]\nname = \"web\"\naction = \"drop\"\n".into(),
    };
    let stored = entry.stored(Generation(4), Some(Generation(3)));
    assert_eq!(String::from_utf8(encode(&stored).unwrap()).unwrap(), String::from_utf8_lossy(bytes));
    assert_eq!(crate::decode(bytes).unwrap(), stored);
}

/// A folder of format 1 is opened after an upgrade, and goes on in format 2 until nothing of format 1 is left.
#[test]
fn format_1_leaves_with_time() {
    let disk = SimDisk::default();
    let old = include_bytes!("../tests/samples/format-1.toml");
    disk.put("00000003.toml", old);
    let (mut store, repairs) = open(&disk);
    assert!(repairs.is_empty(), "{repairs:?}");
    let in_force = store.last().unwrap().unwrap();
    assert!(in_force.policy_text.contains("name = \"web\"") && in_force.changes.is_none());
    let rollback = Entry {
        origin: Origin::Rollback { to: Generation(3) },
        policy_text: in_force.policy_text.clone(),
        ..entry(4)
    };
    let generation = store.reserve().unwrap();
    store.append(generation, &rollback).unwrap();
    assert_eq!(disk.get("00000003.toml").as_deref(), Some(&old[..]), "never rewritten");
    let new = disk.get("00000004.toml").unwrap();
    assert!(new.starts_with(b"# sluice generation, format 2;"));
    let (mut store, _) = open(&disk);
    assert_eq!(store.history().len(), 2);
    assert_eq!(store.last().unwrap().unwrap().policy_text, in_force.policy_text);
    for number in 5..=6 {
        let generation = store.reserve().unwrap();
        store.append(generation, &entry(number)).unwrap();
    }
    assert_eq!(disk.get("00000003.toml"), None);
}

#[test]
fn strangers_are_left_alone() {
    let disk = SimDisk::default();
    let names = ["1.toml", "+0000001.toml", "00000001.toml.bak", "00000001", "notes", "000000001.toml"];
    for name in names {
        disk.put(name, b"x");
    }
    let (mut store, repairs) = open(&disk);
    assert_eq!(repairs.len(), names.len());
    assert!(repairs.iter().all(|repair| matches!(repair, Repair::Stranger { .. })));
    assert!(names.iter().all(|name| disk.get(name).is_some()));
    assert_eq!(store.reserve().unwrap(), Generation(1));
}

#[test]
fn numbers_are_used_once_and_end() {
    let disk = SimDisk::default();
    let (mut store, _) = open(&disk);
    let [first, second] = [store.reserve().unwrap(), store.reserve().unwrap()];
    store.append(second, &entry(1)).unwrap();
    for used in [first, second, Generation(3), Generation(0)] {
        assert!(matches!(store.append(used, &entry(1)), Err(StoreError::Number { .. })), "{used:?}");
    }
    disk.put("18446744073709551615.damaged", b"");
    let (mut store, _) = open(&disk);
    assert!(matches!(store.reserve(), Err(StoreError::Exhausted { .. })));
}

#[test]
fn too_long_is_refused_before_anything_is_written() {
    let disk = SimDisk::default();
    let (mut store, _) = open(&disk);
    let generation = store.reserve().unwrap();
    let long = [
        Entry { comment: "ü".repeat(1_001), ..entry(1) },
        Entry { applied_by: "x".repeat(257), ..entry(1) },
        Entry { policy_text: " ".repeat(crate::MAX_POLICY_BYTES + 1), ..entry(1) },
    ];
    disk.plan(None);
    for entry in long {
        assert!(matches!(store.append(generation, &entry), Err(StoreError::TooLong { .. })));
    }
    assert_eq!(disk.count(), 0);
    store.append(generation, &Entry { comment: "ü".repeat(1_000), ..entry(1) }).unwrap();
}

/// Any changes.
fn changes() -> impl Strategy<Value = Vec<Change>> {
    let kind = prop::sample::select(vec![ObjectKind::Destination, ObjectKind::Group, ObjectKind::Policy]);
    let change = prop::sample::select(vec![ChangeType::Added, ChangeType::Removed, ChangeType::Changed]);
    let field = any::<(String, Option<String>, Option<String>)>();
    let field = field.prop_map(|(field, before, after)| FieldChange { field, before, after });
    let change = (kind, any::<String>(), change, prop::collection::vec(field, 0..4));
    let change = change.prop_map(|(kind, name, change, fields)| Change { kind, name, change, fields });
    prop::collection::vec(change, 0..4)
}

/// Any generation.
fn stored() -> impl Strategy<Value = Stored> {
    let origin = prop_oneof![
        Just(Origin::Boot),
        Just(Origin::Apply),
        Just(Origin::Put),
        Just(Origin::Delete),
        any::<u64>().prop_map(|to| Origin::Rollback { to: Generation(to) }),
    ];
    let text = prop_oneof![any::<String>(), "[a\n#\\x7f ]{0,20}", Just("\n# crc32 00000000\n".to_owned())];
    let words = (any::<String>(), text.clone(), text);
    let numbers = (any::<u64>(), any::<Option<u64>>(), any::<i64>(), any::<[u32; 3]>());
    (numbers, words, origin, changes()).prop_map(
        |((number, before, applied_at_ns, counts), words, origin, changes)| {
            let (applied_by, comment, policy_text) = words;
            let [policies, groups, destinations] = counts;
            let entry = Entry {
                applied_at_ns,
                applied_by,
                comment,
                origin,
                policies,
                groups,
                destinations,
                changes,
                policy_text,
            };
            entry.stored(Generation(number), before.map(Generation))
        },
    )
}

/// What happens in a random life.
#[derive(Clone, Debug)]
enum Event {
    Append(u64),
    Rollback(prop::sample::Index),
    Restart,
    Fault(Plan, Option<u64>),
}

fn event() -> impl Strategy<Value = Event> {
    let fault =
        prop_oneof![Just(Fault::Stop), Just(Fault::Once(libc::ENOSPC)), Just(Fault::Always(libc::EIO))];
    let fault = (0..8_usize, 0..500_usize, fault, any::<Option<u64>>());
    prop_oneof![
        4 => (0..1_000_u64).prop_map(Event::Append),
        2 => any::<prop::sample::Index>().prop_map(Event::Rollback),
        1 => Just(Event::Restart),
        2 => fault.prop_map(|(at, partial, fault, luck)| Event::Fault(Plan { at, partial, fault }, luck)),
    ]
}

proptest! {
    #[test]
    fn any_generation_is_read_as_it_was_written(stored in stored()) {
        let bytes = encode(&stored).unwrap();
        prop_assert_eq!(crate::decode(&bytes).unwrap(), stored);
    }

    #[test]
    fn a_generation_is_the_policy_file_that_was_applied(mut stored in stored(), value: u32) {
        stored.policy_text = format!("value = {value}");
        let text = String::from_utf8(encode(&stored).unwrap()).unwrap();
        let table: toml::Table = toml::from_str(&text).unwrap();
        prop_assert_eq!(table.get("value").and_then(toml::Value::as_integer), Some(i64::from(value)));
    }

    #[test]
    fn any_life_is_that_of_the_model(events in prop::collection::vec(event(), 1..40)) {
        let disk = SimDisk::default();
        let mut model = Model::default();
        let (mut store, _) = open(&disk);
        let mut luck = None;
        for event in events {
            let text = match event {
                Event::Append(number) => Some(entry(number)),
                Event::Rollback(index) if !store.history().is_empty() => {
                    let to = index.get(store.history()).generation;
                    let policy_text = store.get(to).unwrap().policy_text;
                    Some(Entry { policy_text, origin: Origin::Rollback { to }, ..entry(to.0 % 1_000) })
                }
                Event::Rollback(_) => None,
                Event::Restart => { disk.plan(Some(Plan { at: 0, partial: 0, fault: Fault::Stop })); drop(store.reserve()); None }
                Event::Fault(plan, power) => { disk.plan(Some(plan)); luck = power; continue }
            };
            let restart = text.is_none();
            let highest = model.acknowledged.last_key_value().map_or(0, |(number, _)| *number);
            let failed = text.is_some_and(|entry| model.append(&disk, &mut store, entry).is_err());
            let newest = model.acknowledged.last_key_value().map_or(0, |(number, _)| *number);
            prop_assert!(newest >= highest);
            if restart || (failed && (disk.stopped() || model.in_flight.is_some())) {
                if let Some(luck) = luck.take() {
                    disk.power_cut(luck);
                }
                disk.restart();
                let (opened, repairs) = open(&disk);
                prop_assert!(!repairs.iter().any(Repair::is_loss), "{:?}", repairs);
                store = opened;
                model.check(&store);
                model.in_flight = None;
            } else {
                model.check(&store);
            }
        }
    }
}
