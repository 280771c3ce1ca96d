//! Every metric, declared once: its name, kind, labels and what it means. Text formats and docs come from here.

macro_rules! metrics {
    ($($variant:ident = $name:literal $kind:ident [$($label:ident),*] $help:literal;)+) => {
        /// One family of metrics.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Metric {
            $(#[doc = $help] $variant,)+
        }

        impl Metric {
            /// Every family, in the order of the output.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The name of the family: with the unit, without the suffix that its kind adds.
            #[must_use]
            pub const fn family(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }

            /// What it is.
            #[must_use]
            pub const fn kind(self) -> Kind {
                match self {
                    $(Self::$variant => Kind::$kind,)+
                }
            }

            /// The names of its labels, in their order.
            #[must_use]
            pub const fn labels(self) -> &'static [&'static str] {
                match self {
                    $(Self::$variant => &[$(stringify!($label)),*],)+
                }
            }

            /// What it means, in a sentence.
            #[must_use]
            pub const fn help(self) -> &'static str {
                match self {
                    $(Self::$variant => $help,)+
                }
            }
        }
    };
}

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows, from zero at the start of the daemon; samples end with `_total`.
    Counter,
    /// It goes up and down.
    Gauge,
    /// How many values were at most so large, since the start.
    Histogram,
    /// Words about the daemon; the value is 1, the name ends with `_info`.
    Info,
}

impl Kind {
    /// The name in text format 0.0.4 (and docs).
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge | Self::Info => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// Units that names may end with.
const UNITS: [&str; 4] = ["bytes", "packets", "seconds", "bytes_per_second"];

impl Metric {
    /// The name as queries write it; a histogram's is followed by `_bucket`, `_sum` or `_count`.
    #[must_use]
    pub fn name(self) -> String {
        let suffix = match self.kind() {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Gauge | Kind::Histogram => "",
        };
        format!("{}{suffix}", self.family())
    }

    /// The unit that ends the name, if it is one.
    #[must_use]
    pub fn unit(self) -> Option<&'static str> {
        let ends = |unit: &&str| self.family().strip_suffix(unit).is_some_and(|rest| rest.ends_with('_'));
        UNITS.into_iter().find(ends)
    }
}

metrics! {
    Build = "sluice_build" Info [version] "The version of the daemon.";
    State = "sluice_state" Gauge [state] "Whether the appliance is in this state: 1 or 0.";
    Exceptions = "sluice_exceptions" Gauge [code] "What is wrong now: how many exceptions there are of this code.";
    CpuCores = "sluice_cpu_cores" Gauge [] "Processor time over the last interval, in cores; of cores that poll, what they spent on packets.";
    CpuLimitCores = "sluice_cpu_limit_cores" Gauge [] "The limit of it; 0 = none.";
    MemoryBytes = "sluice_memory_bytes" Gauge [] "Memory of the process, hugepages included.";
    MemoryLimitBytes = "sluice_memory_limit_bytes" Gauge [] "The limit of it; 0 = none.";
    PolicyGeneration = "sluice_policy_generation" Gauge [] "The generation of policies that all workers use.";
    Policies = "sluice_policies" Gauge [] "Policies in force.";
    Destinations = "sluice_destinations" Gauge [] "Destinations in force, groups included.";

    RxPackets = "sluice_rx_packets" Counter [] "Packets that drivers handed over, control packets left out.";
    RxBytes = "sluice_rx_bytes" Counter [] "Their original lengths, without FCS.";
    TxPackets = "sluice_tx_packets" Counter [] "Packets that ports accepted and files hold.";
    TxBytes = "sluice_tx_bytes" Counter [] "Their lengths, as sent.";
    ReplicaPackets = "sluice_replica_packets" Counter [] "Copies of a packet after its first, fragments and segments of a copy after its first.";
    DroppedPackets = "sluice_dropped_packets" Counter [reason, intentional] "Packets and copies that were not sent; intentional is true where an operator asked for it.";
    HeldPackets = "sluice_held_packets" Gauge [] "Packets between a distributor and a worker, or handed to the file writer and not yet written.";
    ImbalancePackets = "sluice_imbalance_packets" Gauge [] "Self-check: rx + replicas - tx - drops - held of the whole and of each thread, the largest difference; anything but 0 is a fault of Sluice.";
    LostBeforeRxPackets = "sluice_lost_before_rx_packets" Counter [] "Packets lost before a driver handed them over, of all ports.";
    FilePackets = "sluice_file_packets" Counter [] "Packets handed to the thread that writes capture files.";
    TruncatedPackets = "sluice_truncated_packets" Counter [] "Copies cut to the MTU of their destination.";
    UnmatchedFragmentPackets = "sluice_unmatched_fragment_packets" Counter [] "Later IP fragments whose first one was not seen: policies with ports did not match them.";
    DecapsulatedPackets = "sluice_decapsulated_packets" Counter [] "Packets that tunnels were taken off, or that were looked through.";
    NotDecapsulatedPackets = "sluice_not_decapsulated_packets" Counter [reason] "Packets with a tunnel that was left on, by what was in the way.";
    VlanStrippedPackets = "sluice_vlan_stripped_packets" Counter [] "Packets that VLAN tags were taken off.";
    MarksStrippedPackets = "sluice_marks_stripped_packets" Counter [] "Packets that the mark of their tap was taken off.";
    MarksUnknownPackets = "sluice_marks_unknown_packets" Counter [] "Packets marked with the VLAN id of no tap: they are of the tap of their port.";
    CtrlRxPackets = "sluice_ctrl_rx_packets" Counter [] "ARP, ND and echo received for our own addresses.";
    CtrlTxPackets = "sluice_ctrl_tx_packets" Counter [] "ARP, ND and echo that we sent ourselves.";
    CtrlLostPackets = "sluice_ctrl_lost_packets" Counter [] "Control packets lost because the queue to or from the control thread was full.";
    DuplicatePackets = "sluice_duplicate_packets" Counter [] "Packets seen before within the deduplication window, dropped or only counted.";
    DuplicateBytes = "sluice_duplicate_bytes" Counter [] "Their original lengths.";
    DedupEvictedPackets = "sluice_dedup_evicted_packets" Counter [] "Packets forgotten before the window was over, as the table was full: their duplicates pass.";
    DedupPairPackets = "sluice_dedup_pair_packets" Counter [first, second] "Duplicates by the ports that the first copy and the duplicate came in by; (others) are the ports beyond 63.";

    PortUp = "sluice_port_up" Gauge [port] "Whether the link is up: 1 or 0.";
    PortRxPackets = "sluice_port_rx_packets" Counter [port] "Packets that the device received, as far as it tells.";
    PortRxBytes = "sluice_port_rx_bytes" Counter [port] "Bytes that the device received, without FCS, as far as it tells.";
    PortTxPackets = "sluice_port_tx_packets" Counter [port] "Packets that the device sent.";
    PortTxBytes = "sluice_port_tx_bytes" Counter [port] "Bytes that the device sent, without FCS.";
    PortLostBeforeRxPackets = "sluice_port_lost_before_rx_packets" Counter [port] "Packets lost before they reached a worker.";
    PortTxErrors = "sluice_port_tx_errors" Counter [port] "Packets that the device accepted and then failed to send.";
    PortRxCutPackets = "sluice_port_rx_cut_packets" Counter [port] "Frames received shorter than they were on the wire (snap length).";
    PortRxSuperFrames = "sluice_port_rx_super_frames" Counter [port] "Super-frames received, which segmentation offloads made.";
    PortDevice = "sluice_port_xstats" Counter [port, counter] "What the device counts, by the names of its driver, or of the kernel for an interface of its own; those that ever counted.";
    PortChecksumsFinished = "sluice_port_finished_checksums" Counter [port] "Checksums completed that the sender had left to its NIC.";
    PortRxUnstampedPackets = "sluice_port_rx_unstamped_packets" Counter [port] "Packets without a believable time stamp of the NIC, where it stamps: they have the time of their batch.";
    PortBreakerOpen = "sluice_port_breaker_open" Gauge [port] "Whether distribution by the port is stopped: 1 or 0.";
    PortBreakerOpened = "sluice_port_breaker_openings" Counter [port] "How often it was stopped.";
    PortEgress = "sluice_port_egress_bytes_per_second" Gauge [port] "The average egress rate of the interface over the last interval of the breaker, whoever sent.";

    TapPackets = "sluice_tap_packets" Counter [tap] "Packets that came from the tap; (others) are the taps that have no name.";
    TapBytes = "sluice_tap_bytes" Counter [tap] "Their original lengths, with the marks that were on them.";
    TapDuplicatePackets = "sluice_tap_duplicate_packets" Counter [tap] "Those of them that were seen before within the deduplication window, from this tap or another.";

    PolicyMatchedPackets = "sluice_policy_matched_packets" Counter [policy] "Packets that the policy matched.";
    PolicyMatchedBytes = "sluice_policy_matched_bytes" Counter [policy] "Their original lengths.";
    PolicySentPackets = "sluice_policy_sent_packets" Counter [policy] "Copies sent; one that several policies share counts for each.";
    PolicyDroppedPackets = "sluice_policy_dropped_packets" Counter [policy, reason] "Copies not sent; reasons appear once they happen.";

    DestinationSentPackets = "sluice_destination_sent_packets" Counter [destination] "Frames sent, fragments and segments each counted.";
    DestinationSentBytes = "sluice_destination_sent_bytes" Counter [destination] "Their lengths, as sent.";
    DestinationTruncatedPackets = "sluice_destination_truncated_packets" Counter [destination] "Copies cut to the MTU.";
    DestinationDroppedPackets = "sluice_destination_dropped_packets" Counter [destination, reason] "Copies not sent; reasons appear once they happen.";
    GroupSentPackets = "sluice_group_sent_packets" Counter [group] "Frames sent that came by the group; its members count them, too.";
    GroupSentBytes = "sluice_group_sent_bytes" Counter [group] "Their lengths, as sent.";
    GroupTruncatedPackets = "sluice_group_truncated_packets" Counter [group] "Copies that came by the group and were cut to the MTU.";
    GroupDroppedPackets = "sluice_group_dropped_packets" Counter [group, reason] "Copies not sent; reasons appear once they happen.";
    GroupAwayMembers = "sluice_group_away_members" Gauge [group] "Members that are away.";

    Tunnels = "sluice_tunnels" Gauge [kind] "Numbered tunnels that came in.";
    TunnelRxPackets = "sluice_tunnel_rx_packets" Counter [kind] "Packets of numbered tunnels, as their receiver counts them.";
    TunnelLostPackets = "sluice_tunnel_lost_packets" Gauge [kind] "Numbers that never came; a late packet takes one back.";
    TunnelReorderedPackets = "sluice_tunnel_reordered_packets" Counter [kind] "Packets that came after one with a higher number.";
    TunnelDuplicatePackets = "sluice_tunnel_duplicate_packets" Counter [kind] "Packets whose number had come before.";
    TunnelRestarts = "sluice_tunnel_restarts" Counter [kind] "How often a sender began to count anew.";
    TunnelUnmeteredPackets = "sluice_tunnel_unmetered_packets" Counter [] "Packets of numbered tunnels for which there was no room.";

    ThreadRxPackets = "sluice_thread_rx_packets" Counter [thread] "Packets that the worker or distributor received; behind a distributor they count at both.";
    ThreadRxBytes = "sluice_thread_rx_bytes" Counter [thread] "Their original lengths, without FCS.";
    ThreadTxPackets = "sluice_thread_tx_packets" Counter [thread] "Packets that ports accepted from the worker.";
    ThreadTxBytes = "sluice_thread_tx_bytes" Counter [thread] "Their lengths, as sent.";
    ThreadReplicaPackets = "sluice_thread_replica_packets" Counter [thread] "Copies after the first of a packet, fragments and segments after the first of a copy.";
    ThreadFilePackets = "sluice_thread_file_packets" Counter [thread] "Packets that the worker handed to the file writer.";
    ThreadToWorkersPackets = "sluice_thread_to_workers_packets" Counter [thread] "Packets that the distributor handed to workers.";
    ThreadFromDistributorsPackets = "sluice_thread_from_distributors_packets" Counter [thread] "Of the packets that the worker received, those that came from distributors.";
    ThreadDuplicatePackets = "sluice_thread_duplicate_packets" Counter [thread] "Packets seen before within the deduplication window.";
    ThreadDedupEvictedPackets = "sluice_thread_dedup_evicted_packets" Counter [thread] "Packets forgotten before the window was over.";
    ThreadCtrlLostPackets = "sluice_thread_ctrl_lost_packets" Counter [thread] "Control packets lost because a queue was full.";
    ThreadDroppedPackets = "sluice_thread_dropped_packets" Counter [thread, reason] "Packets and copies that the thread did not send; reasons appear once they happen.";
    ThreadSleeps = "sluice_thread_sleeps" Counter [thread] "Times that the thread slept, as nothing came.";
    ThreadIdlePolls = "sluice_thread_idle_polls" Counter [thread] "Polls that brought nothing.";
    ThreadPollPackets = "sluice_thread_poll_packets" Histogram [thread] "Packets that a poll brought, of every poll that brought some.";
    ThreadBatchPackets = "sluice_thread_batch_packets" Histogram [thread] "Packets in a batch; one batch of 32 is looked at.";
    ThreadDelay = "sluice_thread_delay_seconds" Histogram [thread] "From the reception of a batch's first packet to the hand-over of its last copy, right to 1 %; one batch of 32 is timed.";
    StagePackets = "sluice_stage_packets" Counter [thread, stage] "Packets that entered the stage.";
    StageBatches = "sluice_stage_batches" Counter [thread, stage] "Batches that entered it.";
    StageCycles = "sluice_stage_cycles" Counter [thread, stage] "Cycles of the time stamp counter spent in it.";

    FlowEntries = "sluice_flow_entries" Gauge [thread] "Flows in the table now.";
    FlowTableEntries = "sluice_flow_table_entries" Gauge [thread] "Flows that the table holds at most.";
    FlowsCreated = "sluice_flow_created_flows" Counter [thread] "Flows that began.";
    FlowTableFullPackets = "sluice_flow_table_full_packets" Counter [thread] "Packets forwarded and not metered, as the table was full.";
    FlowVerdictsKept = "sluice_flow_verdict_kept_packets" Counter [thread] "Packets whose verdict was kept with their flow: not classified.";
    FlowRecords = "sluice_flow_records" Counter [thread] "Flow records handed over.";
    FlowRecordsLost = "sluice_flow_lost_records" Counter [thread] "Flow records lost, as the ring was full.";
    FlowMetrics = "sluice_flow_metrics" Counter [thread] "Rows of metrics handed over.";
    FlowMetricsLost = "sluice_flow_lost_metrics" Counter [thread] "Rows of metrics lost, as the ring was full.";
    FlowMetricsOverflows = "sluice_flow_metrics_overflows" Counter [thread] "Times that something went to the row of the rest, as the table of metrics was full.";
    FlowMetricsLate = "sluice_flow_metrics_late" Counter [thread] "Times that something came after its second was handed out.";
    FlowRangesExhausted = "sluice_flow_ranges_exhausted" Counter [thread] "Times that a direction with holes found no memory for them: its retransmissions are uncertain.";
    RingEntries = "sluice_ring_entries" Gauge [thread, ring] "Records that wait in the ring out of the worker.";
    RingSlots = "sluice_ring_slots" Gauge [thread, ring] "Records that the ring holds at most.";

    ParquetWriting = "sluice_parquet_writing" Gauge [] "Whether records are written to Parquet files: 1, or 0 while writing fails.";
    ParquetNoSpace = "sluice_parquet_no_space" Gauge [] "Whether writing stopped because the disk is full, or nearly: 1 or 0.";
    ParquetStops = "sluice_parquet_stops" Counter [] "How often writing stopped.";
    ParquetWriteErrors = "sluice_parquet_write_errors" Counter [] "Attempts to write that failed.";
    ParquetTakenRecords = "sluice_parquet_taken_records" Counter [table] "Records that came: written + sampled out + lost + pending.";
    ParquetWrittenRecords = "sluice_parquet_written_records" Counter [table] "Records in whole files.";
    ParquetSampledOutRecords = "sluice_parquet_sampled_out_records" Counter [table] "Records above the cap, which the uniform sample left out.";
    ParquetLostRecords = "sluice_parquet_lost_records" Counter [table] "Records that could not be written.";
    ParquetPendingRecords = "sluice_parquet_pending_records" Gauge [table] "Records that wait for their file to be whole: what a crash would lose.";
    ParquetFiles = "sluice_parquet_files" Counter [table] "Whole files.";
    ParquetWrittenBytes = "sluice_parquet_written_bytes" Counter [table] "Their bytes.";
    ParquetKeptBytes = "sluice_parquet_kept_bytes" Gauge [] "Bytes of all whole files in the folder.";
    ParquetRemovedFiles = "sluice_parquet_removed_files" Counter [] "Files removed for their age, or for the size of all.";
    ParquetRemovedBytes = "sluice_parquet_removed_bytes" Counter [] "Their bytes.";
    ParquetRemoveErrors = "sluice_parquet_remove_errors" Counter [] "Attempts to remove a file that failed; each minute it is tried again.";
    ParquetCrashLost = "sluice_parquet_crash_lost_records" Gauge [] "Records that killed runs took and did not bring into whole files, since the folder was made.";

    Captures = "sluice_captures" Gauge [] "Live captures that run.";
    CapturePackets = "sluice_capture_packets" Counter [] "Packets handed to readers of live captures.";
    CaptureLostPackets = "sluice_capture_lost_packets" Counter [] "Packets that live captures left out, as their reader was too slow; traffic does not wait for it.";

    MbufsTaken = "sluice_taken_mbufs" Gauge [] "Packet buffers in use, those that wait in drivers to be received into included.";
    Mbufs = "sluice_mbufs" Gauge [] "Packet buffers that there are.";
    ClockSteps = "sluice_clock_steps" Counter [] "How often the system clock was found more than a second away from ours.";
    ClockError = "sluice_clock_error_seconds" Gauge [] "The last difference between the two.";

    ProcessCpu = "process_cpu_seconds" Counter [] "CPU time of the process, user and system; workers that poll always take all of theirs.";
    ProcessResident = "process_resident_memory_bytes" Gauge [] "Memory of the process in RAM, hugepages left out.";
    ProcessVirtual = "process_virtual_memory_bytes" Gauge [] "Address space of the process.";
    ProcessStart = "process_start_time_seconds" Gauge [] "When the process started, since the epoch.";
    ProcessThreads = "process_threads" Gauge [] "Threads of the process.";
    ProcessOpenFds = "process_open_fds" Gauge [] "File descriptors that are open.";
    ProcessMaxFds = "process_max_fds" Gauge [] "File descriptors that may be open.";

    ApiOpenConnections = "sluice_api_connections" Gauge [transport] "Connections to the API that are open.";
    ApiConnections = "sluice_api_accepted_connections" Counter [transport] "Connections to the API that were let in.";
    ApiRequests = "sluice_api_requests" Counter [role] "Requests to the API that were let in, by the role of who asked.";
    ApiRefusals = "sluice_api_refusals" Counter [reason] "Connections and requests that the API refused.";

    OvsConnected = "sluice_ovs_connected" Gauge [] "Whether the database of Open vSwitch is connected: 1, or 0 while names stand for what it told last.";
    OvsAway = "sluice_ovs_away_seconds" Gauge [] "For how long it has been away; 0 = it is connected.";
    OvsConnects = "sluice_ovs_connects" Counter [] "How often it was connected.";
    OvsUpdates = "sluice_ovs_updates" Counter [] "How often what it tells of interfaces changed.";
    OvsNames = "sluice_ovs_names" Gauge [kind] "Names that policies may use: of virtual machines (vm) and of ports (port).";
    OvsApplies = "sluice_ovs_applies" Counter [result] "How often policies were put in force anew, as their names had come to stand for something else: done or failed.";
    OvsSilentNames = "sluice_ovs_silent_names" Gauge [] "Names in the policies in force that stand for no address, and match nothing.";

    HttpRequests = "sluice_http_requests" Counter [page, status] "Requests that were answered; pages that there are not count as other.";
    HttpLostConnections = "sluice_http_lost_connections" Counter [why] "Connections closed to make room for newer ones (evicted), and those that ended in garbage, silence or the middle (broken).";
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_and_helps_follow_the_rules() {
        let mut names = HashSet::new();
        for &metric in Metric::ALL {
            let (family, help) = (metric.family(), metric.help());
            assert!(names.insert(family), "{family} twice");
            let prefixed = family.starts_with("sluice_") || family.starts_with("process_");
            let snake = family.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
            assert!(prefixed && snake && !family.contains("__"), "{family}");
            assert!(
                !["_total", "_info", "_count", "_sum", "_bucket"].iter().any(|end| family.ends_with(end))
            );
            // The two text formats quote these differently.
            assert!(help.ends_with('.') && !help.contains(['"', '\\', '\n', '|']), "{family}: {help}");
            assert!(metric.labels().len() <= 2, "{family}");
        }
    }
}
