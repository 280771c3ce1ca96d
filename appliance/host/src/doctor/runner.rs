//! Whose rights and limits count? Those of the daemon that runs, else of the unit that would run it, else of who asks.

use super::Case;
use super::daemon::{Daemon, names};
use crate::Machine;

/// Folders of units, the first one that has the unit counts.
const UNITS: [&str; 4] =
    ["/etc/systemd/system", "/run/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"];
const UNIT: &str = "sluiced.service";

/// Who runs the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Runner {
    /// It runs.
    Process(Daemon),
    /// The unit would start it with this boot config.
    Unit(Unit),
    /// Nobody else is known.
    Asker,
}

/// What the unit says, its drop-ins included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Unit {
    command: String,
    user: String,
    ambient: Vec<String>,
    bounding: Option<Vec<String>>,
    locked: Option<String>,
}

impl Runner {
    pub(crate) fn of(machine: &Machine<'_>, case: &Case<'_>) -> Self {
        if let Some(daemon) = Daemon::of(machine, case) {
            return Self::Process(daemon);
        }
        let unit = Unit::read(machine).filter(|unit| {
            let words: Vec<&str> = unit.command.split_whitespace().collect();
            case.config.is_none_or(|config| names(&words, config))
        });
        unit.map_or(Self::Asker, Self::Unit)
    }

    /// What to call it.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Process(Daemon(process)) => format!("sluiced (process {process})"),
            Self::Unit(_) => UNIT.to_owned(),
            Self::Asker => "this user".to_owned(),
        }
    }

    /// Whether it has a capability, by number and name; `None` = that cannot be read.
    pub(crate) fn may(&self, machine: &Machine<'_>, number: u32, name: &str) -> Option<bool> {
        let effective = |file: &str| {
            let effective = machine.line(file, "CapEff")?;
            Some(u64::from_str_radix(&effective, 16).unwrap_or(0) >> number & 1 == 1)
        };
        match self {
            Self::Process(daemon) => effective(&daemon.file("status")),
            Self::Unit(unit) => Some(unit.may(name)),
            Self::Asker => effective("/proc/self/status"),
        }
    }

    /// Whether it may lock any amount of memory; `None` = that cannot be read.
    pub(crate) fn locks_all(&self, machine: &Machine<'_>) -> Option<bool> {
        let file = match self {
            Self::Process(daemon) => daemon.file("limits"),
            Self::Asker => "/proc/self/limits".to_owned(),
            Self::Unit(unit) => return Some(unit.locked.as_deref() == Some("infinity")),
        };
        let limits = machine.text(file)?;
        let locked = limits.lines().find(|line| line.starts_with("Max locked memory"))?;
        Some(locked.contains("unlimited"))
    }
}

impl Unit {
    fn read(machine: &Machine<'_>) -> Option<Self> {
        let main = UNITS.iter().find_map(|folder| machine.text(format!("{folder}/{UNIT}")))?;
        let mut unit = Self::default();
        unit.add(&main);
        // A drop-in counts once, from the first folder that has it, in the order of their names.
        let mut drop_ins: Vec<(String, &str)> = Vec::new();
        for folder in UNITS {
            for name in machine.names(format!("{folder}/{UNIT}.d")) {
                if name.strip_suffix(".conf").is_some() && !drop_ins.iter().any(|(known, _)| *known == name) {
                    drop_ins.push((name, folder));
                }
            }
        }
        drop_ins.sort();
        for (name, folder) in drop_ins {
            unit.add(&machine.text(format!("{folder}/{UNIT}.d/{name}")).unwrap_or_default());
        }
        Some(unit)
    }

    /// Takes in the lines of a file: later ones count, lists grow, and nothing empties a list (systemd.exec(5)).
    fn add(&mut self, text: &str) {
        let grow = |list: &mut Vec<String>, value: &str| {
            if value.is_empty() {
                list.clear();
            }
            list.extend(value.split_whitespace().map(str::to_owned));
        };
        for (key, value) in text.lines().filter_map(|line| line.trim().split_once('=')) {
            let value = value.trim();
            match key.trim() {
                "ExecStart" => value.clone_into(&mut self.command),
                "User" => value.clone_into(&mut self.user),
                "AmbientCapabilities" => grow(&mut self.ambient, value),
                "CapabilityBoundingSet" => grow(self.bounding.get_or_insert_default(), value),
                "LimitMEMLOCK" => self.locked = Some(value.to_owned()),
                _ => {}
            }
        }
    }

    /// Root has what it is left with, others what they are given.
    fn may(&self, capability: &str) -> bool {
        let has = |list: &[String]| list.iter().any(|name| name == capability);
        let left = self.bounding.as_deref().is_none_or(has);
        left && (matches!(&*self.user, "" | "root" | "0") || has(&self.ambient))
    }
}
