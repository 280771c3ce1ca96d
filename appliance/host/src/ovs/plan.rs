//! What has to be done to the switch: one transaction of `ovs-vsctl`, worked out beforehand.

use super::table::{Bridge, MARK, Snapshot};
use super::{Attached, OvsError};

/// What is to be mirrored, and where to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The bridge.
    pub bridge: String,
    /// The name of the new port.
    pub port: String,
    /// The name of the new mirror.
    pub mirror: String,
    /// The socket that Sluice listens on: an absolute path.
    pub socket: String,
    /// The MTU of the new port, bytes: longer packets are not mirrored.
    pub mtu: u16,
    /// What is mirrored.
    pub select: Select,
}

/// What is mirrored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Select {
    /// Every packet of the bridge.
    All,
    /// What comes from or goes to these ports.
    Ports(Vec<String>),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing: it is so already.
    Nothing(Attached),
    /// This transaction, as arguments for `ovs-vsctl`.
    Transaction(Vec<String>),
}

/// What has to be done for a wish.
///
/// # Errors
/// Why it cannot be had.
pub fn attach(snapshot: &Snapshot, wish: &Wish) -> Result<Step, OvsError> {
    valid(wish)?;
    let bridge = snapshot.bridge(&wish.bridge)?;
    if let Some(attached) = snapshot.attached_to(bridge) {
        not_shared(snapshot, bridge)?;
        return match difference(&attached, wish) {
            _ if !attached.is_whole() => Err(OvsError::Incomplete(wish.bridge.clone())),
            Some(difference) => Err(OvsError::Differs { bridge: wish.bridge.clone(), difference }),
            None => Ok(Step::Nothing(attached)),
        };
    }
    if bridge.datapath_type != "netdev" {
        let datapath = if bridge.datapath_type.is_empty() { "system" } else { &bridge.datapath_type };
        return Err(OvsError::NotNetdev { bridge: wish.bridge.clone(), datapath: datapath.to_owned() });
    }
    let wanted =
        snapshot.other_config.get("dpdk-init").is_some_and(|value| value == "true" || value == "try");
    let typed = snapshot.iface_types.is_empty() || snapshot.iface_types.iter().any(|kind| kind == KIND);
    if snapshot.dpdk_initialized == Some(false) || !wanted || !typed {
        return Err(OvsError::NoDpdk { wanted });
    }
    let named = |name: &str| name == wish.port;
    if snapshot.ports.iter().any(|port| named(&port.name))
        || snapshot.interfaces.iter().any(|interface| named(&interface.name))
        || snapshot.bridges.iter().any(|bridge| named(&bridge.name))
    {
        return Err(OvsError::PortTaken(wish.port.clone()));
    }
    if snapshot.mirrors_of(bridge).any(|mirror| mirror.name == wish.mirror) {
        return Err(OvsError::MirrorTaken { bridge: wish.bridge.clone(), mirror: wish.mirror.clone() });
    }
    let same_socket = |options: &std::collections::BTreeMap<String, String>| {
        options.get("vhost-server-path").is_some_and(|socket| *socket == wish.socket)
    };
    if let Some(taken) = snapshot.interfaces.iter().find(|interface| same_socket(&interface.options)) {
        return Err(OvsError::SocketTaken { socket: wish.socket.clone(), port: taken.name.clone() });
    }
    transaction(snapshot, bridge, wish).map(Step::Transaction)
}

/// The type of our interface.
const KIND: &str = "dpdkvhostuserclient";

fn transaction(snapshot: &Snapshot, bridge: &Bridge, wish: &Wish) -> Result<Vec<String>, OvsError> {
    let (key, value) = MARK;
    let Wish { port, mirror, socket, mtu, .. } = wish;
    let mut words = Vec::new();
    let mut command = |command: &[&str]| {
        words.push("--".to_owned());
        words.extend(command.iter().map(|&word| word.to_owned()));
    };
    command(&["add-port", &wish.bridge, port]);
    let (path, mark) = (format!("options:vhost-server-path={socket}"), format!("external_ids:{key}={value}"));
    command(&["set", "Interface", port, &format!("type={KIND}"), &path, &format!("mtu_request={mtu}")]);
    command(&["set", "Port", port, &mark]);
    command(&["--id=@output", "get", "Port", port]);
    let name = format!("name={mirror}");
    let mut create = vec!["--id=@mirror", "create", "Mirror", &name, "output_port=@output", &mark];
    let selected;
    match &wish.select {
        Select::All => create.push("select_all=true"),
        Select::Ports(ports) => {
            for (index, port) in ports.iter().enumerate() {
                if !snapshot.ports_of(bridge).any(|known| known.name == *port) {
                    return Err(OvsError::NoPort { bridge: wish.bridge.clone(), port: port.clone() });
                }
                command(&[&format!("--id=@port{index}"), "get", "Port", port]);
            }
            let ids: Vec<_> = (0..ports.len()).map(|index| format!("@port{index}")).collect();
            selected = ["src", "dst"].map(|side| format!("select_{side}_port={}", ids.join(",")));
            create.extend(selected.iter().map(String::as_str));
        }
    }
    command(&create);
    command(&["add", "Bridge", &wish.bridge, "mirrors", "@mirror"]);
    Ok(words)
}

/// What has to be done to take away what [`attach`] made.
///
/// # Errors
/// Why it cannot be taken away.
pub fn detach(snapshot: &Snapshot, bridge: &str) -> Result<Vec<String>, OvsError> {
    let found = snapshot.bridge(bridge)?;
    not_shared(snapshot, found)?;
    let named = |name: &str| {
        if is_name(name) { Ok(()) } else { Err(OvsError::Garbled("a name that we did not give")) }
    };
    named(bridge)?;
    let mut words: Vec<String> = Vec::new();
    for mirror in snapshot.mirrors_of(found).filter(|mirror| mirror.ours) {
        words.extend(["--", "remove", "Bridge", bridge, "mirrors", &mirror.uuid].map(str::to_owned));
    }
    for port in snapshot.ports_of(found).filter(|port| port.ours) {
        named(&port.name)?;
        words.extend(["--", "del-port", bridge, &port.name].map(str::to_owned));
    }
    if words.is_empty() { Err(OvsError::NotAttached(bridge.to_owned())) } else { Ok(words) }
}

/// No mirror but ours outputs to our port.
fn not_shared(snapshot: &Snapshot, bridge: &Bridge) -> Result<(), OvsError> {
    for port in snapshot.ports_of(bridge).filter(|port| port.ours) {
        let others = snapshot.mirrors.iter().filter(|mirror| !mirror.ours);
        if let Some(other) = others.into_iter().find(|mirror| mirror.output_port.as_ref() == Some(&port.uuid))
        {
            let mirror = if other.name.is_empty() { &other.uuid } else { &other.name };
            return Err(OvsError::Foreign { mirror: mirror.clone(), port: port.name.clone() });
        }
    }
    Ok(())
}

/// What of an attached mirror is not as it is wished.
fn difference(attached: &Attached, wish: &Wish) -> Option<String> {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    if attached.port.as_ref() != Some(&wish.port) {
        return Some(format!("the port {}", text(&attached.port)));
    }
    if attached.mirror.as_ref() != Some(&wish.mirror) {
        return Some(format!("the mirror {}", text(&attached.mirror)));
    }
    if attached.socket.as_ref() != Some(&wish.socket) {
        return Some(format!("the socket {}", text(&attached.socket)));
    }
    if attached.mtu != Some(wish.mtu.into()) {
        return Some(format!("the MTU {}", attached.mtu.unwrap_or(0)));
    }
    let sorted = |ports: &[String]| {
        let mut ports = ports.to_vec();
        ports.sort_unstable();
        ports.dedup();
        ports
    };
    let same = match &wish.select {
        Select::All => attached.select_all,
        Select::Ports(ports) => !attached.select_all && sorted(ports) == sorted(&attached.select),
    };
    let selected = || if attached.select_all { "all ports".to_owned() } else { attached.select.join(", ") };
    (!same).then(|| format!("{} selected", selected()))
}

/// Largest packet that DPDK's vhost library and virtio driver take, without header and FCS (`NETDEV_DPDK_MAX_PKT_LEN` of
/// OVS 3.1).
const MTU_MAX: u16 = 9702;
/// The least MTU of IPv6 (RFC 8200 section 5).
const MTU_MIN: u16 = 1280;

fn valid(wish: &Wish) -> Result<(), OvsError> {
    let bad = |what, value: &str, rule| Err(OvsError::BadValue { what, value: value.to_owned(), rule });
    let selected: &[String] = match &wish.select {
        Select::Ports(ports) => ports,
        Select::All => &[],
    };
    let names = [("the bridge", &wish.bridge), ("the port", &wish.port), ("the mirror", &wish.mirror)];
    for (what, name) in names.into_iter().chain(selected.iter().map(|port| ("the selected port", port))) {
        if !is_name(name) {
            return bad(what, name, "1 to 63 letters, digits and . _ : @ + -, the first a letter or digit");
        }
    }
    let good = |c: char| c.is_ascii_alphanumeric() || "/._-+@".contains(c);
    let socket = &wish.socket;
    if !socket.starts_with('/') || socket.ends_with('/') || socket.len() > 107 || !socket.chars().all(good) {
        return bad("the socket", socket, "an absolute path of at most 107 letters, digits and / . _ - + @");
    }
    if !(MTU_MIN..=MTU_MAX).contains(&wish.mtu) {
        return bad("the MTU", &wish.mtu.to_string(), "1280 to 9702");
    }
    Ok(())
}

/// Whether `ovs-vsctl` takes this for a name and nothing else.
fn is_name(name: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || "._:@+-".contains(c);
    name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && name.len() <= 63
        && name.chars().all(good)
}

/// A command as a line for a shell.
#[must_use]
pub fn quoted(command: &[String]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@:=,".contains(c);
    let word = |word: &String| {
        if !word.is_empty() && word.chars().all(plain) {
            word.clone()
        } else {
            format!("'{}'", word.replace('\'', "'\\''"))
        }
    };
    command.iter().map(word).collect::<Vec<_>>().join(" ")
}
