//! Lists of addresses: which addresses does `["10.0.0.0/8", "@clients"]` name?

use std::net::IpAddr;

use crate::{AddressSet, GuestKind, GuestName, GuestNameError, MacAddr};

use super::source::{At, Report, Span, quote};

/// One element of an address list.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Element<'d> {
    V4(u32, u32),
    V6(u128, u128),
    Mac(MacAddr),
    Group(&'d str),
    Guest(GuestName),
}

/// What an address list names: its own members, and groups.
#[derive(Debug, Default)]
pub(super) struct AddressList<'d> {
    /// The members that are given in the list itself.
    pub(super) own: AddressSet,
    /// The groups that are named, each once.
    pub(super) groups: Vec<At<&'d str>>,
}

/// Reads a list; reports what is wrong in it, and members that another member already holds.
pub(super) fn address_list<'d>(items: &[At<&'d str>], field: &str, report: &Report<'_>) -> AddressList<'d> {
    let mut list = AddressList::default();
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for (i, item) in items.iter().enumerate() {
        match element(item.value.trim()) {
            Ok(Element::V4(low, high)) => v4.push((low, high, i)),
            Ok(Element::V6(low, high)) => v6.push((low, high, i)),
            Ok(Element::Mac(mac)) => list.own.macs.push(mac),
            Ok(Element::Group(name)) => list.groups.push(At { value: name, span: item.span.clone() }),
            Ok(Element::Guest(name)) => list.own.guests.push(name),
            Err(problem) => report.error(&item.span, field, problem.reason, problem.suggestion),
        }
    }
    overlaps(&mut v4, items, field, report);
    overlaps(&mut v6, items, field, report);
    list.own.ipv4 = v4.iter().map(|&(low, high, _)| low..=high).collect();
    list.own.ipv6 = v6.iter().map(|&(low, high, _)| low..=high).collect();
    list.own.macs.sort_unstable();
    list.own.macs.dedup();
    list.own.guests.sort_unstable();
    list.own.guests.dedup();
    list
}

/// Why text is no address, and what to write instead.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) reason: String,
    pub(super) suggestion: Option<String>,
}

impl Problem {
    fn new(reason: String, suggestion: impl Into<String>) -> Self {
        Self { reason, suggestion: Some(suggestion.into()) }
    }
}

/// An address and its prefix length: `192.0.2.1/24`. Host bits may be set.
pub(super) fn interface_address(text: &str) -> Result<(IpAddr, u8), Problem> {
    let Some((address, prefix)) = text.split_once('/') else {
        let suggestion = format!("write {text}/24, with the length of the network prefix");
        return Err(Problem::new(format!("{} has no prefix length", quote(text)), suggestion));
    };
    let address: IpAddr = address.parse().map_err(|_| no_address(address))?;
    Ok((address, prefix_len(prefix, bits(address), text)?))
}

fn element(text: &str) -> Result<Element<'_>, Problem> {
    if let Some(name) = text.strip_prefix('@') {
        return Ok(Element::Group(name));
    }
    if let Some(name) = GuestName::of(text) {
        return name.map(Element::Guest).map_err(|why| no_guest(text, why));
    }
    if let Some(meant) = in_small_letters(text) {
        return Err(Problem::new(
            format!("{} is no address", quote(text)),
            format!("write {}", quote(&meant)),
        ));
    }
    if let Ok(mac) = text.parse::<MacAddr>() {
        return Ok(Element::Mac(mac));
    }
    if let Some((network, prefix)) = text.split_once('/') {
        return cidr(network, prefix, text);
    }
    if let Some((low, high)) = text.split_once('-') {
        let (low, high) = (low.trim(), high.trim());
        let low: IpAddr = low.parse().map_err(|_| no_address(low))?;
        let high: IpAddr = high.parse().map_err(|_| no_address(high))?;
        return address_range(low, high);
    }
    match text.parse().map_err(|_| no_address(text))? {
        IpAddr::V4(address) => Ok(Element::V4(address.to_bits(), address.to_bits())),
        IpAddr::V6(address) => Ok(Element::V6(address.to_bits(), address.to_bits())),
    }
}

fn cidr<'d>(network: &str, prefix: &str, text: &str) -> Result<Element<'d>, Problem> {
    let address: IpAddr = network.parse().map_err(|_| no_address(network))?;
    let prefix = prefix_len(prefix, bits(address), text)?;
    let (element, first): (Element<'d>, IpAddr) = match address {
        IpAddr::V4(address) => {
            let hosts = u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
            let low = address.to_bits() & !hosts;
            (Element::V4(low, low | hosts), std::net::Ipv4Addr::from(low).into())
        }
        IpAddr::V6(address) => {
            let hosts = u128::MAX.checked_shr(prefix.into()).unwrap_or(0);
            let low = address.to_bits() & !hosts;
            (Element::V6(low, low | hosts), std::net::Ipv6Addr::from(low).into())
        }
    };
    if first == address {
        return Ok(element);
    }
    let suggestion = format!("write {first}/{prefix} for the network, or {address} for the one host");
    Err(Problem::new(format!("bad CIDR {}: bits are set after the prefix", quote(text)), suggestion))
}

fn prefix_len(prefix: &str, bits: u8, text: &str) -> Result<u8, Problem> {
    let digits = !prefix.is_empty() && prefix.bytes().all(|b| b.is_ascii_digit());
    if let Some(len) = prefix.parse().ok().filter(|&len: &u8| digits && len <= bits) {
        return Ok(len);
    }
    let mask = prefix.parse::<std::net::Ipv4Addr>().ok().map(u32::from);
    let suggestion = match mask {
        Some(mask) if bits == 32 && mask.leading_ones() + mask.trailing_zeros() == 32 => {
            format!("write the prefix length, /{}", mask.leading_ones())
        }
        _ => format!("the prefix length may be 0 to {bits}"),
    };
    Err(Problem::new(format!("bad CIDR {}: bad prefix length", quote(text)), suggestion))
}

fn address_range<'d>(low: IpAddr, high: IpAddr) -> Result<Element<'d>, Problem> {
    let range = match (low, high) {
        (IpAddr::V4(low), IpAddr::V4(high)) => Element::V4(low.to_bits(), high.to_bits()),
        (IpAddr::V6(low), IpAddr::V6(high)) => Element::V6(low.to_bits(), high.to_bits()),
        _ => {
            let reason = format!("the range {low}-{high} mixes IPv4 and IPv6");
            return Err(Problem::new(reason, "give both ends in one family"));
        }
    };
    if low > high {
        return Err(Problem::new(format!("reversed range {low}-{high}"), format!("write {high}-{low}")));
    }
    Ok(range)
}

fn no_address(text: &str) -> Problem {
    let suggestion = if text.contains('%') {
        "leave out the zone after %".to_owned()
    } else if matches!(text, "any" | "*" | "all" | "") {
        "leave the list out for any address".to_owned()
    } else if text.split('.').count() == 4
        && text.split('.').any(|part| part.len() > 1 && part.starts_with('0'))
    {
        "write the numbers without leading zeros".to_owned()
    } else {
        "write an address, a network as 10.0.0.0/8, a range as 10.0.0.1-10.0.0.9, a MAC address, @GROUP, vm:NAME \
         or port:NAME"
            .to_owned()
    };
    Problem::new(format!("{} is no address", quote(text)), suggestion)
}

/// The name that was meant, where what stands before it is in capitals.
fn in_small_letters(text: &str) -> Option<String> {
    GuestKind::ALL.into_iter().find_map(|kind| {
        let (before, name) = text.split_at_checked(kind.prefix().len())?;
        before.eq_ignore_ascii_case(kind.prefix()).then(|| format!("{}{name}", kind.prefix()))
    })
}

fn no_guest(text: &str, why: GuestNameError) -> Problem {
    let suggestion = "write vm: and the name or id of a virtual machine, or port: and the name of a port or interface of \
                      the switch";
    Problem::new(format!("{} is no name: {why}", quote(text)), suggestion)
}

const fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// Ranges that share addresses are errors (somebody counted wrong); networks and hosts inside one another are
/// warnings (inventories are like that, and the union is clear).
fn overlaps<T: Copy + Ord>(
    ranges: &mut [(T, T, usize)],
    items: &[At<&str>],
    field: &str,
    report: &Report<'_>,
) {
    ranges.sort_unstable_by_key(|&(low, high, i)| (low, std::cmp::Reverse(high), i));
    let mut widest: Option<(T, usize)> = None;
    for &mut (low, high, i) in ranges {
        if let Some((wide_high, wide)) = widest
            && low <= wide_high
            && let (Some(a), Some(b)) = (items.get(wide.min(i)), items.get(wide.max(i)))
        {
            let is_range = |item: &At<&str>| item.value.contains('-');
            let (first, second) = (a.value.trim(), b.value.trim());
            if first == second {
                let suggestion = "remove one of them".to_owned();
                report.warning(&b.span, field, format!("{first} is given twice"), suggestion);
            } else if is_range(a) || is_range(b) {
                let suggestion =
                    "let the ranges meet without sharing addresses, or write one for both".to_owned();
                report.error(&b.span, field, format!("{second} overlaps {first}"), suggestion);
            } else if let (Some(inner), Some(outer)) = (items.get(i), items.get(wide)) {
                let reason = format!("{} is already in {}", inner.value.trim(), outer.value.trim());
                report.warning(&inner.span, field, reason, "remove it".to_owned());
            }
        }
        if widest.is_none_or(|(wide_high, _)| high > wide_high) {
            widest = Some((high, i));
        }
    }
}

/// Whether an address can be the end of a tunnel; the reason if not.
pub(super) fn unicast_problem(address: IpAddr) -> Option<&'static str> {
    let this_network = matches!(address, IpAddr::V4(v4) if v4.octets()[0] == 0);
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    if address.is_unspecified() || this_network {
        Some("the zero address cannot be the end of a tunnel")
    } else if address.is_multicast() {
        Some("a multicast address cannot be the end of a tunnel")
    } else if broadcast {
        Some("the broadcast address cannot be the end of a tunnel")
    } else {
        None
    }
}

/// An IP address, reported when it is none or cannot be the end of a tunnel.
pub(super) fn unicast(text: &str, span: &Span, field: &str, report: &Report<'_>) -> Option<IpAddr> {
    let Ok(address) = text.trim().parse::<IpAddr>() else {
        let reason = format!("{} is no IP address", quote(text));
        let suggestion = "write an address such as 192.0.2.10 or 2001:db8::10; names are not resolved";
        report.error(span, field, reason, suggestion.to_owned());
        return None;
    };
    if let Some(reason) = unicast_problem(address) {
        report.error(span, field, reason, "write the unicast address of the tool".to_owned());
        return None;
    }
    Some(address)
}
