//! Which state is a flow in, how long may it be silent there, and what does its end mean?
//!
//! The states and transitions are those of the reference system (its public agent of 2022 and its manual). A
//! transition is one load from a table: 17 states, two sides, six classes of flags.

use sluice_model::{CloseType, FlowTimeouts};

/// TCP header flags (RFC 9293 section 3.1).
pub mod flags {
    /// The sender is done.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset.
    pub const RST: u8 = 0x04;
    /// Push.
    pub const PSH: u8 = 0x08;
    /// The acknowledgement number is valid.
    pub const ACK: u8 = 0x10;
    /// The urgent pointer is valid.
    pub const URG: u8 = 0x20;
    /// All of these; the ECN bits left out.
    pub const MASK: u8 = 0x3f;
}
use flags::{ACK, FIN, MASK, PSH, RST, SYN, URG};

/// IP protocol number of TCP.
const TCP: u8 = 6;

/// The state of a flow. Flows that are not TCP are [`FlowState::Established`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FlowState {
    /// Before its first packet.
    #[default]
    Raw,
    /// The client sent SYN.
    Opening1,
    /// The server sent SYN-ACK.
    Opening2,
    /// The server answered a SYN with an ACK.
    Syn1,
    /// The handshake is complete, or was not seen.
    Established,
    /// The server repeats its SYN-ACK although established.
    SynAck1,
    /// The client sent FIN first.
    ClosingTx1,
    /// Then the server.
    ClosingTx2,
    /// The server sent FIN first.
    ClosingRx1,
    /// Then the client.
    ClosingRx2,
    /// The last ACK came.
    Closed,
    /// RST after establishment.
    Reset,
    /// RST in the handshake.
    ResetEstablish,
    /// RST as the answer to SYN.
    ServerReset,
    /// The server's RST after it repeated its SYN-ACK.
    ServerQueueLack,
    /// The client's RST after the server answered its SYN with an ACK.
    ClientPortReuse,
    /// Flags that fit no state.
    Exception,
}

const STATES: usize = FlowState::Exception as usize + 1;

/// Exact combinations of flags that mean the same.
#[derive(Clone, Copy)]
enum Class {
    Syn,
    SynAck,
    /// ACK alone.
    Ack,
    /// ACK with PSH, or PSH and URG.
    AckPush,
    Fin,
    Rst,
    Other,
}

const CLASSES: usize = Class::Other as usize + 1;

const CLASS_OF: [Class; 64] = {
    let mut classes = [Class::Other; 64];
    classes[SYN as usize] = Class::Syn;
    classes[(SYN | ACK) as usize] = Class::SynAck;
    classes[ACK as usize] = Class::Ack;
    classes[(PSH | ACK) as usize] = Class::AckPush;
    classes[(PSH | ACK | URG) as usize] = Class::AckPush;
    classes[FIN as usize] = Class::Fin;
    classes[(FIN | ACK) as usize] = Class::Fin;
    classes[(FIN | PSH | ACK) as usize] = Class::Fin;
    classes[RST as usize] = Class::Rst;
    classes[(RST | ACK) as usize] = Class::Rst;
    classes[(RST | PSH | ACK) as usize] = Class::Rst;
    classes
};

/// What follows in a state on SYN, SYN-ACK, ACK, ACK with PSH, FIN, RST.
type Row = [FlowState; 6];

/// The rows of a state for packets of the client and of the server.
const fn rows(state: FlowState) -> [Row; 2] {
    use FlowState::{
        ClientPortReuse as ClPort, Closed, ClosingRx1 as CRx1, ClosingRx2 as CRx2, ClosingTx1 as CTx1,
        ClosingTx2 as CTx2, Established as Estab, Exception as Excep, Opening1 as Open1, Opening2 as Open2,
        Raw, Reset, ResetEstablish as RstEst, ServerQueueLack as SvQueue, ServerReset as SvRst, Syn1,
        SynAck1 as SyAck1,
    };
    match state {
        Raw => [[Open1, Excep, Estab, Estab, CTx1, Reset], [Open1, Open2, Estab, Estab, CRx1, Reset]],
        Open1 => [[Open1, Excep, Estab, Estab, CTx1, RstEst], [Open1, Open2, Syn1, Syn1, CRx1, SvRst]],
        Open2 => [[Open2, Excep, Estab, Estab, CTx1, RstEst], [Open2, Open2, Estab, Estab, CRx1, RstEst]],
        Syn1 => [[Open1, Excep, Estab, Estab, CTx1, ClPort], [Open1, Open2, Syn1, Syn1, CRx1, RstEst]],
        Estab => [[Estab, Excep, Estab, Estab, CTx1, Reset], [Estab, SyAck1, Estab, Estab, CRx1, Reset]],
        SyAck1 => [[Estab, Excep, SyAck1, SyAck1, CTx1, Reset], [Estab, SyAck1, Estab, Estab, CRx1, SvQueue]],
        CTx1 => [[CTx1, CTx1, CTx1, CTx1, CTx1, Reset], [CTx1, CTx1, CTx1, CTx1, CTx2, Reset]],
        CTx2 => [[CTx2, CTx2, Closed, Excep, CTx2, Reset], [CTx2, CTx2, CTx2, CTx2, CTx2, Reset]],
        CRx1 => [[CRx1, CRx1, CRx1, CRx1, CRx2, Reset], [CRx1, CRx1, CRx1, CRx1, CRx1, Reset]],
        CRx2 => [[CRx2, CRx2, CRx2, CRx2, CRx2, Reset], [CRx2, CRx2, Closed, CRx2, CRx2, Reset]],
        Closed => [[Excep, Excep, Closed, Excep, Excep, Excep]; 2],
        Reset | RstEst | SvRst | SvQueue | ClPort | Excep => [[state; 6]; 2],
    }
}

const ALL: [FlowState; STATES] = {
    use FlowState::{
        ClientPortReuse, Closed, ClosingRx1, ClosingRx2, ClosingTx1, ClosingTx2, Established, Exception,
        Opening1, Opening2, Raw, Reset, ResetEstablish, ServerQueueLack, ServerReset, Syn1, SynAck1,
    };
    [
        Raw,
        Opening1,
        Opening2,
        Syn1,
        Established,
        SynAck1,
        ClosingTx1,
        ClosingTx2,
        ClosingRx1,
        ClosingRx2,
        Closed,
        Reset,
        ResetEstablish,
        ServerReset,
        ServerQueueLack,
        ClientPortReuse,
        Exception,
    ]
};

/// By state, side and class, to a whole line of eight classes each.
static NEXT: [[[FlowState; 8]; 2]; STATES] = {
    let mut next = [[[FlowState::Exception; 8]; 2]; STATES];
    let mut state = 0;
    while state < STATES {
        let rows = rows(ALL[state]);
        let mut side = 0;
        while side < 2 {
            let mut class = 0;
            while class < CLASSES - 1 {
                next[state][side][class] = rows[side][class];
                class += 1;
            }
            side += 1;
        }
        state += 1;
    }
    next
};

impl FlowState {
    /// The state after a packet with these flags.
    #[inline(always)]
    #[must_use]
    pub fn next(self, from_server: bool, tcp_flags: u8) -> Self {
        let class = CLASS_OF[usize::from(tcp_flags & MASK)];
        NEXT[self as usize][usize::from(from_server)][class as usize]
    }

    /// The state with client and server exchanged.
    #[must_use]
    pub const fn reversed(self) -> Self {
        match self {
            Self::ClosingTx1 => Self::ClosingRx1,
            Self::ClosingTx2 => Self::ClosingRx2,
            Self::ClosingRx1 => Self::ClosingTx1,
            Self::ClosingRx2 => Self::ClosingTx2,
            other => other,
        }
    }

    /// Whether a flow that came from `before` into this state ends at once: the last ACK, or RST while closing.
    #[inline(always)]
    #[must_use]
    pub fn ends(self, before: Self) -> bool {
        self == Self::Closed || (self == Self::Reset && matches!(before, Self::ClosingTx2 | Self::ClosingRx2))
    }

    /// Whether nothing more is expected of a flow in this state but what comes late: both sides sent FIN, or one RST.
    #[must_use]
    pub fn is_over(self) -> bool {
        match self {
            Self::Raw
            | Self::Opening1
            | Self::Opening2
            | Self::Syn1
            | Self::SynAck1
            | Self::Established
            | Self::ClosingTx1
            | Self::ClosingRx1
            | Self::ClientPortReuse
            | Self::Exception => false,
            Self::ClosingTx2
            | Self::ClosingRx2
            | Self::Closed
            | Self::Reset
            | Self::ResetEstablish
            | Self::ServerReset
            | Self::ServerQueueLack => true,
        }
    }

    /// How long a flow may be silent in this state, nanoseconds.
    #[must_use]
    pub fn timeout_ns(self, protocol: u8, two_way: bool, timeouts: &FlowTimeouts) -> u64 {
        let seconds = if !two_way {
            timeouts.one_way_s
        } else if protocol != TCP {
            timeouts.other_s
        } else {
            match self {
                Self::Raw | Self::Opening1 | Self::Opening2 | Self::Syn1 => timeouts.opening_s,
                Self::Established | Self::SynAck1 => timeouts.established_s,
                Self::ClosingTx1 | Self::ClosingTx2 | Self::ClosingRx1 | Self::ClosingRx2 => {
                    timeouts.closing_s
                }
                Self::Closed => 0,
                Self::Reset
                | Self::ResetEstablish
                | Self::ServerReset
                | Self::ServerQueueLack
                | Self::ClientPortReuse
                | Self::Exception => timeouts.reset_s,
            }
        };
        u64::from(seconds) * 1_000_000_000
    }

    /// What the end of a flow in this state means. `server_sent_rst`: in the whole flow; `server_packets`: in the whole
    /// flow.
    #[must_use]
    pub fn close_type(self, protocol: u8, server_sent_rst: bool, server_packets: u64) -> CloseType {
        if protocol != TCP {
            return CloseType::Timeout;
        }
        match self {
            Self::Raw | Self::Exception => CloseType::Unknown,
            Self::Opening1 => CloseType::ClientSynRepeat,
            Self::Opening2 => CloseType::ServerSynAckRepeat,
            Self::Syn1 | Self::ClientPortReuse => CloseType::ClientSourcePortReuse,
            Self::Established => CloseType::Timeout,
            Self::ClosingTx2 | Self::ClosingRx2 | Self::Closed => CloseType::TcpFin,
            Self::ClosingTx1 => CloseType::ServerHalfClose,
            Self::ClosingRx1 => CloseType::ClientHalfClose,
            Self::Reset if server_sent_rst => CloseType::TcpServerRst,
            Self::Reset => CloseType::TcpClientRst,
            Self::ResetEstablish if server_sent_rst => CloseType::ServerEstablishOtherRst,
            Self::ResetEstablish => CloseType::ClientEstablishOtherRst,
            Self::ServerReset => CloseType::ServerReset,
            // The reference system's odd case: with few packets the client is blamed for the server's RST.
            Self::ServerQueueLack if server_packets <= 3 => CloseType::TcpClientRst,
            Self::SynAck1 | Self::ServerQueueLack => CloseType::ServerQueueLack,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The transitions as the reference system's description prints them: what applies to any packet, and what replaces
    /// it for one of the server (`-`: nothing).
    const PRINTED: &str = "
        | RAW (common) | OPENING_1 | EXC | ESTABLISHED | CLOSING_TX1 | RESET |
        | RAW (server) | - | OPENING_2 | - | CLOSING_RX1 | - |
        | OPENING_1 (common) | same | EXC | ESTABLISHED | CLOSING_TX1 | RESET_ESTABLISH |
        | OPENING_1 (server) | - | OPENING_2 | SYN_1 | CLOSING_RX1 | SERVER_RESET |
        | OPENING_2 (common) | same | EXC | ESTABLISHED | CLOSING_TX1 | RESET_ESTABLISH |
        | OPENING_2 (server) | - | same | - | CLOSING_RX1 | RESET_ESTABLISH |
        | SYN_1 (common) | OPENING_1 | EXC | ESTABLISHED | CLOSING_TX1 | CLIENT_L4PORT_REUSE |
        | SYN_1 (server) | - | OPENING_2 | same | CLOSING_RX1 | RESET_ESTABLISH |
        | ESTABLISHED (common) | same | EXC | same | CLOSING_TX1 | RESET |
        | ESTABLISHED (server) | - | SYN_ACK_1 | - | CLOSING_RX1 | - |
        | SYN_ACK_1 (common) | ESTABLISHED | EXC | same | CLOSING_TX1 | RESET |
        | SYN_ACK_1 (server) | - | same | ESTABLISHED | CLOSING_RX1 | SERVER_QUEUE_LACK |
        | CLOSING_TX1 (common) | same | same | same | same | RESET |
        | CLOSING_TX1 (server) | - | - | - | CLOSING_TX2 | - |
        | CLOSING_TX2 (common) | same | same | ACK only: CLOSED | same | RESET, end |
        | CLOSING_TX2 (server) | - | - | same | - | - |
        | CLOSING_RX1 (common) | same | same | same | CLOSING_RX2 | RESET |
        | CLOSING_RX1 (server) | - | - | - | same | - |
        | CLOSING_RX2 (common) | same | same | same | same | RESET, end |
        | CLOSING_RX2 (server) | - | - | ACK only: CLOSED | - | - |
        | RESET (common) | same | same | same | same | same |
        | RESET_ESTABLISH (common) | same | same | same | same | same |
        | SERVER_RESET (common) | same | same | same | same | same |
        | SERVER_QUEUE_LACK (common) | same | same | same | same | same |
        | CLIENT_L4PORT_REUSE (common) | same | same | same | same | same |";

    fn named(name: &str) -> FlowState {
        match name {
            "RAW" => FlowState::Raw,
            "OPENING_1" => FlowState::Opening1,
            "OPENING_2" => FlowState::Opening2,
            "SYN_1" => FlowState::Syn1,
            "ESTABLISHED" => FlowState::Established,
            "SYN_ACK_1" => FlowState::SynAck1,
            "CLOSING_TX1" => FlowState::ClosingTx1,
            "CLOSING_TX2" => FlowState::ClosingTx2,
            "CLOSING_RX1" => FlowState::ClosingRx1,
            "CLOSING_RX2" => FlowState::ClosingRx2,
            "CLOSED" => FlowState::Closed,
            "RESET" | "RESET, end" => FlowState::Reset,
            "RESET_ESTABLISH" => FlowState::ResetEstablish,
            "SERVER_RESET" => FlowState::ServerReset,
            "SERVER_QUEUE_LACK" => FlowState::ServerQueueLack,
            "CLIENT_L4PORT_REUSE" => FlowState::ClientPortReuse,
            "EXC" => FlowState::Exception,
            other => panic!("no state {other}"),
        }
    }

    /// The cell of a state for a packet, if it has one.
    fn cell(state: FlowState, side: &str, column: usize) -> Option<&'static str> {
        let rows = PRINTED.lines().filter_map(|line| {
            let cells: Vec<_> = line.trim().trim_matches('|').split('|').map(str::trim).collect();
            let (name, of) = cells[0].strip_suffix(')')?.split_once(" (")?;
            (named(name) == state && of == side).then(|| cells[column + 1])
        });
        rows.into_iter().next()
    }

    fn column(tcp_flags: u8) -> Option<usize> {
        const SETS: [&[u8]; 5] = [
            &[SYN],
            &[SYN | ACK],
            &[ACK, PSH | ACK, PSH | ACK | URG],
            &[FIN, FIN | ACK, FIN | PSH | ACK],
            &[RST, RST | ACK, RST | PSH | ACK],
        ];
        SETS.iter().position(|set| set.contains(&tcp_flags))
    }

    fn expected(state: FlowState, from_server: bool, tcp_flags: u8) -> FlowState {
        let Some(column) = column(tcp_flags) else { return FlowState::Exception };
        let own = if from_server { cell(state, "server", column).filter(|cell| *cell != "-") } else { None };
        // EXCEPTION has no rows: every packet keeps it.
        match own.or_else(|| cell(state, "common", column)) {
            Some("same") => state,
            Some("ACK only: CLOSED") if tcp_flags == ACK => FlowState::Closed,
            // The common row of CLOSING_TX2 names what other ACKs do; that of the server in CLOSING_RX2 leaves them to
            // the common row, which keeps the state.
            Some("ACK only: CLOSED") if from_server => state,
            None | Some("ACK only: CLOSED") => FlowState::Exception,
            Some(name) => named(name),
        }
    }

    #[test]
    fn every_transition_is_the_printed_one() {
        let mut cells = 0;
        for state in ALL.into_iter().filter(|state| *state != FlowState::Closed) {
            for from_server in [false, true] {
                // ECN bits say nothing.
                for tcp_flags in 0..=u8::MAX {
                    let after = state.next(from_server, tcp_flags);
                    let expected = expected(state, from_server, tcp_flags & 0x3f);
                    assert_eq!(after, expected, "{state:?}, server {from_server}, flags {tcp_flags:#x}");
                    cells += 1;
                }
            }
        }
        assert_eq!(cells, 16 * 2 * 256);
    }

    #[test]
    fn a_closed_flow_takes_nothing_but_acks() {
        for tcp_flags in 0..64 {
            let expected = if tcp_flags == ACK { FlowState::Closed } else { FlowState::Exception };
            assert_eq!(FlowState::Closed.next(false, tcp_flags), expected);
            assert_eq!(FlowState::Closed.next(true, tcp_flags), expected);
        }
    }

    #[test]
    fn flows_end_at_the_last_ack_and_at_rst_while_closing() {
        for before in ALL {
            for after in ALL {
                let closing = matches!(before, FlowState::ClosingTx2 | FlowState::ClosingRx2);
                let expected = after == FlowState::Closed || (after == FlowState::Reset && closing);
                assert_eq!(after.ends(before), expected);
            }
        }
    }

    #[test]
    fn timeouts_are_those_of_the_manual() {
        let default = FlowTimeouts::default();
        let seconds = |state: FlowState, protocol, two_way| {
            state.timeout_ns(protocol, two_way, &default) / 1_000_000_000
        };
        let manual = [
            (5, "RAW OPENING_1 OPENING_2 SYN_1 EXC"),
            (5, "RESET RESET_ESTABLISH SERVER_RESET SERVER_QUEUE_LACK CLIENT_L4PORT_REUSE"),
            (300, "ESTABLISHED SYN_ACK_1"),
            (35, "CLOSING_TX1 CLOSING_TX2 CLOSING_RX1 CLOSING_RX2"),
            (0, "CLOSED"),
        ];
        let mut states = 0;
        for (expected, names) in manual {
            for state in names.split(' ').map(named) {
                assert_eq!(seconds(state, TCP, true), expected, "{state:?}");
                assert_eq!(seconds(state, TCP, false), 5, "{state:?}, one way");
                states += 1;
            }
        }
        assert_eq!(states, STATES);
        for protocol in [1, 17, 58] {
            assert_eq!(seconds(FlowState::Established, protocol, true), 35);
            assert_eq!(seconds(FlowState::Established, protocol, false), 5);
        }
        let own = FlowTimeouts { closing_s: 1, other_s: 2, one_way_s: 3, ..default };
        assert_eq!(FlowState::ClosingRx1.timeout_ns(TCP, true, &own), 1_000_000_000);
        assert_eq!(FlowState::Raw.timeout_ns(17, true, &own), 2_000_000_000);
        assert_eq!(FlowState::Established.timeout_ns(TCP, false, &own), 3_000_000_000);
    }

    #[test]
    fn close_types_are_those_of_the_manual() {
        let printed = [
            (0, "EXC"),
            (1, "CLOSING_TX2 CLOSING_RX2 CLOSED"),
            (3, "ESTABLISHED"),
            (7, "OPENING_1"),
            (8, "CLOSING_TX1"),
            (10, "OPENING_2"),
            (11, "CLOSING_RX1"),
            (13, "SYN_1 CLIENT_L4PORT_REUSE"),
            (15, "SERVER_RESET"),
            (17, "SYN_ACK_1"),
        ];
        for (code, names) in printed {
            for state in names.split(' ').map(named) {
                for (rst, packets) in [(false, 1), (true, 9)] {
                    assert_eq!(state.close_type(TCP, rst, packets).code(), code, "{state:?}");
                }
                assert_eq!(state.close_type(17, false, 1).code(), 3, "not TCP");
            }
        }
        assert_eq!(FlowState::Reset.close_type(TCP, true, 9).code(), 2);
        assert_eq!(FlowState::Reset.close_type(TCP, false, 9).code(), 9);
        assert_eq!(FlowState::ResetEstablish.close_type(TCP, false, 9).code(), 18);
        assert_eq!(FlowState::ResetEstablish.close_type(TCP, true, 9).code(), 19);
        assert_eq!(FlowState::ServerQueueLack.close_type(TCP, true, 3).code(), 9);
        assert_eq!(FlowState::ServerQueueLack.close_type(TCP, true, 4).code(), 17);
    }

    #[test]
    fn exchanging_the_sides_twice_changes_nothing() {
        for state in ALL {
            assert_eq!(state.reversed().reversed(), state);
        }
        assert_eq!(FlowState::ClosingTx1.reversed(), FlowState::ClosingRx1);
        assert_eq!(FlowState::ClosingRx2.reversed(), FlowState::ClosingTx2);
    }
}
