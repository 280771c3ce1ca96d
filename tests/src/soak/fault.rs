//! What happens to the broker? Faults, drawn by a seed; and how soon everything must be as before.

use std::fmt;
use std::time::Duration;

use super::network::{OUT, TAPS};
use crate::nest::Numbers;

/// The kinds of faults. Policies change all the time besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The link of a capture port goes down.
    CaptureLink,
    /// The interface of a capture port is deleted, and made again.
    CaptureGone,
    /// The link of the output port goes down.
    OutputLink,
    /// The tool's interface is deleted, and with it the output's; both are made again.
    ToolGone,
    /// The disk is full.
    DiskFull,
    /// The daemon is killed by SIGKILL, and started again.
    Kill,
    /// OVS-DPDK ends or is killed, and is started again.
    Ovs,
    /// The daemon's clock steps.
    ClockStep,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::CaptureLink,
        Self::CaptureGone,
        Self::OutputLink,
        Self::ToolGone,
        Self::DiskFull,
        Self::Kill,
        Self::Ovs,
        Self::ClockStep,
    ];

    /// Its name in the report.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::CaptureLink => "link of a tap down",
            Self::CaptureGone => "interface of a tap gone",
            Self::OutputLink => "link to the tool down",
            Self::ToolGone => "tool gone",
            Self::DiskFull => "disk full",
            Self::Kill => "kill -9",
            Self::Ovs => "OVS restart",
            Self::ClockStep => "clock step",
        }
    }

    /// How soon after its end packets must flow to the tool again, and everything be in order. The start of the
    /// daemon, or of OVS, is part of that.
    #[must_use]
    pub fn limit(self) -> Duration {
        Duration::from_secs(match self {
            Self::CaptureLink | Self::CaptureGone | Self::OutputLink => 5,
            // The tool is asked for its address anew.
            Self::ToolGone => 8,
            // A second between two attempts to write, and files that are whole some seconds later.
            Self::DiskFull | Self::ClockStep => 12,
            Self::Kill => 15,
            // OVS tries once a second to connect, and takes its memory then.
            Self::Ovs => 45,
        })
    }

    /// The exceptions of which the daemon must raise one while it lasts.
    #[must_use]
    pub fn exceptions(self) -> &'static [&'static str] {
        match self {
            Self::CaptureLink | Self::CaptureGone | Self::OutputLink | Self::ToolGone | Self::Ovs => {
                &["port_down"]
            }
            Self::DiskFull => &["disk_low", "export_failed"],
            Self::Kill | Self::ClockStep => &[],
        }
    }

    /// Whether the daemon must account for every packet that was sent: nothing is lost where it does not see it.
    #[must_use]
    pub fn is_inside(self) -> bool {
        matches!(self, Self::DiskFull | Self::ClockStep)
    }

    /// Whether every copy that the daemon sent must arrive: the way to the tool is open, and the daemon lives.
    #[must_use]
    pub fn spares_output(self) -> bool {
        !matches!(self, Self::OutputLink | Self::ToolGone | Self::Kill)
    }
}

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fault {
    /// What happens.
    pub kind: Kind,
    /// For how long, at least. Nothing lasts of `Kill`, and of a clock step that stays.
    pub lasts: Duration,
    /// Of two capture ports, which one.
    pub tap: usize,
    /// At the broker's end of a link, not at the other.
    pub here: bool,
    /// OVS is killed, not told to end.
    pub killed: bool,
    /// By how many seconds the clock steps.
    pub step_s: f64,
    /// The clock steps back at the end.
    pub back: bool,
}

/// Steps of the clock, seconds: those that are slewed, and those that are not.
const STEPS_S: [f64; 8] = [0.3, -0.3, 5.0, -5.0, 90.0, -90.0, 3600.0, 86_400.0];

impl Fault {
    /// Draws one. Every draw takes as many numbers, so that a seed gives the same faults whatever comes between.
    pub fn draw(kind: Kind, numbers: &mut Numbers) -> Self {
        Self {
            kind,
            lasts: Duration::from_millis(300 + numbers.below(1200) as u64),
            tap: numbers.below(TAPS.len()),
            here: numbers.flip(),
            killed: numbers.flip(),
            step_s: STEPS_S[numbers.below(STEPS_S.len())],
            back: numbers.flip(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind.name())?;
        match self.kind {
            Kind::CaptureLink => {
                let [here, there, _] = TAPS[self.tap];
                write!(f, ", {}", if self.here { here } else { there })
            }
            Kind::CaptureGone => write!(f, ", {}", TAPS[self.tap][0]),
            Kind::OutputLink => write!(f, ", {}", if self.here { OUT[0] } else { OUT[1] }),
            Kind::Ovs => write!(f, ", {}", if self.killed { "killed" } else { "in order" }),
            Kind::ClockStep => {
                write!(f, " by {:+} s{}", self.step_s, if self.back { " and back" } else { "" })
            }
            Kind::ToolGone | Kind::DiskFull | Kind::Kill => Ok(()),
        }
    }
}

/// Which faults come, one after the other: first each kind once in random order, then any, without end.
#[derive(Debug)]
pub struct Schedule {
    kinds: Vec<Kind>,
    first: Vec<Kind>,
    numbers: Numbers,
}

impl Schedule {
    /// The schedule of a seed, of these kinds.
    #[must_use]
    pub fn new(seed: u64, kinds: &[Kind]) -> Self {
        let mut numbers = Numbers::new(seed);
        let mut first = kinds.to_vec();
        for at in (1..first.len()).rev() {
            first.swap(at, numbers.below(at + 1));
        }
        Self { kinds: kinds.to_vec(), first, numbers }
    }

    /// Whether each kind has come.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.first.is_empty()
    }

    /// The next fault. `spare` the daemon: it is to live on, and there is another fault in the place of its kill.
    pub fn next(&mut self, spare: bool) -> Fault {
        let drawn = self.kinds[self.numbers.below(self.kinds.len())];
        let kind = self.first.pop().unwrap_or(drawn);
        let fault = Fault::draw(kind, &mut self.numbers);
        let kind = if spare && kind == Kind::Kill { Kind::CaptureLink } else { kind };
        Fault { kind, ..fault }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_comes_and_a_seed_repeats() {
        let draw = |seed| {
            let mut schedule = Schedule::new(seed, &Kind::ALL);
            (0..100).map(|_| schedule.next(false)).collect::<Vec<_>>()
        };
        let faults = draw(7);
        let mut kinds: Vec<_> = faults[..Kind::ALL.len()].iter().map(|fault| fault.kind).collect();
        kinds.sort();
        assert_eq!(kinds, Kind::ALL);
        assert_eq!(faults, draw(7));
        assert_ne!(faults, draw(8));
        for kind in Kind::ALL {
            assert!(faults.iter().filter(|fault| fault.kind == kind).count() > 3, "{kind:?}");
        }
    }
}
