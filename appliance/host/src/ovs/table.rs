//! The tables of the switch, as `ovs-vsctl --format=json` prints them (RFC 7047 section 5.1 for the values).
//!
//! What is printed is another program's: whatever it is, it is read or refused, never believed.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Attached, OvsError};

/// The key of `external_ids` that what we made has, and its value.
pub(super) const MARK: (&str, &str) = ("sluice", "mirror");

/// One look at the five tables, in this order.
pub(super) const QUERY: [&str; 20] = [
    "--format=json",
    "--columns=other_config,dpdk_initialized,iface_types",
    "list",
    "Open_vSwitch",
    "--",
    "--columns=name,datapath_type,ports,mirrors",
    "list",
    "Bridge",
    "--",
    "--columns=_uuid,name,interfaces,external_ids",
    "list",
    "Port",
    "--",
    "--columns=_uuid,name,type,options,mtu_request,error,link_state,ofport",
    "list",
    "Interface",
    "--",
    "--columns=_uuid,name,select_all,select_src_port,select_dst_port,output_port,statistics,external_ids",
    "list",
    "Mirror",
];

/// What of the switch matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Whether DPDK is up; `None` = this OVS does not say.
    pub(super) dpdk_initialized: Option<bool>,
    pub(super) other_config: BTreeMap<String, String>,
    pub(super) iface_types: Vec<String>,
    pub(super) bridges: Vec<Bridge>,
    pub(super) ports: Vec<Port>,
    pub(super) interfaces: Vec<Interface>,
    pub(super) mirrors: Vec<Mirror>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Bridge {
    pub(super) name: String,
    pub(super) datapath_type: String,
    pub(super) ports: Vec<String>,
    pub(super) mirrors: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Port {
    pub(super) uuid: String,
    pub(super) name: String,
    pub(super) interfaces: Vec<String>,
    pub(super) ours: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Interface {
    pub(super) uuid: String,
    pub(super) name: String,
    pub(super) kind: String,
    pub(super) options: BTreeMap<String, String>,
    pub(super) mtu_request: Option<i64>,
    pub(super) error: Option<String>,
    pub(super) up: bool,
    pub(super) ofport: Option<i64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Mirror {
    pub(super) uuid: String,
    pub(super) name: String,
    pub(super) select_all: bool,
    pub(super) select_src: Vec<String>,
    pub(super) select_dst: Vec<String>,
    pub(super) output_port: Option<String>,
    pub(super) tx_packets: Option<i64>,
    pub(super) ours: bool,
}

impl Snapshot {
    /// Reads what the query printed.
    pub(super) fn parse(printed: &str) -> Result<Self, OvsError> {
        let tables: Vec<Table> = serde_json::Deserializer::from_str(printed)
            .into_iter::<Table>()
            .collect::<Result<_, _>>()
            .map_err(|_| OvsError::Garbled("no tables in JSON"))?;
        let [root, bridges, ports, interfaces, mirrors] = tables.as_slice() else {
            return Err(OvsError::Garbled("not five tables"));
        };
        let root = root.rows()?.into_iter().next().ok_or(OvsError::Garbled("no row in Open_vSwitch"))?;
        let ours = |row: &Row<'_>| row.map("external_ids").get(MARK.0).is_some_and(|value| value == MARK.1);
        Ok(Self {
            dpdk_initialized: root.get("dpdk_initialized").and_then(Value::as_bool),
            other_config: root.map("other_config"),
            iface_types: root.strings("iface_types"),
            bridges: bridges.all(|row| Bridge {
                name: row.text("name"),
                datapath_type: row.text("datapath_type"),
                ports: row.uuids("ports"),
                mirrors: row.uuids("mirrors"),
            })?,
            ports: ports.all(|row| Port {
                uuid: row.uuid(),
                name: row.text("name"),
                interfaces: row.uuids("interfaces"),
                ours: ours(row),
            })?,
            interfaces: interfaces.all(|row| Interface {
                uuid: row.uuid(),
                name: row.text("name"),
                kind: row.text("type"),
                options: row.map("options"),
                mtu_request: row.number("mtu_request"),
                error: row.strings("error").into_iter().next(),
                up: row.text("link_state") == "up",
                ofport: row.number("ofport"),
            })?,
            mirrors: mirrors.all(|row| Mirror {
                uuid: row.uuid(),
                name: row.text("name"),
                select_all: row.get("select_all").and_then(Value::as_bool).unwrap_or(false),
                select_src: row.uuids("select_src_port"),
                select_dst: row.uuids("select_dst_port"),
                output_port: row.uuids("output_port").into_iter().next(),
                tx_packets: row.map("statistics").get("tx_packets").and_then(|text| text.parse().ok()),
                ours: ours(row),
            })?,
        })
    }

    pub(super) fn bridge(&self, name: &str) -> Result<&Bridge, OvsError> {
        self.bridges.iter().find(|bridge| bridge.name == name).ok_or_else(|| {
            let names: Vec<_> = self.bridges.iter().map(|bridge| bridge.name.as_str()).collect();
            let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            OvsError::NoBridge { name: name.to_owned(), known }
        })
    }

    /// The ports of a bridge.
    pub(super) fn ports_of<'s>(&'s self, bridge: &'s Bridge) -> impl Iterator<Item = &'s Port> {
        self.ports.iter().filter(|port| bridge.ports.contains(&port.uuid))
    }

    /// The mirrors of a bridge.
    pub(super) fn mirrors_of<'s>(&'s self, bridge: &'s Bridge) -> impl Iterator<Item = &'s Mirror> {
        self.mirrors.iter().filter(|mirror| bridge.mirrors.contains(&mirror.uuid))
    }

    fn port_name(&self, uuid: &str) -> Option<String> {
        self.ports.iter().find(|port| port.uuid == uuid).map(|port| port.name.clone())
    }

    /// The bridges that have a mirror of ours, or a part of one, in the order of their names.
    #[must_use]
    pub fn attached(&self) -> Vec<Attached> {
        let mut all: Vec<_> = self.bridges.iter().filter_map(|bridge| self.attached_to(bridge)).collect();
        all.sort_by(|a, b| a.bridge.cmp(&b.bridge));
        all
    }

    pub(super) fn attached_to(&self, bridge: &Bridge) -> Option<Attached> {
        let port = self.ports_of(bridge).find(|port| port.ours);
        let mirror = self.mirrors_of(bridge).find(|mirror| mirror.ours);
        if port.is_none() && mirror.is_none() {
            return None;
        }
        let of_port =
            |interface: &&Interface| port.is_some_and(|port| port.interfaces.contains(&interface.uuid));
        let interface = self.interfaces.iter().find(of_port);
        // A mirror that outputs elsewhere is no mirror to us.
        let mirror =
            mirror.filter(|mirror| port.is_none_or(|port| mirror.output_port.as_ref() == Some(&port.uuid)));
        let selected = mirror.map_or(&[][..], |mirror| &mirror.select_src);
        Some(Attached {
            bridge: bridge.name.clone(),
            port: port.map(|port| port.name.clone()),
            mirror: mirror.map(|mirror| mirror.name.clone()),
            socket: interface.and_then(|interface| interface.options.get("vhost-server-path").cloned()),
            mtu: interface.and_then(|interface| interface.mtu_request),
            select_all: mirror.is_some_and(|mirror| mirror.select_all),
            select: selected.iter().filter_map(|uuid| self.port_name(uuid)).collect(),
            connected: interface.is_some_and(|interface| interface.up),
            made: interface.is_some_and(|interface| interface.ofport.is_some_and(|number| number > 0)),
            joined: None,
            error: interface.and_then(|interface| interface.error.clone()),
            mirrored_packets: mirror.and_then(|mirror| mirror.tx_packets),
        })
    }

    /// Whether each port has a pool of buffers of its own.
    #[must_use]
    pub fn per_port_memory(&self) -> bool {
        self.other_config.get("per-port-memory").is_some_and(|value| value == "true")
    }
}

/// A table as it is printed.
#[derive(Debug, serde::Deserialize)]
struct Table {
    headings: Vec<String>,
    data: Vec<Vec<Value>>,
}

impl Table {
    fn rows(&self) -> Result<Vec<Row<'_>>, OvsError> {
        let rows = self.data.iter().map(|values| {
            let whole = values.len() == self.headings.len();
            whole
                .then_some(Row { headings: &self.headings, values })
                .ok_or(OvsError::Garbled("a row of another length"))
        });
        rows.collect()
    }

    fn all<T>(&self, read: impl Fn(&Row<'_>) -> T) -> Result<Vec<T>, OvsError> {
        Ok(self.rows()?.iter().map(read).collect())
    }
}

/// A row of a table. A value that is not there or of another kind is as good as an empty one.
#[derive(Debug)]
struct Row<'t> {
    headings: &'t [String],
    values: &'t [Value],
}

impl<'t> Row<'t> {
    fn get(&self, column: &str) -> Option<&'t Value> {
        let place = self.headings.iter().position(|heading| heading == column)?;
        self.values.get(place)
    }

    /// The values of a set: `["set", [...]]`, or a single one as it is.
    fn set(&self, column: &str) -> Vec<&'t Value> {
        let Some(value) = self.get(column) else { return Vec::new() };
        match tagged(value, "set") {
            Some(values) => values.as_array().map(|values| values.iter().collect()).unwrap_or_default(),
            None => vec![value],
        }
    }

    fn text(&self, column: &str) -> String {
        self.strings(column).into_iter().next().unwrap_or_default()
    }

    fn strings(&self, column: &str) -> Vec<String> {
        self.set(column).into_iter().filter_map(|value| Some(value.as_str()?.to_owned())).collect()
    }

    fn number(&self, column: &str) -> Option<i64> {
        self.set(column).first()?.as_i64()
    }

    fn uuids(&self, column: &str) -> Vec<String> {
        let shaped =
            |text: &&str| text.len() == 36 && text.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
        let uuid = |value: &Value| Some(tagged(value, "uuid")?.as_str().filter(shaped)?.to_owned());
        self.set(column).into_iter().filter_map(uuid).collect()
    }

    fn uuid(&self) -> String {
        self.uuids("_uuid").into_iter().next().unwrap_or_default()
    }

    /// `["map", [[key, value], ...]]`, numbers as text.
    fn map(&self, column: &str) -> BTreeMap<String, String> {
        let atom = |value: &Value| match value {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            Value::Bool(yes) => Some(yes.to_string()),
            _ => None,
        };
        let pairs = self.get(column).and_then(|value| tagged(value, "map")).and_then(Value::as_array);
        let pair = |pair: &Value| Some((atom(pair.get(0)?)?, atom(pair.get(1)?)?));
        pairs.map(|pairs| pairs.iter().filter_map(pair).collect()).unwrap_or_default()
    }
}

/// The second of two values of which the first is this word.
fn tagged<'v>(value: &'v Value, tag: &str) -> Option<&'v Value> {
    match value.as_array()?.as_slice() {
        [first, second] if first == tag => Some(second),
        _ => None,
    }
}
