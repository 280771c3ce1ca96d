//! Which interfaces does the switch have, whose are they, and which addresses have they?
//!
//! The switch itself does not know: who plugs an interface in says so in its `external_ids` (Open vSwitch, "Integration
//! Guide for Centralized Control"; ovs-vswitchd.conf.db(5)).
//!
//! | key | what | who sets it |
//! |---|---|---|
//! | `attached-mac` | the MAC address inside the machine | libvirt (also for oVirt), OpenStack (os-vif), Antrea |
//! | `attached_mac` | the same | OVN-Kubernetes |
//! | `iface-id` | a name of the interface: the Neutron port, the logical port of OVN | all of them |
//! | `iface-status` | `inactive`: another interface is in use for it | hypervisors with several |
//! | `vm-id` | the machine: its UUID | libvirt |
//! | `vm-uuid` | the machine: its UUID | OpenStack (os-vif) |
//! | `vm-name` | the machine: a name for people | nobody by himself: an operator, or a hook |
//! | `ip_addresses`, `ip-address`, `ip` | IP addresses, with commas between | OVN-Kubernetes, Antrea, Kube-OVN |

use std::collections::BTreeMap;
use std::net::IpAddr;

use sluice_model::{AddressSet, GuestKind, GuestName, Guests, MacAddr};

use crate::tables::{InterfaceRow, Tables};

/// Where a MAC address is told, where a machine is, and where IP addresses are.
const MACS: [&str; 2] = ["attached-mac", "attached_mac"];
const MACHINES: [&str; 3] = ["vm-name", "vm-id", "vm-uuid"];
pub(crate) const ADDRESSES: [&str; 3] = ["ip_addresses", "ip-address", "ip"];
/// Where an interface is named, and whether it is in use.
const ID: &str = "iface-id";
const STATUS: &str = "iface-status";
/// IP addresses of an interface that are looked at.
const MAX_ADDRESSES: usize = 64;
/// The most addresses of all interfaces together; each may be held under six names.
pub const MAX_ALL_ADDRESSES: usize = 1 << 17;

/// An interface of the switch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its name: `vnet3`, `tap5b4345ea-d5`.
    pub name: String,
    /// The name of the port that it belongs to; another one than its own for bonds. Empty = none.
    pub port: String,
    /// The bridge of that port; empty = none.
    pub bridge: String,
    /// Its type: `internal`, `dpdkvhostuserclient`; empty = a device of the system.
    pub kind: String,
    /// Its OpenFlow port number; `None` = the switch has not made it.
    pub ofport: Option<i64>,
    /// Its name in the system that manages machines; empty = none.
    pub iface_id: String,
    /// Whether it is in use: another one may be, for the same machine.
    pub active: bool,
    /// The machines whose it is: one, by the names that are told.
    pub vms: Vec<String>,
    /// MAC addresses.
    pub macs: Vec<MacAddr>,
    /// IP addresses, as far as they are told.
    pub addresses: Vec<IpAddr>,
    /// What the switch says went wrong with it; empty = nothing.
    pub error: String,
}

/// All interfaces, in the order of their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// The interfaces.
    pub interfaces: Vec<Interface>,
}

/// Whether a key of `external_ids` says anything here.
pub(crate) fn is_read(key: &str) -> bool {
    MACS.contains(&key) || MACHINES.contains(&key) || ADDRESSES.contains(&key) || [ID, STATUS].contains(&key)
}

impl Inventory {
    pub(crate) fn of(tables: &Tables) -> Self {
        let mut bridges = BTreeMap::new();
        for bridge in tables.bridges.values() {
            bridges.extend(bridge.members.iter().map(|port| (port.as_str(), bridge.name.as_str())));
        }
        let mut ports = BTreeMap::new();
        for (uuid, port) in &tables.ports {
            let bridge = bridges.get(uuid.as_str()).copied().unwrap_or_default();
            ports.extend(port.members.iter().map(|own| (own.as_str(), (port.name.as_str(), bridge))));
        }
        let interface = |(uuid, row): (&String, &InterfaceRow)| {
            let (port, bridge) = ports.get(uuid.as_str()).copied().unwrap_or_default();
            Interface { port: port.to_owned(), bridge: bridge.to_owned(), ..Interface::of(row) }
        };
        let mut interfaces: Vec<Interface> = tables.interfaces.iter().map(interface).collect();
        interfaces.sort_by(|a, b| a.name.cmp(&b.name));
        Self { interfaces }
    }

    /// How many addresses the interfaces have together, MAC addresses included.
    #[must_use]
    pub fn addresses(&self) -> usize {
        self.interfaces.iter().map(|interface| interface.macs.len() + interface.addresses.len()).sum()
    }

    /// What names stand for: of a machine all its interfaces, of a port its own, by its name, by those of its interfaces and
    /// by what they are called in the system that manages machines.
    ///
    /// An interface stands for its MAC addresses; where none is told, for its IP addresses. These may be another machine's,
    /// too, in a network of its own: so they only count where there is nothing better. One that is not in use stands for
    /// nothing.
    #[must_use]
    pub fn guests(&self) -> Guests {
        let mut named: BTreeMap<GuestName, Vec<&Interface>> = BTreeMap::new();
        for interface in &self.interfaces {
            let vms = interface.vms.iter().map(|name| (GuestKind::Vm, name));
            let own = [&interface.name, &interface.port, &interface.iface_id];
            for (kind, name) in vms.chain(own.map(|name| (GuestKind::Port, name))) {
                let Ok(name) = GuestName::new(kind, name) else { continue };
                named.entry(name).or_default().push(interface);
            }
        }
        let mut guests = Guests::default();
        for (name, interfaces) in named {
            guests.add(name, &addresses(interfaces.into_iter().filter(|interface| interface.active)));
        }
        guests
    }
}

/// What interfaces stand for together.
fn addresses<'i>(interfaces: impl Iterator<Item = &'i Interface>) -> AddressSet {
    let (mut ipv4, mut ipv6, mut macs) = (Vec::new(), Vec::new(), Vec::new());
    for interface in interfaces {
        macs.extend(&interface.macs);
        if interface.macs.is_empty() {
            for address in &interface.addresses {
                match address {
                    IpAddr::V4(v4) => ipv4.push(v4.to_bits()..=v4.to_bits()),
                    IpAddr::V6(v6) => ipv6.push(v6.to_bits()..=v6.to_bits()),
                }
            }
        }
    }
    macs.sort_unstable();
    macs.dedup();
    AddressSet {
        ipv4: ipv4.into_iter().collect(),
        ipv6: ipv6.into_iter().collect(),
        macs,
        guests: Vec::new(),
    }
}

impl Interface {
    /// An interface without its port and bridge.
    fn of(row: &InterfaceRow) -> Self {
        let ids = |keys: &[&str]| -> Vec<&String> {
            keys.iter().filter_map(|key| row.external_ids.get(*key)).collect()
        };
        let mut macs: Vec<MacAddr> = ids(&MACS).into_iter().filter_map(|text| mac(text)).collect();
        if macs.is_empty() && row.kind == "internal" {
            // The other end of any other interface has an address of its own.
            macs.extend(row.mac_in_use.as_deref().and_then(mac));
        }
        macs.sort_unstable();
        macs.dedup();
        let mut vms: Vec<String> =
            ids(&MACHINES).into_iter().filter(|name| !name.is_empty()).cloned().collect();
        vms.dedup();
        let listed = ids(&ADDRESSES).into_iter().flat_map(|list| list.split([',', ' ']));
        let mut addresses: Vec<IpAddr> = listed.filter_map(address).take(MAX_ADDRESSES).collect();
        addresses.sort_unstable();
        addresses.dedup();
        Self {
            name: row.name.clone(),
            kind: row.kind.clone(),
            ofport: row.ofport.filter(|number| *number > 0),
            iface_id: row.external_ids.get(ID).cloned().unwrap_or_default(),
            active: row.external_ids.get(STATUS).is_none_or(|status| status != "inactive"),
            vms,
            macs,
            addresses,
            error: row.error.clone().unwrap_or_default(),
            ..Self::default()
        }
    }
}

/// The address of one machine.
fn mac(text: &str) -> Option<MacAddr> {
    let mac: MacAddr = text.trim().parse().ok()?;
    let [first, ..] = mac.0;
    (first & 1 == 0 && mac != MacAddr::default()).then_some(mac)
}

/// The address of one machine, with or without a prefix length.
fn address(text: &str) -> Option<IpAddr> {
    let address: IpAddr = text.split('/').next()?.trim().parse().ok()?;
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    let one = !(address.is_unspecified() || address.is_multicast() || address.is_loopback() || broadcast);
    one.then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(kind: &str, mac_in_use: &str, ids: &[(&str, &str)]) -> InterfaceRow {
        let external_ids = ids.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let (kind, mac_in_use) = (kind.to_owned(), Some(mac_in_use.to_owned()));
        InterfaceRow { name: "i".to_owned(), kind, mac_in_use, ofport: Some(-1), external_ids, error: None }
    }

    fn macs(interface: &Interface) -> Vec<String> {
        interface.macs.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn whoever_plugs_in_is_understood() {
        // libvirt (virnetdevopenvswitch.c), OpenStack (os-vif, ovsdb_lib.py), OVN-Kubernetes (helper_linux.go), Antrea
        // (pod_configuration.go), Kube-OVN (ovs_linux.go).
        let mac = "52:54:00:44:f2:dc";
        let libvirt = row(
            "",
            "fe:54:00:44:f2:dc",
            &[("attached-mac", mac), ("iface-id", "d28a"), ("vm-id", "5a5d"), ("iface-status", "active")],
        );
        let found = Interface::of(&libvirt);
        assert_eq!((macs(&found), &*found.iface_id, found.active), (vec![mac.to_owned()], "d28a", true));
        assert_eq!((&found.vms[..], found.ofport), (&["5a5d".to_owned()][..], None));

        let openstack =
            row("dpdkvhostuserclient", "00:00:00:00:00:00", &[("attached-mac", mac), ("vm-uuid", "0aa2")]);
        assert_eq!(Interface::of(&openstack).vms, ["0aa2"]);
        let kubernetes = row("", "", &[("attached_mac", mac), ("ip_addresses", "10.244.1.5/24,fd00::5/64")]);
        let found = Interface::of(&kubernetes);
        assert_eq!((macs(&found).len(), found.addresses.len()), (1, 2));
        let kube_ovn = row("", "0e:00:00:00:00:01", &[("ip", "10.16.0.9,10.16.0.9"), ("pod_name", "p")]);
        let found = Interface::of(&kube_ovn);
        assert_eq!((found.macs.len(), &found.addresses[..]), (0, &["10.16.0.9".parse().unwrap()][..]));
        let antrea = row("", "", &[("attached-mac", mac), ("ip-address", "10.10.0.4")]);
        assert_eq!(Interface::of(&antrea).addresses.len(), 1);
        let own = row("internal", "0e:00:00:00:00:01", &[]);
        assert_eq!(macs(&Interface::of(&own)), ["0e:00:00:00:00:01"]);
    }

    #[test]
    fn what_is_no_address_of_one_machine_is_left_out() {
        for bad in ["", "x", "ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01", "00:00:00:00:00:00", "52:54:00:44:f2"]
        {
            let found = Interface::of(&row("internal", bad, &[("attached-mac", bad)]));
            assert!(found.macs.is_empty(), "{bad}");
        }
        let bad = "0.0.0.0, 255.255.255.255 ::, 224.0.0.1,x,127.0.0.1,/8,";
        assert!(Interface::of(&row("", "", &[("ip", bad)])).addresses.is_empty());
    }

    #[test]
    fn names_stand_for_what_is_in_use() {
        let interface = |name: &str, port: &str, vm: &str, mac: u8, active| Interface {
            name: name.to_owned(),
            port: port.to_owned(),
            iface_id: format!("id-{name}"),
            active,
            vms: vec![vm.to_owned()],
            macs: vec![MacAddr([2, 0, 0, 0, 0, mac])],
            addresses: vec!["10.0.0.1".parse().unwrap()],
            ..Interface::default()
        };
        let without = Interface { macs: Vec::new(), ..interface("c", "c", "web", 0, true) };
        let inventory = Inventory {
            interfaces: vec![
                interface("a", "bond", "web", 1, true),
                interface("b", "bond", "web", 2, true),
                without,
                interface("d", "d", "old", 4, false),
                interface("", "", "\u{1b}", 5, true),
            ],
        };
        let guests = inventory.guests();
        let stands = |name: &str| {
            let set = guests.get(&GuestName::of(name).unwrap().unwrap());
            set.map(|set| (set.macs.len(), set.ipv4.iter().len()))
        };
        assert_eq!(stands("vm:web"), Some((2, 1)), "both, and one by its IP address");
        assert_eq!(
            (stands("port:a"), stands("port:bond"), stands("port:id-b")),
            (Some((1, 0)), Some((2, 0)), Some((1, 0)))
        );
        assert_eq!((stands("vm:old"), stands("port:d")), (Some((0, 0)), Some((0, 0))));
        assert_eq!((stands("vm:a"), stands("port:web")), (None, None));
        assert_eq!(guests.count(GuestKind::Vm), 2);
    }
}
