//! What was measured of a flow in one period: delays, losses, windows.

/// Samples of a delay, nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delay {
    /// Their sum.
    pub sum_ns: u64,
    /// The largest.
    pub max_ns: u64,
    /// How many.
    pub count: u32,
}

impl Delay {
    /// Adds a sample, unless it is 0 or above `limit_ns`: such are artefacts, and discarded.
    #[inline]
    pub fn add(&mut self, sample_ns: u64, limit_ns: u64) {
        if sample_ns > 0 && sample_ns <= limit_ns {
            self.sum_ns += sample_ns;
            self.max_ns = self.max_ns.max(sample_ns);
            self.count += 1;
        }
    }

    /// Adds the samples of another period.
    pub fn merge(&mut self, other: &Self) {
        self.sum_ns += other.sum_ns;
        self.max_ns = self.max_ns.max(other.max_ns);
        self.count += other.count;
    }
}

/// What is counted for each direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SidePerf {
    /// Retransmitted segments, those of the handshake included.
    pub retrans: u32,
    /// Segments with an advertised window of 0, RST left out.
    pub zero_win: u32,
    /// Segments below data seen before, that were not seen themselves.
    pub out_of_order: u32,
    /// Segments with SYN (without ACK, or with it).
    pub syn: u32,
    /// Segments with SYN and ACK.
    pub syn_ack: u32,
    /// Segments with FIN.
    pub fin: u32,
    /// Payload bytes of the retransmitted segments.
    pub retrans_bytes: u64,
}

impl SidePerf {
    fn merge(&mut self, other: &Self) {
        self.retrans += other.retrans;
        self.zero_win += other.zero_win;
        self.out_of_order += other.out_of_order;
        self.syn += other.syn;
        self.syn_ack += other.syn_ack;
        self.fin += other.fin;
        self.retrans_bytes += other.retrans_bytes;
    }
}

/// What was measured of a flow in one period. Client first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpPerf {
    /// The whole handshake: the latest of the period, 0 = none.
    pub rtt_ns: u64,
    /// SYN-ACK to the client's ACK.
    pub rtt_client: Delay,
    /// SYN to SYN-ACK.
    pub rtt_server: Delay,
    /// Last request segment to the server's bare ACK.
    pub srt: Delay,
    /// Last request segment (or datagram) to the first of the response.
    pub art: Delay,
    /// Counts by side.
    pub sides: [SidePerf; 2],
}

impl TcpPerf {
    /// Whether nothing was measured.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds what another period of the same flow measured; of the handshakes the longest counts.
    pub fn merge(&mut self, other: &Self) {
        self.rtt_ns = self.rtt_ns.max(other.rtt_ns);
        self.rtt_client.merge(&other.rtt_client);
        self.rtt_server.merge(&other.rtt_server);
        self.srt.merge(&other.srt);
        self.art.merge(&other.art);
        for (own, other) in self.sides.iter_mut().zip(&other.sides) {
            own.merge(other);
        }
    }

    /// Client and server were taken for each other. Delays of requests were those of the other side, and are forgotten.
    pub fn reverse(&mut self) {
        self.sides.swap(0, 1);
        std::mem::swap(&mut self.rtt_client, &mut self.rtt_server);
        (self.srt, self.art) = (Delay::default(), Delay::default());
    }
}
