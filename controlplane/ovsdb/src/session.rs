//! What is said on a connection? One request to be told of all rows and of every change, then updates, and signs of life
//! in both directions (RFC 7047 section 4.1). Nothing here reads or writes: bytes come in, bytes to be sent go out.

use serde_json::{Value, json};

use crate::split::Splitter;
use crate::tables::{Tables, wanted};
use crate::{Inventory, OvsdbError};

/// The number of the request to be told.
const MONITOR: u64 = 1;
/// What updates are marked with, and signs of life.
const NAME: &str = "sluice";
const NULL: &Value = &Value::Null;
/// Characters of a reason that the database gives.
const MAX_REASON: usize = 200;

/// A connection as far as it has come.
#[derive(Debug, Default)]
pub struct Session {
    splitter: Splitter,
    tables: Tables,
    told: bool,
}

impl Session {
    /// What is sent first.
    #[must_use]
    pub fn hello() -> Vec<u8> {
        json!({ "id": MONITOR, "method": "monitor", "params": ["Open_vSwitch", NAME, wanted()] })
            .to_string()
            .into_bytes()
    }

    /// A question whose answer shows that the database is alive.
    #[must_use]
    pub fn probe() -> Vec<u8> {
        json!({ "id": NAME, "method": "echo", "params": [] }).to_string().into_bytes()
    }

    /// Takes in what came; `reply` is what is to be sent back. Says whether rows came or changed.
    ///
    /// # Errors
    /// That the connection is of no use.
    pub fn receive(&mut self, bytes: &[u8], reply: &mut Vec<u8>) -> Result<bool, OvsdbError> {
        let Self { splitter, tables, told } = self;
        let mut changed = false;
        splitter.split(bytes, |message| {
            let message: Value =
                serde_json::from_slice(message).map_err(|_| OvsdbError::Garbled("no JSON"))?;
            let id = message.get("id").unwrap_or(NULL);
            let params = message.get("params").unwrap_or(NULL);
            match message.get("method").and_then(Value::as_str) {
                Some("update") if *told && params.get(0).is_some_and(|name| name == NAME) => {
                    tables.update(params.get(1).unwrap_or(NULL))?;
                    changed = true;
                }
                Some("echo") => answer(reply, id, params, NULL),
                // Of locks, or of what nobody asked for.
                Some(_) if id.is_null() => {}
                Some(_) => answer(reply, id, NULL, &Value::from("unknown method")),
                None if *id == MONITOR && !*told => {
                    if let Some(error) = message.get("error").filter(|error| !error.is_null()) {
                        let reason: String = error.to_string().chars().take(MAX_REASON).collect();
                        return Err(OvsdbError::Refused(reason));
                    }
                    tables.update(message.get("result").unwrap_or(NULL))?;
                    (*told, changed) = (true, true);
                }
                None => {}
            }
            Ok(())
        })?;
        Ok(changed)
    }

    /// Whether all rows have come.
    #[must_use]
    pub const fn is_told(&self) -> bool {
        self.told
    }

    /// What the rows say.
    #[must_use]
    pub fn inventory(&self) -> Inventory {
        Inventory::of(&self.tables)
    }
}

fn answer(reply: &mut Vec<u8>, id: &Value, result: &Value, error: &Value) {
    if !id.is_null() {
        reply.extend(json!({ "id": id, "result": result, "error": error }).to_string().into_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What ovsdb-server 3.1 sends, shortened; then an update as RFC 7047 section 4.1.6 has it.
    const FIRST: &str = r#"{"id":1,"result":{"Bridge":{"b0000000-0000-0000-0000-000000000000":{"new":{"name":"br0","ports":
        ["set",[["uuid","p0000000-0000-0000-0000-000000000000"]]]}}},"Port":{"p0000000-0000-0000-0000-000000000000":{"new":
        {"name":"vnet0","interfaces":["uuid","i0000000-0000-0000-0000-000000000000"]}}},"Interface":
        {"i0000000-0000-0000-0000-000000000000":{"new":{"name":"vnet0","type":"","mac_in_use":["set",[]],"ofport":2,
        "error":["set",[]],"external_ids":["map",[["attached-mac","52:54:00:00:00:01"],["iface-id","f1"],
        ["vm-id","web-1"]]]}}}},"error":null}"#;

    fn told() -> Session {
        let mut session = Session::default();
        let mut reply = Vec::new();
        assert!(session.receive(FIRST.as_bytes(), &mut reply).unwrap());
        assert!(reply.is_empty() && session.is_told());
        session
    }

    fn update(session: &mut Session, new: &str) -> bool {
        let text = format!(
            r#"{{"id":null,"method":"update","params":["sluice",{{"Interface":{{"i0000000-0000-0000-0000-000000000000":
               {{"old":{{}}{new}}}}}}}]}}"#
        );
        session.receive(text.as_bytes(), &mut Vec::new()).unwrap()
    }

    #[test]
    fn rows_come_change_and_go() {
        let hello: Value = serde_json::from_slice(&Session::hello()).unwrap();
        assert_eq!((&hello["method"], &hello["params"][0]), (&json!("monitor"), &json!("Open_vSwitch")));
        let mut session = told();
        let [vnet0] = &session.inventory().interfaces[..] else { panic!() };
        assert_eq!(
            (&*vnet0.name, &*vnet0.bridge, &*vnet0.port, vnet0.ofport),
            ("vnet0", "br0", "vnet0", Some(2))
        );
        assert_eq!(
            (vnet0.macs.len(), &*vnet0.iface_id, &vnet0.vms[..]),
            (1, "f1", &["web-1".to_owned()][..])
        );
        assert!(update(
            &mut session,
            r#","new":{"name":"vnet0","external_ids":["map",[["attached-mac","52:54:00:00:00:02"]]]}"#
        ));
        assert_eq!(session.inventory().interfaces[0].macs[0].to_string(), "52:54:00:00:00:02");
        assert!(update(&mut session, ""));
        assert_eq!(session.inventory(), Inventory::default());
    }

    #[test]
    fn signs_of_life_are_answered_and_refusals_told() {
        let mut reply = Vec::new();
        let mut session = told();
        let asked = br#"{"id":"echo","method":"echo","params":[7]}{"id":4,"method":"what","params":[]}{"id":"sluice","result":[],"error":null}"#;
        assert!(!session.receive(asked, &mut reply).unwrap());
        let answers: Vec<Value> =
            serde_json::Deserializer::from_slice(&reply).into_iter().map(Result::unwrap).collect();
        assert_eq!(answers[0], json!({ "id": "echo", "result": [7], "error": null }));
        assert_eq!(answers[1]["error"], "unknown method");
        let refusal = br#"{"id":1,"result":null,"error":{"error":"unknown database"}}"#;
        let error = Session::default().receive(refusal, &mut reply).unwrap_err();
        assert!(matches!(&error, OvsdbError::Refused(why) if why.contains("unknown database")), "{error}");
        let deep = [b"{\"a\":".repeat(200), b"1".to_vec(), b"}".repeat(200)].concat();
        let error = Session::default().receive(&deep, &mut reply).unwrap_err();
        assert!(matches!(error, OvsdbError::Garbled(_)), "{error}");
    }

    #[test]
    fn before_the_first_answer_nothing_counts() {
        let mut session = Session::default();
        assert!(!update(&mut session, r#","new":{"name":"vnet0"}"#));
        assert_eq!(session.inventory(), Inventory::default());
    }

    /// Any JSON of the kinds that messages have, with words that mean something.
    fn json_value() -> impl Strategy<Value = Value> {
        let words = proptest::sample::select(vec![
            "set",
            "map",
            "uuid",
            "Interface",
            "Port",
            "Bridge",
            "new",
            "old",
            "name",
            "type",
            "external_ids",
            "attached-mac",
            "52:54:00:00:00:01",
            "vm-id",
            "iface-id",
            "ip",
            "10.0.0.1/8, ::1",
            "sluice",
            "ports",
            "",
        ]);
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            words.clone().prop_map(Value::from),
        ];
        leaf.prop_recursive(6, 48, 5, move |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                proptest::collection::vec((words.clone(), inner), 0..5).prop_map(|pairs| pairs
                    .into_iter()
                    .map(|(key, value)| (key.to_owned(), value))
                    .collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_message_panics(messages in proptest::collection::vec((json_value(), 0..4_u8), 1..6)) {
            let mut session = Session::default();
            for (value, kind) in messages {
                let message = match kind {
                    0 => json!({ "id": 1, "result": value, "error": null }),
                    1 => json!({ "id": null, "method": "update", "params": ["sluice", value] }),
                    2 => json!({ "id": value, "method": "echo", "params": value }),
                    _ => json!({ "id": 1, "result": { "Interface": { "u": { "new": value } }, "Port": value }}),
                };
                drop(session.receive(message.to_string().as_bytes(), &mut Vec::new()));
                let inventory = session.inventory();
                for name in inventory.guests().names() {
                    prop_assert!(!name.name().is_empty());
                }
            }
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut session = told();
            drop(session.receive(&bytes, &mut Vec::new()));
            drop(session.inventory().guests());
        }
    }
}
