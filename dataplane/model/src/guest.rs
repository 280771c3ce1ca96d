//! What a policy may name instead of an address, and what it stands for now: a virtual machine, or a port of a virtual
//! switch.
//!
//! A validated policy keeps the name ([`AddressSet::guests`]); [`PolicySet::resolved`] puts in what it stands for at the
//! moment. So a machine that moves or changes its address changes no policy, only what its name stands for.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use crate::{AddressSet, Policy, PolicySet, Side};

/// What has a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GuestKind {
    /// A virtual machine: all its interfaces.
    Vm,
    /// A port of the switch, or one of its interfaces.
    Port,
}

impl GuestKind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Vm, Self::Port];

    /// What stands before a name of this kind.
    #[must_use]
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Vm => "vm:",
            Self::Port => "port:",
        }
    }

    /// The kind in words.
    #[must_use]
    pub const fn noun(self) -> &'static str {
        match self {
            Self::Vm => "virtual machine",
            Self::Port => "port",
        }
    }
}

/// A name with its kind: `vm:web-1`, `port:vnet3`.
///
/// ```
/// use sluice_model::{GuestKind, GuestName};
///
/// let name = GuestName::new(GuestKind::Vm, "web-1").unwrap();
/// assert_eq!(name.to_string(), "vm:web-1");
/// assert_eq!(GuestName::of("vm:web-1"), Some(Ok(name)));
/// assert_eq!(GuestName::of("10.0.0.1"), None);
/// assert!(GuestName::of("port:").unwrap().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GuestName {
    kind: GuestKind,
    name: Box<str>,
}

/// Why a text is no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GuestNameError {
    /// Nothing is left of it.
    #[error("no name follows the colon")]
    Empty,
    /// It is too long.
    #[error("a name has at most {} bytes", GuestName::MAX_BYTES)]
    Long,
    /// It has a control character, or a blank at an end.
    #[error("a name has no control characters, and no blanks at its ends")]
    Characters,
}

impl GuestName {
    /// The longest name, in bytes of UTF-8.
    pub const MAX_BYTES: usize = 255;

    /// A name.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(kind: GuestKind, name: &str) -> Result<Self, GuestNameError> {
        if name.is_empty() {
            Err(GuestNameError::Empty)
        } else if name.len() > Self::MAX_BYTES {
            Err(GuestNameError::Long)
        } else if name.trim() != name || name.chars().any(char::is_control) {
            Err(GuestNameError::Characters)
        } else {
            Ok(Self { kind, name: name.into() })
        }
    }

    /// The name that an element of an address list is; `None` when it is none at all.
    #[must_use]
    pub fn of(element: &str) -> Option<Result<Self, GuestNameError>> {
        GuestKind::ALL
            .into_iter()
            .find_map(|kind| Some(Self::new(kind, element.strip_prefix(kind.prefix())?)))
    }

    /// Its kind.
    #[must_use]
    pub const fn kind(&self) -> GuestKind {
        self.kind
    }

    /// The name without its kind.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for GuestName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.prefix())?;
        f.write_str(&self.name)
    }
}

/// What names stand for at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guests(BTreeMap<GuestName, AddressSet>);

impl Guests {
    /// Adds addresses to those that a name stands for.
    pub fn add(&mut self, name: GuestName, addresses: &AddressSet) {
        let known = self.0.entry(name).or_default();
        *known = AddressSet::union([&*known, addresses].into_iter());
    }

    /// What a name stands for; `None` when nothing has it.
    #[must_use]
    pub fn get(&self, name: &GuestName) -> Option<&AddressSet> {
        self.0.get(name)
    }

    /// Whether a name stands for no address now: nothing has it, or nothing tells an address of what has it.
    #[must_use]
    pub fn is_silent(&self, name: &GuestName) -> bool {
        self.get(name).is_none_or(|set| *set == AddressSet::default())
    }

    /// The names, in their order: virtual machines first.
    pub fn names(&self) -> impl Iterator<Item = &GuestName> {
        self.0.keys()
    }

    /// How many names of this kind there are.
    #[must_use]
    pub fn count(&self, kind: GuestKind) -> usize {
        self.0.keys().filter(|name| name.kind() == kind).count()
    }
}

impl AddressSet {
    /// All members of several sets in one.
    #[must_use]
    pub fn union<'s>(sets: impl Iterator<Item = &'s Self> + Clone) -> Self {
        fn sorted<T: Ord>(members: impl Iterator<Item = T>) -> Vec<T> {
            let mut members: Vec<T> = members.collect();
            members.sort_unstable();
            members.dedup();
            members
        }
        Self {
            ipv4: sets.clone().flat_map(|set| set.ipv4.iter()).collect(),
            ipv6: sets.clone().flat_map(|set| set.ipv6.iter()).collect(),
            macs: sorted(sets.clone().flat_map(|set| set.macs.iter().copied())),
            guests: sorted(sets.flat_map(|set| set.guests.iter().cloned())),
        }
    }

    /// The set with what its names stand for; the names stay. A name that nothing has stands for no address.
    #[must_use]
    pub fn resolved(&self, guests: &Guests) -> Self {
        let named: Vec<&Self> = self.guests.iter().filter_map(|name| guests.get(name)).collect();
        Self::union(std::iter::once(self).chain(named.iter().copied()))
    }
}

impl Side {
    fn resolve(&mut self, guests: &Guests, shared: &mut HashMap<usize, Arc<AddressSet>>) {
        for set in self.addresses.iter_mut().filter(|set| !set.guests.is_empty()) {
            let resolved =
                shared.entry(Arc::as_ptr(set).addr()).or_insert_with(|| Arc::new(set.resolved(guests)));
            *set = Arc::clone(resolved);
        }
    }
}

impl Policy {
    /// The policy with what its names stand for.
    #[must_use]
    pub fn resolved(&self, guests: &Guests) -> Self {
        let (mut policy, mut shared) = (self.clone(), HashMap::new());
        policy.collect.resolve(guests, &mut shared);
        policy.peer.resolve(guests, &mut shared);
        policy
    }
}

impl PolicySet {
    /// The most addresses that the names of a set may stand for, see [`PolicySet::named_addresses`].
    pub const MAX_NAMED_ADDRESSES: usize = 1 << 20;

    /// How many addresses its names stand for: for each list of addresses those of all its names. Who tells what names
    /// stand for is another program: this is to be held against the bound before they are put in.
    #[must_use]
    pub fn named_addresses(&self, guests: &Guests) -> usize {
        let size = |set: &AddressSet| set.ipv4.iter().len() + set.ipv6.iter().len() + set.macs.len();
        let sides = self.policies().iter().flat_map(|policy| [&policy.collect, &policy.peer]);
        let mut counted = HashSet::new();
        let lists = sides.flat_map(|side| &side.addresses).filter(|set| counted.insert(Arc::as_ptr(set)));
        lists.flat_map(|set| &set.guests).filter_map(|name| guests.get(name)).map(size).sum()
    }

    /// The names that its policies have, each once.
    #[must_use]
    pub fn guest_names(&self) -> BTreeSet<&GuestName> {
        let sides = self.policies().iter().flat_map(|policy| [&policy.collect, &policy.peer]);
        sides.flat_map(|side| &side.addresses).flat_map(|set| &set.guests).collect()
    }

    /// The set with what its names stand for, to be compiled. A side whose names stand for nothing holds no address, and
    /// matches nothing: never everything. To be made of the set as it was validated, not of one that was resolved before.
    ///
    /// ```
    /// use sluice_model::spec::parse_policy;
    /// use sluice_model::{AddressSet, Guests};
    ///
    /// let text = "[[policy]]\nname = \"web\"\ncollect = { addresses = [\"vm:web-1\"] }\naction = \"drop\"\n";
    /// let set = parse_policy("policy.toml", text).unwrap().value;
    /// let name = (*set.guest_names().first().unwrap()).clone();
    /// let mut guests = Guests::default();
    /// let macs = vec!["02:00:00:00:00:01".parse().unwrap()];
    /// guests.add(name, &AddressSet { macs: macs.clone(), ..AddressSet::default() });
    /// assert_eq!(set.resolved(&guests).policies()[0].collect.addresses[0].macs, macs);
    /// ```
    #[must_use]
    pub fn resolved(&self, guests: &Guests) -> Cow<'_, Self> {
        if self.guest_names().is_empty() {
            return Cow::Borrowed(self);
        }
        let mut shared = HashMap::new();
        let mut policies = self.policies().to_vec();
        for policy in &mut policies {
            policy.collect.resolve(guests, &mut shared);
            policy.peer.resolve(guests, &mut shared);
        }
        // The references of policies to destinations are what they were.
        Cow::Owned(Self::new(policies, self.destinations().to_vec()).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MacAddr;
    use crate::contract::{address_set, policy_set};
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn vm(name: &str) -> GuestName {
        GuestName::new(GuestKind::Vm, name).unwrap()
    }

    fn mac(last: u8) -> AddressSet {
        AddressSet { macs: vec![MacAddr([2, 0, 0, 0, 0, last])], ..AddressSet::default() }
    }

    #[test]
    fn names_are_told_from_addresses() {
        assert_eq!(GuestName::of("port:vnet 3").unwrap().unwrap().name(), "vnet 3");
        assert_eq!(GuestName::of("vm:a:b").unwrap().unwrap().name(), "a:b");
        for none in ["", "VM:a", "2001:db8::1", "02:00:00:00:00:01", "@vm:a"] {
            assert_eq!(GuestName::of(none), None, "{none}");
        }
        for (wrong, why) in [
            ("vm:", GuestNameError::Empty),
            ("port: a", GuestNameError::Characters),
            ("vm:a\u{1b}", GuestNameError::Characters),
        ] {
            assert_eq!(GuestName::of(wrong), Some(Err(why)));
        }
        assert_eq!(GuestName::new(GuestKind::Vm, &"x".repeat(256)), Err(GuestNameError::Long));
    }

    #[test]
    fn names_gather_and_stand_for_what_they_stand_for_now() {
        let mut guests = Guests::default();
        guests.add(vm("a"), &mac(1));
        guests.add(vm("a"), &mac(2));
        guests.add(GuestName::new(GuestKind::Port, "p").unwrap(), &mac(2));
        assert_eq!((guests.count(GuestKind::Vm), guests.count(GuestKind::Port)), (1, 1));
        assert_eq!(guests.get(&vm("a")).unwrap().macs.len(), 2);
        guests.add(vm("c"), &AddressSet::default());
        assert!(guests.is_silent(&vm("b")) && guests.is_silent(&vm("c")) && !guests.is_silent(&vm("a")));
        let set = AddressSet { guests: vec![vm("a"), vm("b")], ..mac(9) };
        let resolved = set.resolved(&guests);
        assert_eq!((resolved.macs.len(), resolved.guests.len()), (3, 2));
        assert_eq!(set.resolved(&Guests::default()), set, "names without anything add nothing");
    }

    #[test]
    fn a_list_counts_once_however_many_policies_have_it() {
        let mut guests = Guests::default();
        guests.add(vm("a"), &mac(1));
        guests.add(vm("a"), &mac(2));
        let text = "[[group]]\nname = \"web\"\naddresses = [\"vm:a\", \"vm:nobody\"]\n\
                    [[policy]]\nname = \"1\"\ncollect = { addresses = [\"@web\"] }\npeer = { addresses = [\"vm:a\"] }\n\
                    action = \"drop\"\n\
                    [[policy]]\nname = \"2\"\npeer = { addresses = [\"@web\"] }\naction = \"drop\"\n";
        let set = crate::spec::parse_policy("p", text).unwrap().value;
        assert_eq!((set.named_addresses(&guests), set.named_addresses(&Guests::default())), (4, 0));
    }

    proptest! {
        #[test]
        fn a_set_holds_what_it_held_and_what_its_names_stand_for(
            set in policy_set(), addresses in vec(address_set(), 1..4)
        ) {
            let mut guests = Guests::default();
            for (name, addresses) in set.guest_names().into_iter().zip(addresses.iter().cycle()).step_by(2) {
                guests.add(name.clone(), &AddressSet { guests: Vec::new(), ..addresses.clone() });
            }
            let resolved = set.resolved(&guests);
            prop_assert_eq!(resolved.policies().len(), set.policies().len());
            for (after, before) in resolved.policies().iter().zip(set.policies()) {
                let sides = [(&after.collect, &before.collect), (&after.peer, &before.peer)];
                for (after, before) in sides {
                    // Never fewer sets, so that none becomes any address.
                    prop_assert_eq!(after.addresses.len(), before.addresses.len());
                    for (after, before) in after.addresses.iter().zip(&before.addresses) {
                        let named = before.guests.iter().filter_map(|name| guests.get(name));
                        let expected = AddressSet::union(named.chain([&**before]).collect::<Vec<_>>().into_iter());
                        prop_assert_eq!(&**after, &expected);
                    }
                }
            }
            let none = set.resolved(&Guests::default());
            prop_assert_eq!(none.as_ref(), &set);
        }
    }
}
