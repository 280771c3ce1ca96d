//! What do `[mirror]` and the `[[tap]]` tables say?

use std::collections::HashMap;

use crate::{MirrorSettings, PortConfig, Tap, TapSide};

use super::boot_file::narrow;
use super::document::Fields;
use super::names::Names;
use super::source::{At, Report, Span, quote};

/// The VLAN ids that a frame can be of (IEEE 802.1Q: 0 is none, 4095 is reserved).
const VLAN_IDS: std::ops::RangeInclusive<u64> = 1..=4094;

/// The taps, and their numbers entered at their ports. `own` are the places of the ports' own `tap` keys.
pub(super) fn mirror_settings<'d>(
    top: &mut Fields<'d>,
    ports: &mut [PortConfig],
    own: &[Option<Span>],
    report: &'d Report<'d>,
) -> MirrorSettings {
    let complete = report.errors() == 0;
    let mirror = top.table("mirror", "{ pcp = 5 }").map(marks);
    let (pcp, strip_mark) = mirror.unwrap_or((None, None));
    let mut tables = top.tables("tap");
    if let Some(first) = tables.get(MirrorSettings::MAX_TAPS) {
        let reason =
            format!("{} taps are more than the {} that are possible", tables.len(), MirrorSettings::MAX_TAPS);
        report.error(&first.span, "tap", reason, None);
        tables.truncate(MirrorSettings::MAX_TAPS);
    }
    let mut reader = Reader {
        names: Names::new("tap"),
        numbers: HashMap::new(),
        vlans: HashMap::new(),
        of_port: HashMap::new(),
        ports,
        own,
        marked: pcp.is_some() || !complete,
        complete,
        report,
    };
    let taps: Vec<Tap> =
        tables.into_iter().enumerate().filter_map(|(index, fields)| reader.tap(fields, index)).collect();
    if let Some(pcp) = &pcp
        && taps.iter().all(|tap| tap.vlan.is_none())
        && report.errors() == 0
    {
        let suggestion = "write vlan = 101 at a [[tap]], or remove [mirror]".to_owned();
        report.warning(
            &pcp.span,
            "mirror.pcp",
            "no tap has a VLAN id: no frame is taken for a marked one",
            suggestion,
        );
    }
    MirrorSettings {
        pcp: pcp.and_then(|at| u8::try_from(at.value).ok()),
        strip_mark: strip_mark.is_none_or(|at| at.value),
        taps,
    }
}

/// The `[mirror]` section.
fn marks(mut fields: Fields<'_>) -> (Option<At<u64>>, Option<At<bool>>) {
    let pcp = fields.integer("pcp", 0..=7, "a PCP");
    if fields.place_of("pcp").is_none() {
        fields.missing("pcp", "write the PCP that the TAP switch marks frames with: pcp = 5");
    }
    let strip_mark = fields.boolean("strip_mark");
    fields.finish();
    (pcp, strip_mark)
}

/// Reads taps, and remembers what they took.
struct Reader<'r, 'd> {
    names: Names<'d>,
    /// Who has a number, or a VLAN id.
    numbers: HashMap<u64, String>,
    vlans: HashMap<u64, String>,
    /// Who has a port.
    of_port: HashMap<usize, String>,
    ports: &'r mut [PortConfig],
    own: &'r [Option<Span>],
    /// Whether there is a PCP, or one with errors.
    marked: bool,
    /// Whether all ports were understood.
    complete: bool,
    report: &'d Report<'d>,
}

impl<'d> Reader<'_, 'd> {
    fn tap(&mut self, mut fields: Fields<'d>, index: usize) -> Option<Tap> {
        let report = self.report;
        let f = &mut fields;
        let label = f.label.clone();
        let name = self.names.enter(f, index, report);
        let number = f.integer("number", 1..=u64::from(u16::MAX), "the number of a tap");
        if f.place_of("number").is_none() {
            f.missing(
                "number",
                "write number = 4, say: the tap_type of its flow records (3 = virtual network)",
            );
        }
        once("number", number.as_ref(), &mut self.numbers, f, &label, report);
        let vlan = f.integer("vlan", VLAN_IDS, "a VLAN id");
        once("vlan", vlan.as_ref(), &mut self.vlans, f, &label, report);
        if let Some(vlan) = vlan.as_ref().filter(|_| !self.marked) {
            let suggestion =
                "add [mirror] with pcp = 5, say: the PCP that the TAP switch marks frames with".to_owned();
            report.error(
                &vlan.span,
                f.field("vlan"),
                "which PCP marks the frames of this VLAN is not said",
                suggestion,
            );
        }
        let side = f.choice("tap_side", &TapSide::ALL.map(|side| (side.name(), side)));
        let given = ["vlan", "ports"].iter().any(|key| f.place_of(key).is_some());
        let number: Option<u16> = narrow(number);
        self.ports(f, number, &label);
        let has_ports = self.ports.iter().any(|port| Some(port.tap) == number);
        if !given && !has_ports && self.complete {
            f.missing(
                "vlan",
                "write vlan = 101 (frames marked so), ports = [\"cap0\"] (frames of these ports), or both",
            );
        }
        fields.finish();
        Some(Tap {
            name: name?.value.to_owned(),
            number: number?,
            vlan: narrow(vlan),
            side: side.map(|at| at.value),
        })
    }

    /// Enters `number` at the ports that the tap names.
    fn ports(&mut self, fields: &mut Fields<'d>, number: Option<u16>, label: &str) {
        let Some(items) = fields.strings("ports", "[\"cap0\"]") else { return };
        let (report, field) = (self.report, fields.field("ports"));
        if items.value.is_empty() {
            let suggestion = "name the ports, or leave ports out and write a vlan".to_owned();
            report.error(&items.span, &field, "an empty list: no port is of this tap", suggestion);
        }
        for item in &items.value {
            let Some(place) = self.ports.iter().position(|port| port.name == item.value) else {
                if self.complete {
                    let known = self.ports.iter().map(|port| port.name.as_str());
                    let suggestion = report.did_you_mean(item.value, known);
                    report.error(&item.span, &field, format!("no port {}", quote(item.value)), suggestion);
                }
                continue;
            };
            if let Some(other) = self.of_port.insert(place, label.to_owned()) {
                let reason = format!("port {} is of {other} already", quote(item.value));
                report.error(&item.span, &field, reason, "name a port at one tap, once".to_owned());
                continue;
            }
            let Some(port) = self.ports.get_mut(place) else { continue };
            if !port.role.captures() {
                let reason = format!("nothing comes in at port {}, which only sends", quote(item.value));
                report.error(&item.span, &field, reason, "set role = \"both\" at the port".to_owned());
            }
            let Some(number) = number else { continue };
            if let Some(place) = self.own.get(place).and_then(Option::as_ref).filter(|_| port.tap != number) {
                let reason = format!("{label} names this port, and has the number {number}");
                let suggestion = format!("write tap = {number}, or remove it");
                report.error(place, format!("port {}: tap", quote(&port.name)), reason, suggestion);
            }
            port.tap = number;
        }
    }
}

/// Reports a value that another tap has.
fn once(
    key: &str,
    value: Option<&At<u64>>,
    taken: &mut HashMap<u64, String>,
    fields: &Fields<'_>,
    label: &str,
    report: &Report<'_>,
) {
    let Some(value) = value else { return };
    if let Some(other) = taken.get(&value.value) {
        let reason = format!("{other} has {key} {}, too", value.value);
        report.error(&value.span, fields.field(key), reason, format!("give each tap its own {key}"));
    } else {
        taken.insert(value.value, label.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BootConfig;
    use crate::spec::parse_boot;

    const PORTS: &str = "policy = \"p\"\n\
        [[port]]\nname = \"cap0\"\nspec = \"af_packet:a\"\nrole = \"capture\"\n\
        [[port]]\nname = \"cap1\"\nspec = \"af_packet:b\"\nrole = \"capture\"\ntap = 7\n\
        [[port]]\nname = \"out0\"\nspec = \"af_packet:c\"\nrole = \"output\"\n";

    fn read(text: &str) -> BootConfig {
        let loaded = parse_boot("b", &format!("{PORTS}{text}")).unwrap();
        assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
        loaded.value
    }

    #[test]
    fn ports_and_vlans_are_of_taps() {
        let boot = read(
            "[mirror]\npcp = 5\nstrip_mark = false\n\
             [[tap]]\nname = \"core\"\nnumber = 4\nvlan = 101\n\
             [[tap]]\nname = \"edge\"\nnumber = 5\nvlan = 102\nports = [\"cap0\"]\n\
             [[tap]]\nname = \"old\"\nnumber = 7\n",
        );
        let tap = |name: &str, number, vlan| Tap { name: name.to_owned(), number, vlan, side: None };
        assert_eq!(
            boot.mirror,
            MirrorSettings {
                pcp: Some(5),
                strip_mark: false,
                taps: vec![tap("core", 4, Some(101)), tap("edge", 5, Some(102)), tap("old", 7, None)],
            }
        );
        assert_eq!(boot.ports.iter().map(|port| port.tap).collect::<Vec<_>>(), [5, 7, 1]);
        assert_eq!((boot.mirror.name_of(7), boot.mirror.name_of(1)), (Some("old"), None));
        assert_eq!(read("").mirror, MirrorSettings::default());
        // What a port says itself may be said at the tap again.
        assert_eq!(read("[[tap]]\nname = \"a\"\nnumber = 7\nports = [\"cap1\"]\n").ports[1].tap, 7);
        assert!(
            read("[mirror]\npcp = 0\n[[tap]]\nname = \"a\"\nnumber = 2\nvlan = 4094\n").mirror.strip_mark
        );
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        let tap = |rest: &str| format!("[[tap]]\nname = \"a\"\n{rest}\n");
        let two = |first: &str, second: &str| {
            format!("[mirror]\npcp = 5\n{}[[tap]]\nname = \"b\"\n{second}\n", tap(first))
        };
        let many: Vec<String> =
            (1..=251).map(|n| format!("[[tap]]\nname = \"t{n}\"\nnumber = {n}\nvlan = {n}\n")).collect();
        let many = many.concat();
        for (text, expected) in [
            ("[mirror]\n".to_owned(), "mirror.pcp: missing"),
            (
                "[mirror]\npcp = 8\n".to_owned(),
                "16:7: error: mirror.pcp: 8 is out of range; a PCP may be 0 to 7",
            ),
            ("[mirror]\npcp = 5\nstrip = true\n".to_owned(), "mirror.strip: unknown field"),
            (tap("number = 4\nvlan = 101"), "tap \"a\": vlan: which PCP marks the frames"),
            (tap("number = 4"), "tap \"a\": vlan: missing"),
            (tap("ports = [\"cap0\"]"), "tap \"a\": number: missing"),
            (tap("number = 0\nports = [\"cap0\"]"), "tap \"a\": number: 0 is out of range"),
            (tap("number = 65536\nports = [\"cap0\"]"), "number: 65536 is out of range"),
            (tap("number = 4\nports = []"), "an empty list"),
            (tap("number = 4\nports = [\"cap2\"]"), "no port \"cap2\"; did you mean"),
            (tap("number = 4\nports = [\"out0\"]"), "which only sends"),
            (tap("number = 4\nports = [\"cap0\", \"cap0\"]"), "is of tap \"a\" already"),
            (
                tap("number = 4\nports = [\"cap1\"]"),
                "10:1: error: port \"cap1\": tap: tap \"a\" names this port",
            ),
            (
                two("number = 4\nvlan = 1", "number = 4\nvlan = 2"),
                "tap \"b\": number: tap \"a\" has number 4, too",
            ),
            (
                two("number = 4\nvlan = 1", "number = 5\nvlan = 1"),
                "tap \"b\": vlan: tap \"a\" has vlan 1, too",
            ),
            (two("number = 4\nvlan = 0", "number = 5\nvlan = 1"), "a VLAN id may be 1 to 4094"),
            (two("number = 4\nvlan = 1", "number = 5\nvlan = 4095"), "a VLAN id may be 1 to 4094"),
            (
                two("number = 4\nports = [\"cap0\"]", "number = 5\nvlan = 9\nports = [\"cap0\"]"),
                "port \"cap0\" is of tap \"a\" already",
            ),
            (
                format!("{}{}", tap("number = 4\nports = [\"cap0\"]"), tap("number = 5\nports = [\"cap0\"]")),
                "a second tap \"a\"",
            ),
            (format!("[mirror]\npcp = 1\n{many}"), "251 taps are more than the 250 that are possible"),
        ] {
            let found = parse_boot("b", &format!("{PORTS}{text}")).unwrap_err().to_string();
            assert!(found.contains(expected), "{text}\n{found}");
        }
        let warned = parse_boot("b", &format!("{PORTS}[mirror]\npcp = 5\n")).unwrap().warnings;
        assert!(warned[0].to_string().contains("no tap has a VLAN id"), "{warned:?}");
    }
}
