//! Are the protos still those that were promised? Field numbers are for ever.
//!
//! `proto/sluice/v1/fields.txt` has a line for everything that a client relies on: each field with its number, name and
//! type, each value of an enumeration, each method. What stands there must stay. `WRITE_FIELDS=1` adds what is new, and
//! refuses as the test does what would break a client: no line is ever changed or removed. What is not wanted any more
//! stays in the protos, marked `deprecated = true`, which is no difference here.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a damaged repository should stop the test")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet};

const FIRST_LINES: &str = "# What clients rely on. Lines are added by WRITE_FIELDS=1 cargo test -p sluice-api --test \
                           field_table, and never changed or removed.\n";

/// What is promised by what it is known by on the wire: `sluice.v1.Policy 3` has the name, type and so on.
type Promises = BTreeMap<(String, i32), String>;

fn promises(set: &FileDescriptorSet) -> Promises {
    let mut all = Promises::new();
    for file in &set.file {
        let package = file.package();
        for message in &file.message_type {
            message_promises(package, message, &mut all);
        }
        for values in &file.enum_type {
            enum_promises(package, values, &mut all);
        }
        for service in &file.service {
            for method in &service.method {
                let stream = |streams: bool| if streams { "stream " } else { "" };
                let what = format!(
                    "{}{} -> {}{}",
                    stream(method.client_streaming()),
                    bare(method.input_type()),
                    stream(method.server_streaming()),
                    bare(method.output_type())
                );
                all.insert((format!("{package}.{}/{}", service.name(), method.name()), 0), what);
            }
        }
    }
    all
}

fn message_promises(scope: &str, message: &DescriptorProto, all: &mut Promises) {
    let name = format!("{scope}.{}", message.name());
    for field in &message.field {
        let what = field_promise(field, message);
        assert_eq!(all.insert((name.clone(), field.number()), what), None, "{name}");
    }
    let reserved = message.reserved_range.iter().flat_map(|range| range.start()..range.end());
    reserved.for_each(|number| {
        all.insert((name.clone(), number), "reserved".to_owned());
    });
    message.nested_type.iter().for_each(|nested| message_promises(&name, nested, all));
    message.enum_type.iter().for_each(|nested| enum_promises(&name, nested, all));
}

fn field_promise(field: &FieldDescriptorProto, message: &DescriptorProto) -> String {
    let label = match field.label() {
        Label::Repeated => "repeated ",
        _ if field.proto3_optional() => "optional ",
        _ => "",
    };
    let kind = match field.r#type() {
        Type::Message | Type::Enum | Type::Group => bare(field.type_name()).to_owned(),
        plain => plain.as_str_name().trim_start_matches("TYPE_").to_lowercase(),
    };
    // An optional field is alone in a oneof that nobody sees.
    let oneof = match field.oneof_index {
        Some(index) if !field.proto3_optional() => {
            let index = usize::try_from(index).unwrap();
            format!(" in oneof {}", message.oneof_decl[index].name())
        }
        _ => String::new(),
    };
    let json = if field.json_name() == lower_camel(field.name()) {
        String::new()
    } else {
        format!(" json {}", field.json_name())
    };
    format!("{label}{kind} {}{oneof}{json}", field.name())
}

fn enum_promises(scope: &str, values: &EnumDescriptorProto, all: &mut Promises) {
    let name = format!("{scope}.{}", values.name());
    for value in &values.value {
        let known = all.insert((name.clone(), value.number()), value.name().to_owned());
        assert_eq!(known, None, "{name}: one number, one name");
    }
}

fn bare(type_name: &str) -> &str {
    type_name.trim_start_matches('.')
}

/// The name of a field in JSON, as protobuf makes it.
fn lower_camel(name: &str) -> String {
    let mut upper = false;
    let mut camel = String::new();
    for c in name.chars() {
        match (c, upper) {
            ('_', _) => upper = true,
            (c, true) => {
                camel.extend(c.to_uppercase());
                upper = false;
            }
            (c, false) => camel.push(c),
        }
    }
    camel
}

/// What would break a client that was made for `promised`.
fn breaches(promised: &Promises, now: &Promises) -> Vec<String> {
    let breach = |((name, number), was): (&(String, i32), &String)| match now.get(&(name.clone(), *number)) {
        Some(is) if is == was => None,
        Some(is) => Some(format!("{name} {number} was \"{was}\" and is \"{is}\"")),
        None => Some(format!("{name} {number} was \"{was}\" and is gone")),
    };
    promised.iter().filter_map(breach).collect()
}

fn show(promises: &Promises) -> String {
    let lines = promises.iter().map(|((name, number), what)| match number {
        0 if name.contains('/') => format!("{name} {what}\n"),
        _ => format!("{name} {number} {what}\n"),
    });
    FIRST_LINES.to_owned() + &lines.collect::<String>()
}

fn read(table: &str) -> Promises {
    let line = |line: &str| {
        let (name, rest) = line.split_once(' ').unwrap();
        let (number, what) = if name.contains('/') { ("0", rest) } else { rest.split_once(' ').unwrap() };
        ((name.to_owned(), number.parse().unwrap()), what.to_owned())
    };
    table.lines().filter(|text| !text.starts_with('#') && !text.is_empty()).map(line).collect()
}

fn table() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("proto/sluice/v1/fields.txt")
}

#[test]
fn what_was_promised_is_kept() {
    let now = promises(&FileDescriptorSet::decode(sluice_api::FILE_DESCRIPTOR_SET).unwrap());
    let promised = fs::read_to_string(table()).unwrap_or_default();
    let broken = breaches(&read(&promised), &now);
    assert!(broken.is_empty(), "these would break clients:\n{}", broken.join("\n"));
    if std::env::var_os("WRITE_FIELDS").is_some() {
        fs::write(table(), show(&now)).unwrap();
        return;
    }
    let shown = show(&now);
    let new: Vec<&str> = shown.lines().filter(|line| promised.lines().all(|known| known != *line)).collect();
    assert!(new.is_empty(), "run this test with WRITE_FIELDS=1 to promise what is new:\n{}", new.join("\n"));
    assert_eq!(promised, shown, "the order and the first line of the table");
}

/// A server that does not know a field of a policy would drop it: the revision tells it so.
#[test]
fn new_fields_of_policies_raise_the_revision() {
    /// The fields of the messages in a policy set, by revision.
    const FIELDS: &[usize] = &[45, 46, 47];
    let now = promises(&FileDescriptorSet::decode(sluice_api::FILE_DESCRIPTOR_SET).unwrap());
    let messages =
        ["PolicySet", "Policy", "Side", "Group", "Destination"].map(|name| format!("sluice.v1.{name}"));
    let fields = now.keys().filter(|(name, _)| messages.contains(name)).count();
    let revision = usize::try_from(sluice_api::POLICY_REVISION).unwrap();
    assert_eq!(FIELDS.len(), revision, "add the number of fields, {fields}, for the new revision");
    assert_eq!(FIELDS[revision - 1], fields, "raise POLICY_REVISION with every field that is added");
}

/// The promises of a proto with the given body.
fn compiled(body: &str) -> Promises {
    let text = format!("syntax = \"proto3\";\npackage t;\n{body}");
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("t.proto"), text).unwrap();
    promises(&protox::compile(["t.proto"], [folder.path()]).unwrap())
}

const BEFORE: &str = "message M { string a = 1; repeated uint32 b = 2; oneof o { string c = 3; } optional bool d = 4; E e = 5; }\n\
                      enum E { E_NONE = 0; E_ONE = 1; }\n\
                      service S { rpc Call(M) returns (stream M); }\n";

#[test]
fn additions_break_nobody() {
    let before = compiled(BEFORE);
    for (from, to) in [
        ("string a = 1;", "string a = 1; string new = 6;"),
        ("E_ONE = 1;", "E_ONE = 1; E_TWO = 2;"),
        ("rpc Call", "rpc Other(M) returns (M); rpc Call"),
        ("enum E", "message N { M m = 1; }\nenum E"),
        ("string a = 1;", "string a = 1 [deprecated = true];"),
        ("string c = 3;", "string c = 3; string new = 6;"),
    ] {
        assert_eq!(breaches(&before, &compiled(&BEFORE.replace(from, to))), [""; 0], "{to}");
    }
}

#[test]
fn whatever_breaks_clients_is_told() {
    let before = compiled(BEFORE);
    for (from, to, told) in [
        ("string a = 1;", "", "t.M 1 was \"string a\" and is gone"),
        ("string a = 1;", "reserved 1;", "t.M 1 was \"string a\" and is \"reserved\""),
        ("string a = 1;", "string a = 7;", "t.M 1 was \"string a\" and is gone"),
        ("string a = 1;", "bytes a = 1;", "t.M 1 was \"string a\" and is \"bytes a\""),
        ("string a = 1;", "string z = 1;", "t.M 1 was \"string a\" and is \"string z\""),
        ("string a = 1;", "string a = 1 [json_name = \"x\"];", "is \"string a json x\""),
        ("string a = 1;", "optional string a = 1;", "is \"optional string a\""),
        ("repeated uint32 b", "uint32 b", "t.M 2 was \"repeated uint32 b\" and is \"uint32 b\""),
        (
            "oneof o { string c = 3; }",
            "string c = 3;",
            "t.M 3 was \"string c in oneof o\" and is \"string c\"",
        ),
        ("optional bool d", "bool d", "t.M 4 was \"optional bool d\" and is \"bool d\""),
        ("E e = 5;", "M e = 5;", "t.M 5 was \"t.E e\" and is \"t.M e\""),
        ("E_ONE = 1;", "E_TWO = 1;", "t.E 1 was \"E_ONE\" and is \"E_TWO\""),
        ("E_ONE = 1;", "", "t.E 1 was \"E_ONE\" and is gone"),
        ("rpc Call", "rpc Called", "t.S/Call 0 was"),
        ("(stream M)", "(M)", "t.S/Call 0 was \"t.M -> stream t.M\" and is \"t.M -> t.M\""),
        ("service S", "service T", "is gone"),
    ] {
        let broken = breaches(&before, &compiled(&BEFORE.replace(from, to)));
        assert_eq!(broken.len(), 1, "{to}: {broken:?}");
        assert!(broken[0].contains(told), "{to}: {broken:?}");
    }
}

#[test]
fn the_table_is_read_as_it_was_written() {
    let before = compiled(BEFORE);
    assert_eq!(read(&show(&before)), before);
}
