//! What is in the tables of the switch? Rows as updates of a monitor bring them (RFC 7047 sections 4.1.5, 4.1.6 and 5.1).

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use sluice_model::GuestName;

use crate::OvsdbError;
use crate::inventory::{ADDRESSES, is_read};

/// The most rows of a table: OpenFlow ports have 16 bits.
pub const MAX_ROWS: usize = 1 << 16;
/// The most bytes that all rows may take. A switch with as many ports as there can be needs less.
pub const MAX_TABLES_BYTES: usize = 128 << 20;
/// Pairs of `external_ids` that are looked at.
const MAX_PAIRS: usize = 256;
/// The longest list of IP addresses, in bytes.
const MAX_LIST_BYTES: usize = 4 << 10;
/// What a row or a member of one takes beside its texts, roughly.
const ROW_BYTES: usize = 256;
const MEMBER_BYTES: usize = 64;

/// What the database is asked for: the tables, and their columns.
pub(crate) fn wanted() -> Value {
    json!({
        "Bridge": [{ "columns": ["name", "ports"] }],
        "Port": [{ "columns": ["name", "interfaces"] }],
        "Interface": [{ "columns": ["name", "type", "mac_in_use", "ofport", "external_ids", "error"] }],
    })
}

/// The rows, by their UUIDs.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    pub(crate) bridges: BTreeMap<String, ListRow>,
    pub(crate) ports: BTreeMap<String, ListRow>,
    pub(crate) interfaces: BTreeMap<String, InterfaceRow>,
    /// What all of them take.
    bytes: usize,
}

/// What has a size.
trait Row {
    fn bytes(&self) -> usize;
}

/// A bridge with its ports, or a port with its interfaces.
#[derive(Debug, Default)]
pub(crate) struct ListRow {
    pub(crate) name: String,
    pub(crate) members: Vec<String>,
}

/// An interface.
#[derive(Debug, Default)]
pub(crate) struct InterfaceRow {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) mac_in_use: Option<String>,
    pub(crate) ofport: Option<i64>,
    pub(crate) external_ids: BTreeMap<String, String>,
    pub(crate) error: Option<String>,
}

impl Tables {
    /// Takes in the updates of a message: those that are not understood are refused, those of other tables ignored.
    pub(crate) fn update(&mut self, updates: &Value) -> Result<(), OvsdbError> {
        let updates = updates.as_object().ok_or(OvsdbError::Garbled("updates are no object"))?;
        for (table, rows) in updates {
            let rows = rows.as_object().ok_or(OvsdbError::Garbled("the updates of a table are no object"))?;
            match table.as_str() {
                "Bridge" => apply(&mut self.bridges, &mut self.bytes, rows, |row| list(row, "ports"))?,
                "Port" => apply(&mut self.ports, &mut self.bytes, rows, |row| list(row, "interfaces"))?,
                "Interface" => apply(&mut self.interfaces, &mut self.bytes, rows, interface)?,
                _ => {}
            }
        }
        Ok(())
    }
}

impl Row for ListRow {
    fn bytes(&self) -> usize {
        let members = self.members.iter().map(|member| member.len() + MEMBER_BYTES);
        ROW_BYTES + self.name.len() + members.sum::<usize>()
    }
}

impl Row for InterfaceRow {
    fn bytes(&self) -> usize {
        let Self { name, kind, mac_in_use, ofport: _, external_ids, error } = self;
        let length = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let ids = external_ids.iter().map(|(key, value)| key.len() + value.len() + MEMBER_BYTES);
        ROW_BYTES + name.len() + kind.len() + length(mac_in_use) + length(error) + ids.sum::<usize>()
    }
}

/// A row that has a new value is that; one that has none is gone.
fn apply<T: Row>(
    table: &mut BTreeMap<String, T>,
    bytes: &mut usize,
    rows: &Map<String, Value>,
    read: impl Fn(&Map<String, Value>) -> T,
) -> Result<(), OvsdbError> {
    for (uuid, update) in rows {
        if uuid.len() > GuestName::MAX_BYTES {
            return Err(OvsdbError::Garbled("a row has no UUID"));
        }
        let before = match update.get("new") {
            Some(Value::Object(row)) => {
                let row = read(row);
                *bytes += row.bytes();
                table.insert(uuid.clone(), row)
            }
            None | Some(Value::Null) => table.remove(uuid),
            Some(_) => return Err(OvsdbError::Garbled("a row is no object")),
        };
        *bytes -= before.map_or(0, |row| row.bytes());
        if table.len() > MAX_ROWS {
            return Err(OvsdbError::TooMany);
        }
        if *bytes > MAX_TABLES_BYTES {
            return Err(OvsdbError::TooMuch);
        }
    }
    Ok(())
}

fn list(row: &Map<String, Value>, members: &str) -> ListRow {
    let uuid = |value: &Value| short(tagged(value, "uuid")?);
    ListRow { name: text(row, "name"), members: set(row, members).into_iter().filter_map(uuid).collect() }
}

fn interface(row: &Map<String, Value>) -> InterfaceRow {
    InterfaceRow {
        name: text(row, "name"),
        kind: text(row, "type"),
        mac_in_use: set(row, "mac_in_use").first().and_then(|value| short(value)),
        ofport: set(row, "ofport").first().and_then(|value| value.as_i64()),
        external_ids: pairs(row, "external_ids"),
        error: set(row, "error").first().and_then(|value| Some(cut(value.as_str()?))),
    }
}

// A value that is not there, of another kind or too long for a name is as good as an empty one.

fn text(row: &Map<String, Value>, column: &str) -> String {
    set(row, column).first().and_then(|value| short(value)).unwrap_or_default()
}

fn short(value: &Value) -> Option<String> {
    value.as_str().filter(|text| text.len() <= GuestName::MAX_BYTES).map(str::to_owned)
}

/// The beginning of a text for people.
fn cut(text: &str) -> String {
    text.chars().take(GuestName::MAX_BYTES / 2).collect()
}

/// The values of a set: `["set", [...]]`, or a single one as it is.
fn set<'r>(row: &'r Map<String, Value>, column: &str) -> Vec<&'r Value> {
    let Some(value) = row.get(column) else { return Vec::new() };
    match tagged(value, "set") {
        Some(values) => values.as_array().map(|values| values.iter().collect()).unwrap_or_default(),
        None => vec![value],
    }
}

/// The pairs of a map from text to text that mean something here: `["map", [[key, value], ...]]`.
fn pairs(row: &Map<String, Value>, column: &str) -> BTreeMap<String, String> {
    let pairs = row.get(column).and_then(|value| tagged(value, "map")).and_then(Value::as_array);
    let pair = |pair: &Value| match pair.as_array()?.as_slice() {
        [key, value] => {
            let (key, value) = (key.as_str()?, value.as_str()?);
            let most = if ADDRESSES.contains(&key) { MAX_LIST_BYTES } else { GuestName::MAX_BYTES };
            (is_read(key) && value.len() <= most).then(|| (key.to_owned(), value.to_owned()))
        }
        _ => None,
    };
    pairs.map(|pairs| pairs.iter().take(MAX_PAIRS).filter_map(pair).collect()).unwrap_or_default()
}

/// The second of two values of which the first is this word.
fn tagged<'v>(value: &'v Value, tag: &str) -> Option<&'v Value> {
    match value.as_array()?.as_slice() {
        [first, second] if first == tag => Some(second),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(table: &str, uuid: &str, new: &Value) -> Value {
        json!({ table: { uuid: { "new": new } } })
    }

    #[test]
    fn what_rows_take_is_known() {
        let mut tables = Tables::default();
        let interface = json!({
            "name": "vnet0",
            "external_ids": ["map", [["vm-id", "web"], ["pod_name", "not read"], ["vm-uuid", "x".repeat(256)]]],
            "error": "e".repeat(5_000),
        });
        tables.update(&rows("Interface", "i", &interface)).unwrap();
        let row = &tables.interfaces["i"];
        assert_eq!(row.external_ids.keys().collect::<Vec<_>>(), ["vm-id"], "what is read, and no more");
        assert!(row.error.as_ref().is_some_and(|error| error.len() < 255));
        let first = tables.bytes;
        assert_eq!(first, row.bytes());
        tables.update(&rows("Interface", "i", &json!({ "name": "n".repeat(256) }))).unwrap();
        assert!(tables.bytes < first && tables.interfaces["i"].name.is_empty(), "the row before is gone");
        let uuid = "p".repeat(36);
        tables.update(&rows("Bridge", "b", &json!({ "name": "br0", "ports": ["uuid", uuid] }))).unwrap();
        assert_eq!(tables.bridges["b"].members, [uuid]);
        for table in ["Interface", "Bridge"] {
            tables.update(&json!({ table: { "i": { "old": {} }, "b": {} } })).unwrap();
        }
        assert_eq!(tables.bytes, 0);
        let long = rows("Port", &"u".repeat(256), &json!({}));
        assert!(matches!(tables.update(&long), Err(OvsdbError::Garbled(_))));
    }

    #[test]
    fn neither_rows_nor_bytes_pile_up() {
        let mut tables = Tables::default();
        let members: Vec<_> = (0..50_000).map(|n| json!(["uuid", format!("{n:036}")])).collect();
        let bridge = json!({ "name": "b", "ports": ["set", members] });
        let error =
            (0..100).find_map(|n| tables.update(&rows("Bridge", &n.to_string(), &bridge)).err()).unwrap();
        assert!(matches!(error, OvsdbError::TooMuch), "{error}");
        assert!(tables.bridges.len() < 40);

        let mut tables = Tables::default();
        let many: Map<String, Value> =
            (0..=MAX_ROWS).map(|n| (n.to_string(), json!({ "new": { "name": "i" } }))).collect();
        assert!(matches!(tables.update(&json!({ "Interface": many })), Err(OvsdbError::TooMany)));
    }
}
