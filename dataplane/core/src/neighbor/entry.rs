//! What is known of one neighbour, what is to be asked next, and what does an answer change?
//!
//! The states of RFC 4861, section 7.3.2, for IPv4 too. Copies flow all the time, so there is no STALE that waits for
//! use and no DELAY: what is not confirmed is probed at once. Beyond the RFC, the address stays in use while unicast and
//! then group probes run: a copy to an old address does less harm than no copy.

use sluice_model::MacAddr;

use super::NeighborConfig;

/// One neighbour.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) mac: Option<MacAddr>,
    /// What [`changes`](super::NeighborTable::changes) told last.
    pub(super) published: Option<MacAddr>,
    pub(super) phase: Phase,
    /// Requests sent in this phase.
    pub(super) attempts: u32,
    /// When the phase began.
    pub(super) since_ns: u64,
    /// When the next step is due.
    pub(super) due_ns: u64,
    /// When the neighbour answered last.
    pub(super) confirmed_ns: Option<u64>,
    /// When the MAC address changed last.
    changed_ns: u64,
    /// When it was asked last.
    sent_ns: Option<u64>,
    /// Whether it calls itself a router (ND only).
    pub(super) router: bool,
}

/// The states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Asked for, never resolved.
    Incomplete,
    /// Confirmed within the reachable time.
    Reachable,
    /// The known MAC address is asked.
    ProbeUnicast,
    /// All stations are asked, the known MAC address is still in use.
    ProbeGroup,
    /// Nobody answered: asked again at the pace of the back-off.
    Failed,
}

/// A request that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    Group,
    Unicast(MacAddr),
}

/// What a message says about a neighbour.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heard {
    pub(super) mac: Option<MacAddr>,
    /// It answers a request (if one was sent).
    pub(super) solicited: bool,
    /// It may replace a known MAC address.
    pub(super) overrides: bool,
    pub(super) router: Option<bool>,
}

impl Entry {
    pub(super) fn new(now_ns: u64) -> Self {
        Self {
            mac: None,
            published: None,
            phase: Phase::Incomplete,
            attempts: 0,
            since_ns: now_ns,
            due_ns: now_ns,
            confirmed_ns: None,
            changed_ns: 0,
            sent_ns: None,
            router: false,
        }
    }

    /// Takes the step that is due, and says what to ask.
    pub(super) fn step(&mut self, config: &NeighborConfig, now_ns: u64) -> Option<Ask> {
        if self.due_ns > now_ns {
            return None;
        }
        if self.phase == Phase::Reachable {
            self.enter(Phase::ProbeUnicast, now_ns);
        }
        if self.phase == Phase::ProbeUnicast && self.attempts >= config.max_solicits {
            self.enter(Phase::ProbeGroup, now_ns);
        }
        let given_up = self.attempts >= config.max_solicits;
        if matches!(self.phase, Phase::Incomplete | Phase::ProbeGroup) && given_up {
            let attempts = self.attempts;
            self.enter(Phase::Failed, now_ns);
            self.attempts = attempts;
            self.mac = None;
            self.due_ns = now_ns.saturating_add(config.backoff_ns);
            return None;
        }
        self.attempts = self.attempts.saturating_add(1);
        self.sent_ns = Some(now_ns);
        let wait_ns = if self.phase == Phase::Failed { config.backoff_ns } else { config.retrans_timer_ns };
        self.due_ns = now_ns.saturating_add(wait_ns);
        match (self.phase, self.mac) {
            (Phase::ProbeUnicast, Some(mac)) => Some(Ask::Unicast(mac)),
            _ => Some(Ask::Group),
        }
    }

    /// Learns from a message; says whether the MAC address changed from one to another.
    pub(super) fn hear(&mut self, config: &NeighborConfig, heard: Heard, now_ns: u64) -> bool {
        let Some(known) = self.mac else {
            let Some(mac) = heard.mac else { return false };
            let asked = self.attempts > 0;
            self.set(mac, heard.router, now_ns);
            self.conclude(config, heard.solicited && asked, now_ns);
            return false;
        };
        let mac = heard.mac.unwrap_or(known);
        let differs = mac != known;
        // RFC 4861, section 7.2.5, and Linux' locktime: of stations that fight for an address, the first one is kept.
        let locked = self.changed_ns.saturating_add(config.lock_time_ns) > now_ns;
        if differs && (!heard.overrides || locked) {
            if self.phase == Phase::Reachable {
                self.verify(config, now_ns);
            }
            return false;
        }
        // Who answers a probe that was sent to somebody else answers nothing.
        let asked = match self.phase {
            Phase::ProbeUnicast => self.attempts > 0 && !differs,
            Phase::ProbeGroup => true,
            Phase::Incomplete | Phase::Reachable | Phase::Failed => false,
        };
        if differs {
            self.set(mac, heard.router, now_ns);
        } else if heard.router.is_some() {
            self.router = heard.router.unwrap_or(self.router);
        }
        let confirmed = heard.solicited && asked;
        if confirmed || differs {
            self.conclude(config, confirmed, now_ns);
        }
        differs
    }

    fn set(&mut self, mac: MacAddr, router: Option<bool>, now_ns: u64) {
        self.mac = Some(mac);
        self.changed_ns = now_ns;
        self.router = router.unwrap_or(self.router);
    }

    fn conclude(&mut self, config: &NeighborConfig, confirmed: bool, now_ns: u64) {
        if confirmed {
            self.enter(Phase::Reachable, now_ns);
            self.confirmed_ns = Some(now_ns);
            self.due_ns = now_ns.saturating_add(config.reachable_time_ns);
        } else {
            self.verify(config, now_ns);
        }
    }

    /// Asks all stations at once, whatever is known.
    pub(super) fn ask_anew(&mut self, now_ns: u64) {
        self.enter(if self.mac.is_some() { Phase::ProbeGroup } else { Phase::Incomplete }, now_ns);
        self.due_ns = now_ns;
    }

    /// Asks the known address whether it is right, without asking more often than the retransmission timer allows:
    /// others decide how often this is called.
    fn verify(&mut self, config: &NeighborConfig, now_ns: u64) {
        self.enter(Phase::ProbeUnicast, now_ns);
        let earliest = self.sent_ns.map_or(now_ns, |sent| sent.saturating_add(config.retrans_timer_ns));
        self.due_ns = earliest.max(now_ns);
    }

    fn enter(&mut self, phase: Phase, now_ns: u64) {
        self.phase = phase;
        self.attempts = 0;
        self.since_ns = now_ns;
    }
}
