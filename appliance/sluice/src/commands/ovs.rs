//! `sluice ovs`: mirrors a bridge of OVS-DPDK to Sluice, tells of it, and takes it away.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sluice_host::ovs::{
    self, Attached, FreeHugepages, OvsError, OvsErrorKind, PoolNeed, Select, Snapshot, Step, Switch, Wish,
};
use sluice_host::{Host, Machine};

use crate::cli::Context;
use crate::failure::{Exit, Failure};
use crate::out::Tone;
use crate::table::table;
use crate::text::{list, or_dash, safe};

/// How long ovs-vswitchd may take to make the port.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks at it.
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Action {
    /// Mirror a bridge to Sluice: one transaction, which adds a port and a mirror.
    Attach(AttachArgs),
    /// Take the port and the mirror away again, and nothing else.
    Detach(DetachArgs),
    /// Which bridges are mirrored to Sluice, and whether OVS is connected to it.
    Status(StatusArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct AttachArgs {
    /// The bridge; its datapath is that of OVS-DPDK (datapath_type=netdev).
    bridge: String,
    /// The socket that Sluice listens on: spec = "vhost:PATH" in its boot config.
    #[arg(long, value_name = "PATH", default_value = "/run/sluice/mirror.sock")]
    socket: String,
    /// The name of the new port [default: sluice-BRIDGE].
    #[arg(long, value_name = "NAME")]
    port: Option<String>,
    /// The name of the new mirror [default: that of the port].
    #[arg(long, value_name = "NAME")]
    mirror: Option<String>,
    /// The MTU of the new port in bytes: longer packets are not mirrored.
    #[arg(long, value_name = "BYTES", default_value_t = 9000)]
    mtu: u16,
    /// What is mirrored: all, or the ports whose packets are, in both directions.
    #[arg(long, value_name = "all|PORT,...", value_delimiter = ',', default_value = "all")]
    select: Vec<String>,
    #[command(flatten)]
    common: Change,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DetachArgs {
    /// The bridge.
    bridge: String,
    #[command(flatten)]
    common: Change,
}

#[derive(Debug, clap::Args)]
pub(crate) struct StatusArgs {
    /// The bridge [default: all].
    bridge: Option<String>,
    #[command(flatten)]
    database: Database,
}

#[derive(Debug, clap::Args)]
struct Change {
    /// Only print the command that would be run.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    database: Database,
}

#[derive(Debug, clap::Args)]
struct Database {
    /// The database of the switch, as ovs-vsctl takes it [default: that of this machine].
    #[arg(long, value_name = "ADDRESS")]
    db: Option<String>,
}

pub(crate) fn run(action: &Action, context: &Context) -> Result<Exit, Failure> {
    match action {
        Action::Attach(args) => attach(args, context),
        Action::Detach(args) => detach(args, context),
        Action::Status(args) => status(args, context),
    }
}

fn attach(args: &AttachArgs, context: &Context) -> Result<Exit, Failure> {
    let out = context.out;
    let port = args.port.clone().unwrap_or_else(|| format!("sluice-{}", args.bridge));
    let wish = Wish {
        bridge: args.bridge.clone(),
        mirror: args.mirror.clone().unwrap_or_else(|| port.clone()),
        port,
        socket: args.socket.clone(),
        mtu: args.mtu,
        select: if args.select == ["all"] { Select::All } else { Select::Ports(args.select.clone()) },
    };
    let switch = Switch::new(&Host, args.common.database.db.as_deref());
    let snapshot = switch.look()?;
    let transaction = match ovs::attach(&snapshot, &wish)? {
        Step::Nothing(attached) => {
            if out.json {
                return show(&json!({ "changed": false, "attached": attached }), context);
            }
            out.line(&format!("attached already: {}", sentence(&attached)))?;
            return Ok(Exit::Ok);
        }
        Step::Transaction(transaction) => transaction,
    };
    let command = switch.command(&transaction);
    let memory = Memory::of(&snapshot, wish.mtu);
    if args.common.dry_run {
        memory.tell(context);
        return dry(&command, Some(memory), context);
    }
    switch.change(&transaction)?;
    let attached = made(&switch, &wish)?;
    if out.json {
        let memory = memory.json();
        return show(
            &json!({ "changed": true, "attached": attached, "command": command, "memory": memory }),
            context,
        );
    }
    memory.tell(context);
    out.line(&format!("attached {}", sentence(&attached)))?;
    if !attached.made {
        out.complain(Tone::Warn, "warning", "ovs-vswitchd has not made the port yet; is it running?");
    }
    out.line(&format!("the port of sluiced for it: spec = \"vhost:{}\", role = \"capture\"", wish.socket))?;
    Ok(Exit::Ok)
}

/// Waits until ovs-vswitchd has made the port. When it could not, all is taken back.
fn made(switch: &Switch<'_>, wish: &Wish) -> Result<Attached, Failure> {
    let end = Instant::now() + PATIENCE;
    loop {
        let snapshot = switch.look()?;
        let attached = snapshot.attached().into_iter().find(|attached| attached.bridge == wish.bridge);
        let Some(attached) = attached else {
            return Err(Failure::failed("somebody took the mirror away at once"));
        };
        if let Some(error) = &attached.error {
            let text = format!("OVS could not make the port: {}", safe(error));
            switch.change(&ovs::detach(&snapshot, &wish.bridge)?)?;
            return Err(Failure::failed(text + "; nothing of it is left").help(
                "it may be short of hugepages (sluice doctor; grep Huge /proc/meminfo): reserve more, or ask for a smaller \
                 --mtu; the log of ovs-vswitchd says more",
            ));
        }
        if attached.made || Instant::now() >= end {
            return Ok(attached);
        }
        std::thread::sleep(PAUSE);
    }
}

fn detach(args: &DetachArgs, context: &Context) -> Result<Exit, Failure> {
    let switch = Switch::new(&Host, args.common.database.db.as_deref());
    let snapshot = switch.look()?;
    let transaction = ovs::detach(&snapshot, &args.bridge)?;
    let command = switch.command(&transaction);
    if args.common.dry_run {
        return dry(&command, None, context);
    }
    switch.change(&transaction)?;
    if context.out.json {
        return show(&json!({ "changed": true, "command": command }), context);
    }
    context.out.line(&format!("detached {}", safe(&args.bridge)))?;
    Ok(Exit::Ok)
}

fn status(args: &StatusArgs, context: &Context) -> Result<Exit, Failure> {
    let snapshot = Switch::new(&Host, args.database.db.as_deref()).look()?;
    let mut all = snapshot.attached();
    if let Some(bridge) = &args.bridge {
        all.retain(|attached| attached.bridge == *bridge);
        if all.is_empty() {
            // Tells also when there is no such bridge.
            ovs::detach(&snapshot, bridge)?;
        }
    }
    let machine = Machine::new(Path::new("/"), &Host);
    for attached in &mut all {
        attached.joined = attached.socket.as_ref().map(|socket| ovs::is_joined(&machine, socket));
    }
    let out = context.out;
    if out.json {
        return show(&json!({ "attached": all }), context);
    }
    if all.is_empty() {
        out.line("no bridge is mirrored to Sluice")?;
        return Ok(Exit::Ok);
    }
    let mut rows = table(&["bridge", "port", "mirror", "socket", "MTU", "selected", "mirrored", "state"]);
    for attached in &all {
        let text = |text: &Option<String>| or_dash(safe(text.as_deref().unwrap_or_default()));
        let number = |number: Option<i64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
        rows.add_row([
            safe(&attached.bridge),
            text(&attached.port),
            text(&attached.mirror),
            text(&attached.socket),
            number(attached.mtu),
            selected(attached),
            number(attached.mirrored_packets),
            state(attached),
        ]);
    }
    out.line(&rows.to_string())?;
    for attached in all.iter().filter(|attached| attached.is_starved()) {
        let text = format!(
            "{}: OVS is connected to Sluice and does not serve the port, as for some seconds after either has started; \
             if it stays so, OVS is short of hugepages, which its log tells (Failed to create memory pool): see grep Huge \
             /proc/meminfo, reserve more, then detach and attach",
            safe(&attached.bridge)
        );
        out.complain(Tone::Warn, "warning", &text);
    }
    Ok(Exit::Ok)
}

fn selected(attached: &Attached) -> String {
    if attached.select_all { "all".to_owned() } else { or_dash(list(&attached.select, " ")) }
}

fn state(attached: &Attached) -> String {
    match &attached.error {
        _ if !attached.is_whole() => "not whole: detach, then attach".to_owned(),
        Some(error) => safe(error),
        None if attached.connected => "connected".to_owned(),
        None if attached.is_starved() => "not served by OVS".to_owned(),
        None if attached.made => "waits for sluiced".to_owned(),
        None => "waits for ovs-vswitchd".to_owned(),
    }
}

fn sentence(attached: &Attached) -> String {
    let text = |text: &Option<String>| safe(text.as_deref().unwrap_or("-"));
    format!(
        "{}: port {}, mirror {} of {}, socket {}, MTU {}",
        safe(&attached.bridge),
        text(&attached.port),
        text(&attached.mirror),
        if attached.select_all { "all ports".to_owned() } else { list(&attached.select, ", ") },
        text(&attached.socket),
        attached.mtu.unwrap_or(0)
    )
}

/// Prints a command instead of running it.
fn dry(command: &[String], memory: Option<Memory>, context: &Context) -> Result<Exit, Failure> {
    if context.out.json {
        let memory = memory.map(|memory| memory.json());
        return show(&json!({ "changed": false, "command": command, "memory": memory }), context);
    }
    context.out.line(&ovs::quoted(command))?;
    Ok(Exit::Ok)
}

fn show(value: &Value, context: &Context) -> Result<Exit, Failure> {
    // Names of other programs: without characters that a terminal might act on.
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    context.out.line(&crate::json::escaped(&text))?;
    Ok(Exit::Ok)
}

/// What OVS will take, and what there is.
#[derive(Clone, Copy, Debug)]
struct Memory {
    free: Option<FreeHugepages>,
    need: PoolNeed,
}

impl Memory {
    fn of(snapshot: &Snapshot, mtu: u16) -> Self {
        let free = ovs::free_hugepages(&Machine::new(Path::new("/"), &Host));
        let page_kb = free.map_or(2048, |free| free.page_kb);
        Self { free, need: PoolNeed::of(mtu, snapshot.per_port_memory(), page_kb) }
    }

    fn json(&self) -> Value {
        json!({ "need": self.need, "hugepages": self.free })
    }

    fn tell(&self, context: &Context) {
        let PoolNeed { most_pages, least_pages, page_kb } = self.need;
        let free = self.free.map_or(0, |free| free.free);
        let total = self.free.map_or(0, |free| free.total);
        let pages = if most_pages == least_pages {
            format!("{most_pages} hugepages of {page_kb} kB")
        } else {
            format!(
                "{most_pages} hugepages of {page_kb} kB, or half of that, and so on down to {least_pages}"
            )
        };
        let text = format!("OVS takes buffers for packets of this MTU: {pages}; {free} of {total} are free");
        if free < least_pages {
            let more = "; unless it has such buffers already, or room in its own memory, it refuses the port";
            context.out.complain(Tone::Warn, "warning", &(text + more));
        } else {
            context.out.note(&text);
        }
    }
}

impl From<OvsError> for Failure {
    fn from(error: OvsError) -> Self {
        let exit = match error.kind() {
            OvsErrorKind::Failed => Exit::Failed,
            OvsErrorKind::Usage => Exit::Usage,
            OvsErrorKind::Unreachable => Exit::Unreachable,
            OvsErrorKind::NotAllowed => Exit::NotAllowed,
            OvsErrorKind::NotFound => Exit::NotFound,
        };
        let failure = Self::new(exit, safe(&error.to_string()));
        match error.help() {
            Some(help) => failure.help(safe(&help)),
            None => failure,
        }
    }
}
