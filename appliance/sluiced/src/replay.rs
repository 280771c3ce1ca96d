//! `sluiced replay`: runs captures through the pipeline and prints what became of every packet.

use std::io::IsTerminal;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use sluice_capture::Progress;
use sluice_core::flow::TapPort;
use sluice_engine::replay::{ReplayConfig, output_files, port_name, replay as run_replay};
use sluice_engine::stage::ends::PortEnds;
use sluice_export::parquet::{ParquetSettings, Profile};
use sluice_model::{BootConfig, DecapMode, DecapSettings, DedupMode, PortConfig, StripVlan};

use crate::records::RecordFiles;
use crate::report::{self, DedupSummary, Summary};
use crate::say::{Out, complain, say};
use crate::{Decap, ReplayArgs};

pub(crate) fn replay(args: &ReplayArgs) -> Result<ExitCode> {
    let Some(policies) = report::load(&sluice_model::spec::load_policy(&args.policy)) else {
        return Ok(ExitCode::FAILURE);
    };
    let names: Vec<String> = policies.guest_names().iter().take(10).map(ToString::to_string).collect();
    if !names.is_empty() {
        complain!(
            "warning: a replay has no Open vSwitch to learn from: {} and any other such names match nothing",
            names.join(", ")
        );
    }
    let boot = match &args.config {
        Some(path) => {
            let Some(boot) = report::load(&sluice_model::spec::load_replay(path)) else {
                return Ok(ExitCode::FAILURE);
            };
            Some(boot)
        }
        None => None,
    };
    let decap: Vec<_> = args.inputs.iter().map(|input| decap_settings(args, boot.as_ref(), input)).collect();
    let ends: Vec<_> = args.inputs.iter().map(|input| addresses(boot.as_ref(), input)).collect();
    if complain_of_no_ends(args, &decap, &ends) {
        return Ok(ExitCode::FAILURE);
    }
    let mut dedup = boot.as_ref().map(|boot| boot.dedup).unwrap_or_default();
    let mut flow = boot.as_ref().map(|boot| boot.flow.clone()).unwrap_or_default();
    flow.enabled |= args.flows.is_some() || args.metrics.is_some() || args.parquet.is_some();
    flow.metrics = args.metrics.is_some() || args.parquet.is_some();
    if let Some(mode) = args.dedup {
        dedup.mode = mode;
    }
    let config = ReplayConfig {
        decap,
        // Those of all ports come after the inputs' own: the loop guard knows them, as in the daemon.
        ends: PortEnds::new(ends.into_iter().chain([all_addresses(boot.as_ref())])),
        policies,
        inputs: args.inputs.clone(),
        out_dir: args.out.clone(),
        loop_guard: args.loop_guard,
        flow: flow.enabled.then_some(flow),
        taps: args.inputs.iter().map(|input| tap(boot.as_ref(), input)).collect(),
        mirror: boot.as_ref().map(|boot| boot.mirror.clone()).unwrap_or_default(),
        dedup,
        limit: boot.as_ref().and_then(|boot| boot.limit),
        breaker: boot.as_ref().and_then(|boot| boot.breaker),
    };
    let others = other_files(args, &config);
    let mut files = RecordFiles::create(args.flows.as_deref(), args.metrics.as_deref(), &others)?;
    if let Some(folder) = &args.parquet {
        files = files.with_parquet(parquet_settings(folder, args.parquet_profile))?;
    }
    let started = Instant::now();
    let mut bar = Bar::new(&args.inputs);
    let outcome = run_replay(&config, |input, at| bar.update(input, at), &mut files)?;
    bar.finish();
    let written = files.close();
    let summary = Summary {
        taps: &outcome.taps,
        tunnels: &outcome.tunnels,
        tunnels_full: outcome.tunnels_full,
        policies: &config.policies,
        account: &outcome.account,
        policy_totals: &outcome.policies,
        destination_totals: &outcome.destinations,
        away: &[],
        breakers: outcome.breaker.iter().map(|breaker| ("(files)", *breaker)).collect(),
        dedup: (dedup.mode != DedupMode::Off).then(|| DedupSummary {
            mode: dedup.mode,
            ports: args.inputs.iter().map(|path| port_name(path)).collect(),
            pairs: outcome.dedup_pairs.clone(),
        }),
        flow: outcome.flow,
        written: &written,
    };
    let mut out = Out::default();
    if args.json {
        say!(out, "{}", summary.json());
    } else {
        say!(out, "{}", summary.table());
        let seconds = started.elapsed().as_secs_f64();
        say!(
            out,
            "{} packets in {seconds:.2} s; output in {}",
            outcome.account.ledger.rx_packets,
            args.out.display()
        );
    }
    for error in &outcome.errors {
        complain!("sluiced: error: {error}");
    }
    let whole = written.complain() && outcome.errors.is_empty() && outcome.account.balances();
    out.end()?;
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// How a replay writes Parquet files: all records, in files as large as may be, and none is ever removed.
fn parquet_settings(folder: &Path, profile: Profile) -> ParquetSettings {
    let defaults = ParquetSettings::new(folder.to_owned());
    ParquetSettings { profile, flush: Duration::MAX, flow_cap: None, reserve_bytes: 0, ..defaults }
}

/// What is done with tunnels of one capture.
fn decap_settings(args: &ReplayArgs, boot: Option<&BootConfig>, input: &Path) -> DecapSettings {
    let mut settings =
        port_of(boot, input).map(|port| port.decap).or(boot.map(|boot| boot.decap)).unwrap_or_default();
    if let Some(mode) = args.decap {
        settings.mode = match mode {
            Decap::Off => DecapMode::Off,
            Decap::Strip => DecapMode::Strip,
            Decap::LookThrough => DecapMode::LookThrough,
        };
        if settings.mode == DecapMode::LookThrough {
            settings.strip_vlan = StripVlan::None;
        }
        settings.drop_rest &= settings.mode == DecapMode::Strip;
    }
    settings
}

/// The own addresses of the port of one capture.
fn addresses(boot: Option<&BootConfig>, input: &Path) -> Vec<IpAddr> {
    port_of(boot, input).map_or(Vec::new(), |port| port.addresses.iter().map(|own| own.address).collect())
}

/// Complains of inputs whose tunnels could end nowhere; says whether there are any.
fn complain_of_no_ends(args: &ReplayArgs, decap: &[DecapSettings], ends: &[Vec<IpAddr>]) -> bool {
    let mut any = false;
    for (input, (settings, ends)) in args.inputs.iter().zip(decap.iter().zip(ends)) {
        if !settings.only_own || settings.mode == DecapMode::Off || !ends.is_empty() {
            continue;
        }
        any = true;
        let rest = if settings.drop_rest { "everything would be dropped" } else { "nothing would be opened" };
        complain!(
            "error: {}: decap_to = \"own\", but no port of this name has addresses where tunnels could end, so {rest}; \
             in the boot config write [[port]] with name = \"{}\" and its addresses, or decap_to = \"any\"",
            input.display(),
            port_name(input),
        );
    }
    any
}

/// The own addresses of all ports.
fn all_addresses(boot: Option<&BootConfig>) -> Vec<IpAddr> {
    let ports = boot.into_iter().flat_map(|boot| &boot.ports);
    ports.flat_map(|port| &port.addresses).map(|own| own.address).collect()
}

/// The settings of the port that has the name of an input.
fn port_of<'a>(boot: Option<&'a BootConfig>, input: &Path) -> Option<&'a PortConfig> {
    let name = port_name(input);
    boot.and_then(|boot| boot.ports.iter().find(|port| port.name == name))
}

/// Where an input stands.
fn tap(boot: Option<&BootConfig>, input: &Path) -> TapPort {
    port_of(boot, input).map_or(TapPort::default(), |port| TapPort { tap: port.tap, side: port.tap_side })
}

/// The files that records must not overwrite: what is read, and what else is written.
fn other_files(args: &ReplayArgs, config: &ReplayConfig) -> Vec<PathBuf> {
    let read = args.inputs.iter().chain(&args.config).chain([&args.policy]).cloned();
    read.chain(output_files(config).into_iter().flatten()).collect()
}

/// A progress bar on a terminal; nothing elsewhere.
struct Bar {
    shown: Option<ProgressBar>,
    names: Vec<String>,
    updated: Instant,
}

impl Bar {
    fn new(inputs: &[PathBuf]) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let template = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} eta {eta}";
            let style =
                ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(0).with_style(style)
        });
        let names = inputs.iter().map(|path| path.display().to_string()).collect();
        Self { shown: bar, names, updated: Instant::now() }
    }

    fn update(&mut self, input: usize, at: Progress) {
        let Some(bar) = &self.shown else { return };
        if self.updated.elapsed() < Duration::from_millis(100) {
            return;
        }
        self.updated = Instant::now();
        bar.set_length(at.bytes_total.unwrap_or(at.bytes_read));
        bar.set_position(at.bytes_read);
        bar.set_message(self.names.get(input).cloned().unwrap_or_default());
    }

    fn finish(&self) {
        if let Some(bar) = &self.shown {
            bar.finish_and_clear();
        }
    }
}
