//! What does a `[[policy]]` say, and is it whole?

use std::sync::Arc;

use crate::{
    Action, AddressSet, Destination, DestinationId, FragmentMatch, HeaderView, Policy, PortSet, RangeSet,
    RangeValue, Side, Tag, TcpFlagsMatch,
};

use super::addresses::address_list;
use super::destinations::{TagFit, tag_fit};
use super::document::Fields;
use super::group_kind::endpoints;
use super::groups::Groups;
use super::names::Names;
use super::ranges::{self, Kind};
use super::source::{At, Report, Span, quote};

/// A policy that was read, and its place.
#[derive(Debug)]
pub(super) struct ReadPolicy {
    pub(super) policy: Policy,
    pub(super) enabled: bool,
    /// The name, or the table when there is none.
    pub(super) span: Span,
    pub(super) label: String,
}

/// What policies refer to.
#[derive(Debug)]
pub(super) struct Context<'c, 'd> {
    pub(super) groups: &'c Groups<'d>,
    pub(super) destination_names: &'c Names<'d>,
    /// `None` for a destination with errors.
    pub(super) destinations: &'c [Option<Destination>],
    pub(super) report: &'c Report<'d>,
}

/// The TCP flags (RFC 9293).
pub(super) const TCP_FLAGS: [(&str, u8); 8] = [
    ("fin", 0x01),
    ("syn", 0x02),
    ("rst", 0x04),
    ("psh", 0x08),
    ("ack", 0x10),
    ("urg", 0x20),
    ("ece", 0x40),
    ("cwr", 0x80),
];

impl<'d> Context<'_, 'd> {
    /// Reads everything but the name. Wrong fields are reported and left out.
    pub(super) fn policy(&self, mut fields: Fields<'d>, name: Option<&At<&str>>) -> ReadPolicy {
        let f = &mut fields;
        let collect = self.side(f, "collect");
        let peer = self.side(f, "peer");
        let protocol = self.ranges(f, "protocol", "\"tcp\"", &ranges::PROTOCOLS);
        let vlan = self.ranges(f, "vlan", "\"10,20-29\"", &ranges::VLANS);
        let vlan_inner = self.ranges(f, "vlan_inner", "\"10,20-29\"", &ranges::VLANS);
        let tunnel_id = self.ranges(f, "tunnel_id", "\"1,5-9\"", &ranges::TUNNEL_IDS);
        let headers = f.choice("headers", &[("outer", HeaderView::Outer), ("inner", HeaderView::Inner)]);
        let ethertype = self.ranges(f, "ethertype", "\"ipv4\"", &ranges::ETHERTYPES);
        let tcp_flags = self.tcp_flags(f);
        let length = self.ranges(f, "length", "\"64-128\"", &ranges::LENGTHS);
        let fragment = f.choice(
            "fragment",
            &[
                ("fragments", FragmentMatch::Fragments),
                ("later", FragmentMatch::Later),
                ("whole", FragmentMatch::Whole),
            ],
        );
        let ingress = self.names(f, "ingress", "port");
        let taps = self.names(f, "taps", "tap");
        let action = f.choice("action", &[("copy", Action::Copy), ("drop", Action::Drop)]);
        let action = action.map_or(Action::Copy, |at| at.value);
        let payload = f.integer("payload", 0..=0xffff, "payload (bytes kept after the headers)");
        let tag = f.integer("tag", 0..=u64::from(Tag::MAX), "a tag has 24 bits and");
        let tag_place = tag.as_ref().map(|at| at.span.clone());
        let tag = tag.and_then(|at| Tag::new(u32::try_from(at.value).ok()?)).unwrap_or_default();
        let to = self.to(f, action, tag, tag_place.as_ref());
        let enabled = f.boolean("enabled").is_none_or(|at| at.value);
        if action == Action::Drop {
            self.nothing_to_send(f);
        }
        let policy = Policy {
            name: name.map_or(String::new(), |name| name.value.to_owned()),
            collect,
            peer,
            protocol,
            vlan,
            vlan_inner,
            tunnel_id,
            headers: headers.map_or(HeaderView::Outer, |at| at.value),
            ethertype,
            tcp_flags,
            length,
            fragment: fragment.map(|at| at.value),
            ingress,
            taps,
            action,
            payload: payload.and_then(|at| u16::try_from(at.value).ok()),
            tag,
            to,
        };
        let span = name.map_or(fields.span.clone(), |name| name.span.clone());
        let label = fields.label.clone();
        fields.finish();
        ReadPolicy { policy, enabled, span, label }
    }

    fn side(&self, fields: &mut Fields<'d>, key: &'static str) -> Side {
        let Some(mut side) = fields.table(key, "{ addresses = [\"10.0.0.0/8\"], ports = \"80\" }") else {
            return Side::default();
        };
        let mut addresses: Vec<Arc<AddressSet>> = Vec::new();
        if let Some(items) = side.strings("addresses", "[\"10.0.0.0/8\", \"@group\"]") {
            let field = side.field("addresses");
            let list = address_list(&items.value, &field, self.report);
            if list.own != AddressSet::default() {
                addresses.push(Arc::new(list.own));
            }
            for set in list.groups.iter().filter_map(|name| self.groups.resolve(name, &field, self.report)) {
                if !addresses.iter().any(|known| Arc::ptr_eq(known, &set)) {
                    addresses.push(set);
                }
            }
        }
        let ports: Option<PortSet> = self.ranges(&mut side, "ports", "\"80,8000-8100\"", &ranges::PORTS);
        side.finish();
        Side { addresses, ports }
    }

    fn ranges<T: RangeValue + TryFrom<u64>>(
        &self,
        fields: &mut Fields<'d>,
        key: &'static str,
        example: &str,
        kind: &Kind,
    ) -> Option<RangeSet<T>> {
        let words = fields.words(key, example)?;
        ranges::range_set(&words.value, kind, &fields.field(key), self.report)
    }

    fn tcp_flags(&self, fields: &mut Fields<'d>) -> Option<TcpFlagsMatch> {
        let words = fields.words("tcp_flags", "\"syn,!ack\"")?;
        let field = fields.field("tcp_flags");
        let mut flags = TcpFlagsMatch { mask: 0, value: 0 };
        for word in &words.value {
            let (name, set) = match word.text.strip_prefix('!') {
                Some(name) => (name.trim(), false),
                None => (word.text.as_ref(), true),
            };
            let Some(&(_, bit)) = TCP_FLAGS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)) else {
                let suggestion = self.report.did_you_mean(name, TCP_FLAGS.iter().map(|&(name, _)| name));
                self.report.error(&word.span, &field, format!("{} is no TCP flag", quote(name)), suggestion);
                continue;
            };
            if flags.mask & bit != 0 {
                let reason = format!("{name} is asked for twice");
                let suggestion = format!("write {name} (set) or !{name} (not set), once");
                self.report.error(&word.span, &field, reason, suggestion);
            }
            flags.mask |= bit;
            flags.value |= if set { bit } else { 0 };
        }
        Some(flags)
    }

    /// Names of ports or taps (`kind`), which the boot config knows.
    fn names(&self, fields: &mut Fields<'d>, key: &'static str, kind: &str) -> Vec<String> {
        let Some(items) = fields.strings(key, &format!("[\"{kind}0\"]")) else { return Vec::new() };
        let field = fields.field(key);
        if items.value.is_empty() {
            let suggestion = format!("leave {key} out for any {kind}");
            self.report.error(&items.span, &field, "an empty list matches nothing", suggestion);
        }
        let mut names: Vec<String> = Vec::with_capacity(items.value.len());
        for item in &items.value {
            if item.value.is_empty() {
                self.report.error(
                    &item.span,
                    &field,
                    format!("an empty {kind} name"),
                    format!("write the name of a {kind}"),
                );
            } else if names.iter().any(|name| name == item.value) {
                let reason = format!("{} is given twice", quote(item.value));
                self.report.warning(&item.span, &field, reason, "remove one of them".to_owned());
            } else {
                names.push(item.value.to_owned());
            }
        }
        names
    }

    fn to(
        &self,
        fields: &mut Fields<'d>,
        action: Action,
        tag: Tag,
        tag_place: Option<&Span>,
    ) -> Vec<DestinationId> {
        let given = fields.place_of("to").is_some();
        let items = fields.strings("to", "[\"ids\"]");
        if action == Action::Drop {
            return Vec::new();
        }
        let suggestion = "name the destinations: to = [\"ids\"]; or action = \"drop\" to take packets out";
        let Some(items) = items else {
            if !given {
                fields.missing("to", suggestion);
            }
            return Vec::new();
        };
        let field = fields.field("to");
        if items.value.is_empty() {
            self.report.error(&items.span, &field, "no destination", suggestion.to_owned());
        }
        let mut to: Vec<DestinationId> = Vec::with_capacity(items.value.len());
        for item in &items.value {
            let Some(index) = self.destination_names.resolve(item, &field, self.report) else { continue };
            let Ok(id) = u16::try_from(index).map(DestinationId) else { continue };
            if to.contains(&id) {
                let reason = format!("{} is named twice", quote(item.value));
                self.report.error(&item.span, &field, reason, "remove one of them".to_owned());
                continue;
            }
            to.push(id);
            if let Some(destination) = self.destinations.get(index).and_then(Option::as_ref) {
                let place = tag_place.unwrap_or(&item.span);
                for endpoint in endpoints(destination, self.destinations) {
                    self.tag_fits(tag, endpoint, place, &fields.field("tag"));
                }
            }
        }
        to
    }

    fn tag_fits(&self, tag: Tag, destination: &Destination, place: &Span, field: &str) {
        let name = &destination.name;
        match tag_fit(tag, destination) {
            TagFit::Whole => {}
            TagFit::Uncarried => {
                let reason = format!("destination {name:?} sends plain frames, which carry no tag");
                let suggestion = format!("set inner_vlan = true at {name:?} to mark the frames");
                self.report.warning(place, field, reason, suggestion);
            }
            TagFit::PartlyCut(carrier) => {
                let reason = format!(
                    "the {carrier} of destination {name:?} carries only the low bits of tag {tag:?}",
                    tag = tag.get()
                );
                self.report.warning(place, field, reason, None);
            }
            TagFit::Cut { bits } => {
                let reason = format!(
                    "destination {name:?} cannot carry tag {}: its widest field has {bits} bits",
                    tag.get()
                );
                let suggestion = format!(
                    "use a tag up to {}, or a VXLAN or ERSPAN III (marking = \"reference\") destination",
                    (1_u32 << bits) - 1
                );
                self.report.error(place, field, reason, suggestion);
            }
        }
    }

    /// An exclusion sends no copies: fields about copies would lie.
    fn nothing_to_send(&self, fields: &Fields<'_>) {
        for key in ["to", "tag", "payload"] {
            if let Some(place) = fields.place_of(key) {
                let reason =
                    format!("a policy with action = \"drop\" sends nothing, so {key} has no meaning");
                self.report.error(&place, fields.field(key), reason, format!("remove {key}"));
            }
        }
    }
}
