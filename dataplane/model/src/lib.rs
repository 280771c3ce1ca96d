//! Plain data of Sluice: policies, destinations, drop reasons, identifiers and units.
//!
//! Nothing here knows DPDK or runs on a worker: these are the words the other crates share. Only [`spec`] reads files.
#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_possible_wrap)
)]

mod api_settings;
mod boot;
mod close_type;
#[cfg(any(test, feature = "contract"))]
pub mod contract;
mod counter_record;
mod decap_settings;
mod dedup_settings;
mod destination;
mod drop_reason;
mod feed_guard;
pub mod fields;
mod flow_record;
mod flow_settings;
mod guest;
mod ids;
mod log_settings;
mod metrics_record;
mod metrics_settings;
mod mirror_settings;
mod ovs_settings;
mod policy;
mod protection_settings;
mod range_set;
mod rate_limit;
pub mod spec;
mod tap_side;
mod tcp_perf;
mod worker_settings;

pub use api_settings::{ApiClient, ApiLimits, ApiRole, ApiSettings, ApiTcp, ApiTls, ApiToken, TokenSecret};
pub use boot::{
    BootConfig, EalSettings, Hugepages, InterfaceAddr, LogLevel, MemorySettings, PortConfig, PortRole,
    PortSpec, PortSpecError, Profile, RxTimestamps,
};
pub use close_type::CloseType;
pub use counter_record::{CounterRecord, CounterScope};
pub use decap_settings::{DecapKind, DecapKinds, DecapMode, DecapSettings, StripVlan};
pub use dedup_settings::{DedupHeaders, DedupKey, DedupMode, DedupSettings};
pub use destination::{
    Destination, DestinationKind, Group, GroupHash, Marking, Member, Oversize, Tunnel, TunnelKind,
    UdpChecksum, VlanFrom,
};
pub use drop_reason::{DropCounts, DropReason};
pub use feed_guard::FeedGuard;
pub use flow_record::{FlowRecord, Network, SideRecord, TunnelRecord, TunnelType};
pub use flow_settings::{ColumnProfile, DelayLimits, FlowSettings, FlowTimeouts, ParquetOutput};
pub use guest::{GuestKind, GuestName, GuestNameError, Guests};
pub use ids::{DestinationId, Generation, MacAddr, PolicyId, PortId, StreamId, Tag};
pub use log_settings::{LogFormat, LogSettings, LogTarget};
pub use metrics_record::{MetricsCounters, MetricsKey, MetricsRecord, Period, Throughput};
pub use metrics_settings::MetricsSettings;
pub use mirror_settings::{MirrorSettings, Tap};
pub use ovs_settings::{OvsDatabase, OvsSettings};
pub use policy::{
    Action, AddressSet, FragmentMatch, HeaderView, Policy, PolicySet, PortSet, ProtocolSet, Side,
    TcpFlagsMatch,
};
pub use protection_settings::{CgroupMode, ProtectionSettings};
pub use range_set::{RangeSet, RangeValue};
pub use rate_limit::{BreakerSettings, RateLimit};
pub use tap_side::TapSide;
pub use tcp_perf::{Delay, SidePerf, TcpPerf};
pub use worker_settings::{DistributorMode, Polling, SpreadBy, WorkerSettings};
