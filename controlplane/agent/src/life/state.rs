//! Which states can the appliance be in, and what leads from one to another? (requirements.md COL-1)

use sluice_model::DropReason;

/// The state of the appliance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum State {
    /// It checks whether it can run.
    #[default]
    SelfCheck,
    /// Traffic is copied.
    Running,
    /// A limit of processor time or memory is exceeded: packets are dropped and counted until the load falls.
    Protection,
    /// Something is wrong. What can go on does.
    Exception,
    /// Traffic is not copied, as somebody asked for.
    Stopped,
}

/// What can happen to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// The self-check found nothing wrong.
    CheckPassed,
    /// The self-check found something wrong.
    CheckFailed,
    /// Something went wrong while it ran.
    Fault,
    /// Everything that was wrong is in order again.
    Repaired,
    /// A limit of processor time or memory is exceeded.
    Overload,
    /// The load has fallen.
    Relief,
    /// Somebody stops it.
    Stop,
    /// Somebody starts it.
    Start,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 5] =
        [Self::SelfCheck, Self::Running, Self::Protection, Self::Exception, Self::Stopped];

    /// The name in logs and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SelfCheck => "self_check",
            Self::Running => "running",
            Self::Protection => "protection",
            Self::Exception => "exception",
            Self::Stopped => "stopped",
        }
    }

    /// The state after an event; the same where the event means nothing.
    #[must_use]
    pub const fn after(self, event: Event) -> Self {
        match (self, event) {
            (Self::SelfCheck, Event::CheckPassed) | (Self::Protection, Event::Relief) => Self::Running,
            (Self::SelfCheck, Event::CheckFailed) | (Self::Running, Event::Fault) => Self::Exception,
            // What can go on does while something is wrong, and so it can be too much, too.
            (Self::Running | Self::Exception, Event::Overload) => Self::Protection,
            (Self::Exception, Event::Repaired) | (Self::Stopped, Event::Start) => Self::SelfCheck,
            (_, Event::Stop) => Self::Stopped,
            (same, _) => same,
        }
    }

    /// The state that follows from what is seen now, by as many events as it takes.
    #[must_use]
    pub fn follow(self, faults: bool, overload: bool) -> Self {
        let event = |state| match state {
            Self::SelfCheck if faults => Some(Event::CheckFailed),
            Self::SelfCheck => Some(Event::CheckPassed),
            Self::Running | Self::Exception if overload => Some(Event::Overload),
            Self::Running if faults => Some(Event::Fault),
            Self::Exception if !faults => Some(Event::Repaired),
            Self::Protection if !overload => Some(Event::Relief),
            _ => None,
        };
        // Repaired, checked, running, too much: no way is longer.
        let mut state = self;
        for _ in 0..Self::ALL.len() {
            let Some(event) = event(state) else { break };
            state = state.after(event);
        }
        state
    }

    /// Why packets do not come in; `None` = they do.
    #[must_use]
    pub const fn closes(self) -> Option<DropReason> {
        match self {
            Self::Protection => Some(DropReason::Protection),
            Self::Stopped => Some(DropReason::Stopped),
            Self::SelfCheck | Self::Running | Self::Exception => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// requirements.md COL-1, edge by edge, in its words. "Abnormal" is [`State::Exception`].
    const TABLE: [(State, Event, State, &str); 12] = [
        (State::SelfCheck, Event::CheckPassed, State::Running, "self-check ok -> running"),
        (State::SelfCheck, Event::CheckFailed, State::Exception, "failed -> abnormal"),
        (State::Exception, Event::Repaired, State::SelfCheck, "abnormal -> self-check after repair"),
        (State::Running, Event::Fault, State::Exception, "running -> abnormal on fault"),
        (State::Running, Event::Overload, State::Protection, "running -> protection on resource overrun"),
        (State::Protection, Event::Relief, State::Running, "and back"),
        (State::Running, Event::Stop, State::Stopped, "control messages: running -> stopped"),
        (State::Stopped, Event::Start, State::SelfCheck, "and back; PRT-2: enabling checks first"),
        // Not in its text: what Sluice adds.
        (State::SelfCheck, Event::Stop, State::Stopped, "a stop counts in every state"),
        (State::Exception, Event::Stop, State::Stopped, "a stop counts in every state"),
        (State::Protection, Event::Stop, State::Stopped, "a stop counts in every state"),
        (State::Exception, Event::Overload, State::Protection, "what goes on is protected"),
    ];

    #[test]
    fn the_edges_are_those_of_the_requirements_and_no_others() {
        const EVENTS: [Event; 8] = [
            Event::CheckPassed,
            Event::CheckFailed,
            Event::Fault,
            Event::Repaired,
            Event::Overload,
            Event::Relief,
            Event::Stop,
            Event::Start,
        ];
        for state in State::ALL {
            for event in EVENTS {
                let edge = TABLE.iter().find(|(from, by, ..)| (*from, *by) == (state, event));
                let (expected, why) = edge.map_or((state, "no edge"), |(_, _, to, why)| (*to, why));
                assert_eq!(state.after(event), expected, "{state:?} {event:?}: {why}");
            }
        }
    }

    #[test]
    fn what_is_seen_decides() {
        for (from, faults, overload, to) in [
            (State::SelfCheck, false, false, State::Running),
            (State::SelfCheck, true, false, State::Exception),
            (State::SelfCheck, false, true, State::Protection),
            (State::SelfCheck, true, true, State::Protection),
            (State::Running, true, false, State::Exception),
            (State::Running, true, true, State::Protection),
            (State::Exception, false, false, State::Running),
            (State::Exception, false, true, State::Protection),
            (State::Protection, true, false, State::Exception),
            (State::Protection, false, false, State::Running),
            (State::Stopped, true, true, State::Stopped),
            (State::Stopped, false, false, State::Stopped),
        ] {
            assert_eq!(from.follow(faults, overload), to, "{from:?} {faults} {overload}");
            let settled = to.follow(faults, overload);
            assert_eq!(settled, to, "{from:?} settles");
        }
    }
}
