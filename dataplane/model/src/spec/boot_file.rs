//! What does a boot config say?

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;

use crate::{
    ApiSettings, BootConfig, DecapSettings, EalSettings, FeedGuard, Hugepages, InterfaceAddr, LogLevel,
    MemorySettings, PortConfig, PortRole, PortSpec, Profile, RxTimestamps, TapSide,
};

use super::addresses::{interface_address, unicast, unicast_problem};
use super::api_section::{api_settings, store_folder};
use super::decap_keys::decap_settings;
use super::dedup_section::dedup_settings;
use super::destinations::{mac, non_empty};
use super::diagnostic::{Diagnostics, Loaded};
use super::document::{self, Fields};
use super::feed_guard_key::guard_ports;
use super::flow_section::flow_settings;
use super::limit_section::{breaker_settings, limit_settings};
use super::log_section::{LEVELS, log_settings};
use super::metrics_section::metrics_settings;
use super::names::Names;
use super::ovs_section::ovs_settings;
use super::policy_file::read_text;
use super::protection_section::protection_settings;
use super::source::{At, Report, Span, quote};
use super::tap_section::mirror_settings;
use super::worker_section::worker_settings;

/// The most ports.
pub const MAX_PORTS: usize = 256;

/// Reads and validates a boot config.
///
/// # Errors
///
/// Every error in the file in the order of the text, with the warnings between; or why the file could not be read.
pub fn load_boot(path: &Path) -> Result<Loaded<BootConfig>, Diagnostics> {
    let name = path.display().to_string();
    parse_boot(&name, &read_text(path, &name)?)
}

/// Validates the text of a boot config; `file_name` is what diagnostics call it, and relative paths in the text are
/// relative to its folder.
///
/// ```
/// use sluice_model::{PortSpec, spec::parse_boot};
///
/// let text = r#"
///     policy = "policy.toml"
///
///     [[port]]
///     name = "tap0"
///     spec = "af_packet:eth0"
///     role = "capture"
/// "#;
/// let boot = parse_boot("/etc/sluice/sluiced.toml", text).unwrap().value;
/// assert_eq!(boot.policy.to_str(), Some("/etc/sluice/policy.toml"));
/// assert_eq!(boot.ports[0].spec, PortSpec::AfPacket("eth0".into()));
/// ```
///
/// # Errors
///
/// Every error in the text, in its order, with the warnings between.
pub fn parse_boot(file_name: &str, text: &str) -> Result<Loaded<BootConfig>, Diagnostics> {
    parse(file_name, text, Use::Run)
}

/// Reads and validates a boot config for a replay, where policy and ports come from the command line: it needs neither.
///
/// # Errors
///
/// As [`load_boot`].
pub fn load_replay(path: &Path) -> Result<Loaded<BootConfig>, Diagnostics> {
    let name = path.display().to_string();
    parse(&name, &read_text(path, &name)?, Use::Replay)
}

/// What a boot config is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    /// To run: policy and a capturing port must be there.
    Run,
    /// To replay captures.
    Replay,
}

fn parse(file_name: &str, text: &str, purpose: Use) -> Result<Loaded<BootConfig>, Diagnostics> {
    let report = Report::new(file_name, text);
    let text = document::intact(&report);
    let document = document::parse(&text);
    let folder = Path::new(file_name).parent().unwrap_or(Path::new(""));
    let top = Fields::new(&document, 0..0, String::new(), &report);
    let config = boot_config(top, folder, &report, purpose);
    report.finish(config)
}

fn boot_config<'d>(mut top: Fields<'d>, folder: &Path, report: &'d Report<'d>, purpose: Use) -> BootConfig {
    let policy = non_empty(&mut top, "policy", "the path of the policy file", report);
    if top.place_of("policy").is_none() && purpose == Use::Run {
        top.missing("policy", "name the policy file: policy = \"policy.toml\"");
    }
    let profile = top.choice("profile", &Profile::NAMES).map(|at| at.value).unwrap_or_default();
    let eal = top.table("eal", "{ hugepages = \"auto\" }").map(|fields| eal_settings(fields, profile));
    let worker = top.table("worker", "{ lcores = [1] }").map(|fields| worker_settings(fields, report));
    let memory = top.table("memory", "{ mbufs = 65536 }").map(memory_settings);
    let dedup = top.table("dedup", "{ mode = \"drop\" }").map(|fields| dedup_settings(fields, report));
    let flow = top.table("flow", "{ flows = 262144 }").map(|fields| flow_settings(fields, folder, report));
    let decap = decap_settings(&mut top, DecapSettings::default(), report);
    let limit = top.table("limit", "{ rate_mbps = 1000 }").and_then(|fields| limit_settings(fields, report));
    let breaker = top
        .table("breaker", "{ threshold_mbps = 3000 }")
        .and_then(|fields| breaker_settings(fields, limit.as_ref(), report));
    let api = top.table("api", "{ socket = \"/run/sluice/sluiced.sock\" }");
    let mut api = api.map_or_else(ApiSettings::default, |fields| api_settings(fields, folder, report));
    let store = top.table("store", "{ folder = \"/var/lib/sluice\" }");
    api.store = store.and_then(|fields| store_folder(fields, folder, report));
    let metrics = top
        .table("metrics", "{ listen = \"127.0.0.1:9464\" }")
        .map(|fields| metrics_settings(fields, report));
    let ovs = top
        .table("ovs", "{ database = \"unix:/var/run/openvswitch/db.sock\" }")
        .and_then(|fields| ovs_settings(fields, folder, report));
    let (mut ports, own_taps) = ports(&mut top, decap, folder, report, purpose);
    guard_ports(&mut top, &mut ports, report);
    let mirror = mirror_settings(&mut top, &mut ports, &own_taps, report);
    let loop_guard = top.boolean("loop_guard").is_none_or(|at| at.value);
    let protection = top
        .table("protection", "{ cpu_millicores = 1000 }")
        .map(|fields| protection_settings(fields, report));
    let log_level = top.choice("log_level", &LEVELS).map(|at| at.value);
    let log = top.table("log", "{ to = \"stderr\" }").map(|fields| log_settings(fields, report));
    let (log, own_level) = log.unwrap_or_default();
    if let (Some(_), Some(_), Some(place)) = (log_level, own_level, top.place_of("log_level")) {
        let suggestion = "remove this one".to_owned();
        report.error(&place, "log_level", "[log] has a level, too", suggestion);
    }
    let stats_interval = top.integer("stats_interval", 0..=86_400, "seconds between two reports (0 = none)");
    top.finish();
    let boot = BootConfig {
        profile,
        policy: folder.join(policy.unwrap_or_default()),
        eal: eal.unwrap_or_else(|| EalSettings { hugepages: hugepages(profile), ..EalSettings::default() }),
        worker: worker.unwrap_or_default(),
        memory: memory.unwrap_or_default(),
        dedup: dedup.unwrap_or_default(),
        flow: flow.unwrap_or_default(),
        decap,
        limit,
        breaker,
        api,
        ports,
        mirror,
        loop_guard,
        metrics,
        ovs,
        protection: protection.unwrap_or_default(),
        log,
        log_level: own_level.or(log_level).unwrap_or(LogLevel::Info),
        stats_interval_s: narrow(stats_interval).filter(|&seconds| seconds > 0),
    };
    match profile {
        Profile::Standard => boot,
        Profile::Small => small(boot),
    }
}

/// Where packet memory comes from where nothing is said.
fn hugepages(profile: Profile) -> Hugepages {
    match profile {
        Profile::Standard => Hugepages::Auto,
        Profile::Small => Hugepages::Never,
    }
}

/// Fills in the sizes of [`Profile::Small`] where nothing is said; tests/tests/live_small.rs holds their sum to 128 MB.
fn small(mut boot: BootConfig) -> BootConfig {
    boot.flow.flows.get_or_insert(16_384);
    boot.flow.metrics_rows.get_or_insert(8_192);
    boot.flow.record_ring.get_or_insert(2_048);
    boot.memory.mbufs.get_or_insert(6_143);
    boot.memory.headers.get_or_insert(6_143);
    boot.worker.rx_descriptors.get_or_insert(512);
    boot.worker.tx_descriptors.get_or_insert(512);
    boot.dedup.entries.get_or_insert(65_536);
    if let Some(parquet) = &mut boot.flow.parquet {
        parquet.row_group.get_or_insert(2_048);
    }
    for port in &mut boot.ports {
        port.ring_kib.get_or_insert(8 << 10);
    }
    boot
}

fn eal_settings(mut fields: Fields<'_>, profile: Profile) -> EalSettings {
    let hugepages = fields.choice(
        "hugepages",
        &[("auto", Hugepages::Auto), ("never", Hugepages::Never), ("require", Hugepages::Require)],
    );
    let memory_mb = fields.integer("memory_mb", 16..=1 << 20, "memory_mb (MiB)");
    let args = fields.strings("args", "[\"--log-level=pmd:8\"]");
    fields.finish();
    EalSettings {
        hugepages: hugepages.map_or(self::hugepages(profile), |at| at.value),
        memory_mb: narrow(memory_mb),
        args: args.map_or(Vec::new(), |at| at.value.iter().map(|arg| arg.value.to_owned()).collect()),
    }
}

fn memory_settings(mut fields: Fields<'_>) -> MemorySettings {
    let mbufs = fields.integer("mbufs", 1_024..=16 << 20, "mbufs");
    let data_room = fields.integer("data_room", 256..=0xf000, "data_room (bytes)");
    let headers = fields.integer("headers", 1_024..=16 << 20, "headers (small mbufs)");
    fields.finish();
    MemorySettings { mbufs: narrow(mbufs), data_room_bytes: narrow(data_room), headers: narrow(headers) }
}

/// The ports, and of each the place of its own `tap`.
fn ports<'d>(
    top: &mut Fields<'d>,
    decap: DecapSettings,
    folder: &Path,
    report: &'d Report<'d>,
    purpose: Use,
) -> (Vec<PortConfig>, Vec<Option<Span>>) {
    let mut tables = top.tables("port");
    if let Some(first) = tables.get(MAX_PORTS) {
        let reason = format!("{} ports are more than the {MAX_PORTS} that are possible", tables.len());
        report.error(&first.span, "port", reason, None);
        tables.truncate(MAX_PORTS);
    }
    let mut names = Names::new("port");
    let mut devices = HashMap::new();
    let mut ports = Vec::with_capacity(tables.len());
    let mut own_taps = Vec::with_capacity(tables.len());
    let given = tables.len();
    for (index, mut fields) in tables.into_iter().enumerate() {
        let name = names.enter(&mut fields, index, report);
        let place = fields.place_of("spec").unwrap_or(fields.span.clone());
        let (field, label) = (fields.field("spec"), fields.label.clone());
        let own_tap = fields.place_of("tap");
        let Some(port) = port(fields, name, decap, folder, report, purpose) else { continue };
        if let Some(other) = devices.insert(port.spec.device(), label) {
            report.error(
                &place,
                field,
                format!("{other} has this device, too"),
                "give each port its own".to_owned(),
            );
        }
        ports.push(port);
        own_taps.push(own_tap);
    }
    let capturing = ports.iter().any(|port: &PortConfig| port.role.captures());
    if !capturing && purpose == Use::Run && ports.len() == given && report.is_well_formed() {
        let suggestion = "add a [[port]] with role = \"capture\"".to_owned();
        report.error(&(0..0), "port", "no port captures: nothing would come in", suggestion);
    }
    (ports, own_taps)
}

fn port(
    mut fields: Fields<'_>,
    name: Option<At<&str>>,
    decap: DecapSettings,
    folder: &Path,
    report: &Report<'_>,
    purpose: Use,
) -> Option<PortConfig> {
    let f = &mut fields;
    // In a replay a port is the capture of that name, and has no device.
    let spec = match (purpose, f.place_of("spec"), name.as_ref()) {
        (Use::Replay, None, Some(name)) => Some(PortSpec::Pcap(name.value.into())),
        _ => port_spec(f, folder, report),
    };
    let role = f.choice(
        "role",
        &[("capture", PortRole::Capture), ("output", PortRole::Output), ("both", PortRole::Both)],
    );
    if f.place_of("role").is_none() && purpose == Use::Run {
        f.missing("role", "write role = \"capture\", \"output\" or \"both\"");
    }
    let mtu = f.integer("mtu", 68..=0xffff, "an MTU (bytes)");
    let addresses = own_addresses(f, report);
    let gateway = gateway(f, "gateway", "\"192.0.2.254\"", true, &addresses, report);
    let gateway6 = self::gateway(f, "gateway6", "\"2001:db8::fe\"", false, &addresses, report);
    let mac = mac(f, "mac", report);
    let promiscuous = f.boolean("promiscuous");
    let snaplen = f.integer("snaplen", 64..=262_144, "a snaplen (bytes)");
    let rx_timestamps = f.choice(
        "rx_timestamps",
        &[
            ("software", RxTimestamps::Software),
            ("hardware", RxTimestamps::Hardware),
            ("auto", RxTimestamps::Auto),
        ],
    );
    let timestamps_field = f.field("rx_timestamps");
    let ring = f.integer("ring_kb", 1_024..=4 << 20, "a ring_kb (KiB)");
    let tap = f.integer("tap", 1..=u64::from(u16::MAX), "the number of a tap");
    let tap_side = f.choice("tap_side", &TapSide::ALL.map(|side| (side.name(), side)));
    let decap = decap_settings(f, decap, report);
    let decap_place = (f.place_of("decap_to").unwrap_or(f.span.clone()), f.field("decap_to"));
    let role_place = f.place_of("role");
    let span = f.span.clone();
    let role_field = f.field("role");
    fields.finish();
    let role = match (purpose, role_place.is_none()) {
        (Use::Replay, true) => PortRole::Capture,
        _ => role?.value,
    };
    let (name, spec) = (name?, spec?);
    if decap.is_end() && role.captures() && addresses.is_empty() {
        let (place, field) = decap_place;
        report.error(
            &place,
            field,
            "the port has no address that a tunnel could be addressed to",
            "write addresses = [\"192.0.2.1/24\"] at the port, or decap_to = \"any\"".to_owned(),
        );
    }
    if matches!(spec, PortSpec::Pcap(_)) && role != PortRole::Capture {
        let suggestion = "write role = \"capture\"; to write a file, use a destination with type = \"pcap\"";
        let place = role_place.unwrap_or(span);
        report.error(
            &place,
            role_field,
            "a pcap port is read, nothing can be sent there",
            suggestion.to_owned(),
        );
    }
    if let Some(at) = rx_timestamps.as_ref().filter(|at| at.value == RxTimestamps::Hardware) {
        let problem = if !role.captures() {
            Some(("nothing is captured by it", "leave it out"))
        } else if matches!(spec, PortSpec::AfPacket(_) | PortSpec::Pcap(_)) {
            Some((
                "no driver of DPDK's receives its packets: they have the time of the kernel, or of the file",
                "leave it out, or use the NIC by its PCI address",
            ))
        } else {
            None
        };
        if let Some((problem, suggestion)) = problem {
            report.error(&at.span, timestamps_field, problem, suggestion.to_owned());
        }
    }
    let ipv4 = |address| if let IpAddr::V4(v4) = address { Some(v4) } else { None };
    let ipv6 = |address| if let IpAddr::V6(v6) = address { Some(v6) } else { None };
    Some(PortConfig {
        name: name.value.to_owned(),
        spec,
        role,
        mtu: narrow(mtu),
        addresses,
        gateway: gateway.and_then(ipv4),
        gateway6: gateway6.and_then(ipv6),
        mac,
        promiscuous: promiscuous.map_or(role.captures(), |at| at.value),
        snaplen_bytes: narrow(snaplen),
        rx_timestamps: rx_timestamps.map_or(RxTimestamps::default(), |at| at.value),
        ring_kib: narrow(ring),
        tap: narrow(tap).unwrap_or(1),
        tap_side: tap_side.map_or(TapSide::Rest, |at| at.value),
        decap,
        // Once all ports are known.
        feed_guard: FeedGuard::Off,
    })
}

fn port_spec(fields: &mut Fields<'_>, folder: &Path, report: &Report<'_>) -> Option<PortSpec> {
    let Some(text) = fields.string("spec", "\"af_packet:eth0\"") else {
        if fields.place_of("spec").is_none() {
            fields.missing(
                "spec",
                "name the device: spec = \"af_packet:eth0\", \"0000:01:00.0\" or \"pcap:FILE\"",
            );
        }
        return None;
    };
    let spec = text.value.trim().parse::<PortSpec>();
    // The folder counts, too.
    let spec = match spec {
        Ok(PortSpec::Vhost(socket)) => PortSpec::Vhost(folder.join(socket)).to_string().parse(),
        other => other,
    };
    match spec {
        Ok(PortSpec::Pcap(file)) => Some(PortSpec::Pcap(folder.join(file))),
        Ok(spec) => Some(spec),
        Err(error) => {
            let bare = PortSpec::AfPacket(text.value.trim().to_owned()).to_string();
            let interface =
                bare.parse::<PortSpec>().is_ok().then(|| format!("write spec = {}", quote(&bare)));
            report.error(&text.span, fields.field("spec"), error.to_string(), interface);
            None
        }
    }
}

fn own_addresses(fields: &mut Fields<'_>, report: &Report<'_>) -> Vec<InterfaceAddr> {
    let Some(items) = fields.strings("addresses", "[\"192.0.2.1/24\"]") else { return Vec::new() };
    let field = fields.field("addresses");
    let mut addresses: Vec<InterfaceAddr> = Vec::with_capacity(items.value.len());
    for item in &items.value {
        match interface_address(item.value.trim()) {
            Err(problem) => report.error(&item.span, &field, problem.reason, problem.suggestion),
            Ok((address, _)) if unicast_problem(address).is_some() => {
                let suggestion = "write the address of this machine on that network".to_owned();
                report.error(
                    &item.span,
                    &field,
                    format!("{address} is no address of one machine"),
                    suggestion,
                );
            }
            Ok((address, prefix_len)) if (InterfaceAddr { address, prefix_len }).names_network(address) => {
                report.error(
                    &item.span,
                    &field,
                    format!("{address} is the network itself, or all of it: no address of one machine"),
                    "write the address of this machine on that network".to_owned(),
                );
            }
            Ok((address, prefix_len)) if addresses.iter().all(|known| known.address != address) => {
                addresses.push(InterfaceAddr { address, prefix_len });
            }
            Ok((address, _)) => {
                report.error(
                    &item.span,
                    &field,
                    format!("{address} is given twice"),
                    "remove one".to_owned(),
                );
            }
        }
    }
    addresses
}

fn gateway(
    fields: &mut Fields<'_>,
    key: &'static str,
    example: &str,
    ipv4: bool,
    addresses: &[InterfaceAddr],
    report: &Report<'_>,
) -> Option<IpAddr> {
    let text = fields.string(key, example)?;
    let field = fields.field(key);
    let address = unicast(text.value, &text.span, &field, report)?;
    if address.is_ipv4() != ipv4 {
        let suggestion =
            format!("write {} = {}", if ipv4 { "gateway6" } else { "gateway" }, quote(text.value));
        report.error(&text.span, &field, format!("{address} is of the other family"), suggestion);
        return None;
    }
    let link_local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
    if !link_local && !addresses.iter().any(|own| own.on_link(address)) {
        let reason = format!("{address} is in no network of this port");
        let prefix = if ipv4 { 24 } else { 64 };
        let suggestion =
            format!("give the port an address in the network of {address}/{prefix}, or the right gateway");
        report.error(&text.span, &field, reason, suggestion);
        return None;
    }
    Some(address)
}

/// A bounded integer in its own type.
pub(super) fn narrow<T: TryFrom<u64>>(value: Option<At<u64>>) -> Option<T> {
    T::try_from(value?.value).ok()
}
