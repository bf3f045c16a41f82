//! What a member may do: plain data, and the part of the decision that needs nothing else.

use std::net::IpAddr;

use ipnet::IpNet;

use super::member::Refusal;
use super::period::Period;
use super::secret::Domain;
use super::window::UnixTime;
use crate::wire::rpc::AdTag;

/// Limits of a member. The default has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Whether the member may enter at all.
    pub enabled: bool,
    /// From then on not any more.
    pub expires: Option<UnixTime>,
    /// Quota of traffic.
    pub quota: Option<Quota>,
    /// Bytes from the client in a second, all sessions together.
    pub bandwidth_up: Option<u64>,
    /// Bytes to the client in a second, all sessions together.
    pub bandwidth_down: Option<u64>,
    /// Most sessions at once. Clients open 13 to 18 each.
    pub max_sessions: Option<u32>,
    /// Most addresses at once; IPv6 addresses of one /64 are one.
    pub max_addresses: Option<u32>,
    /// Networks that the member may come from; none: from anywhere.
    pub allow: Vec<IpNet>,
    /// Networks that the member may not come from, even if that is allowed.
    pub deny: Vec<IpNet>,
    /// In whose name the member's sessions go, which shows a channel to the member.
    pub ad_tag: Tagging,
    /// Sessions that go through middle proxies without a tag, where the member has them otherwise than others.
    pub middle: Option<MiddleUse>,
    /// Name of the site that the member's link carries, where it is not the first.
    pub domain: Option<Domain>,
    /// Note of the operator.
    pub note: Option<String>,
}

/// Which tag a member's sessions carry. Sessions with a tag go through middle proxies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tagging {
    /// That of everybody, if there is one.
    #[default]
    AsAll,
    /// One of the member's own.
    Own(AdTag),
    /// None, whatever there is for everybody.
    Without,
}

impl Tagging {
    /// The tag, given the one of everybody.
    pub fn or(self, of_all: Option<AdTag>) -> Option<AdTag> {
        match self {
            Self::AsAll => of_all,
            Self::Own(tag) => Some(tag),
            Self::Without => None,
        }
    }
}

/// Sessions that go through middle proxies. Accounts without Premium may get no media from data centres that are reached
/// directly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MiddleUse {
    /// Those with a tag.
    #[default]
    Tagged,
    /// The same, and all with data centres for media.
    Media,
    /// All.
    All,
}

impl MiddleUse {
    /// All of them, with their names.
    pub const NAMES: [(&str, Self); 3] = [("tagged", Self::Tagged), ("media", Self::Media), ("all", Self::All)];

    /// The name in the configuration.
    pub fn label(self) -> &'static str {
        match self {
            Self::Tagged => "tagged",
            Self::Media => "media",
            Self::All => "all",
        }
    }
}

/// Way of a session through a middle proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MiddleWay {
    /// In whose name the session goes, if in anyone's.
    pub tag: Option<AdTag>,
}

/// Limit of bytes in a period, both ways together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Bytes.
    pub bytes: u64,
    /// The time.
    pub period: Period,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            enabled: true,
            expires: None,
            quota: None,
            bandwidth_up: None,
            bandwidth_down: None,
            max_sessions: None,
            max_addresses: None,
            allow: Vec::new(),
            deny: Vec::new(),
            ad_tag: Tagging::AsAll,
            middle: None,
            domain: None,
            note: None,
        }
    }
}

impl Policy {
    /// The way of a session through a middle proxy, given what holds for everybody; `None` if it goes directly. `media`: its
    /// data centre is one for media.
    pub fn middle_way(&self, tag_of_all: Option<AdTag>, use_of_all: MiddleUse, media: bool) -> Option<MiddleWay> {
        let tag = self.ad_tag.or(tag_of_all);
        let goes = tag.is_some()
            || match self.middle.unwrap_or(use_of_all) {
                MiddleUse::Tagged => false,
                MiddleUse::Media => media,
                MiddleUse::All => true,
            };
        goes.then_some(MiddleWay { tag })
    }

    /// Whether any session goes through a middle proxy.
    pub fn needs_middle(&self, tag_of_all: Option<AdTag>, use_of_all: MiddleUse) -> bool {
        self.middle_way(tag_of_all, use_of_all, true).is_some()
    }

    /// Whether one who comes from here may be inside now, as far as this can be said without counting.
    pub fn admits(&self, from: IpAddr, now: UnixTime) -> Result<(), Refusal> {
        let from = from.to_canonical();
        let within = |networks: &[IpNet]| networks.iter().any(|network| network.contains(&from));
        if !self.enabled {
            return Err(Refusal::Disabled);
        }
        if self.expires.is_some_and(|end| now >= end) {
            return Err(Refusal::Expired);
        }
        if within(&self.deny) {
            return Err(Refusal::DeniedNetwork);
        }
        if !self.allow.is_empty() && !within(&self.allow) {
            return Err(Refusal::OtherNetwork);
        }
        Ok(())
    }

    /// Whether a session has to ask before it moves bytes.
    pub(super) fn is_metered(&self) -> bool {
        self.quota.is_some() || self.bandwidth_up.is_some() || self.bandwidth_down.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixTime = UnixTime(1_767_225_600);

    #[test]
    fn a_tag_of_ones_own_or_none_goes_before_that_of_all() {
        let (all, own) = (Some(AdTag([1; 16])), AdTag([2; 16]));
        assert_eq!(
            [Tagging::AsAll.or(all), Tagging::Own(own).or(all), Tagging::Without.or(all)],
            [all, Some(own), None]
        );
        assert_eq!([Tagging::AsAll.or(None), Tagging::Own(own).or(None)], [None, Some(own)]);
    }

    #[test]
    fn each_limit_has_its_own_refusal() {
        let networks = |text: &str| vec![text.parse::<IpNet>().unwrap()];
        let policy = Policy::default;
        let here: IpAddr = "192.0.2.7".parse().unwrap();
        let cases = [
            (policy(), Ok(())),
            (Policy { enabled: false, ..policy() }, Err(Refusal::Disabled)),
            (Policy { expires: Some(NOW), ..policy() }, Err(Refusal::Expired)),
            (Policy { expires: Some(UnixTime(NOW.0 + 1)), ..policy() }, Ok(())),
            (Policy { deny: networks("192.0.2.0/24"), ..policy() }, Err(Refusal::DeniedNetwork)),
            (Policy { deny: networks("192.0.3.0/24"), ..policy() }, Ok(())),
            (Policy { allow: networks("192.0.2.7/32"), ..policy() }, Ok(())),
            (Policy { allow: networks("2001:db8::/32"), ..policy() }, Err(Refusal::OtherNetwork)),
            (
                Policy { allow: networks("192.0.2.0/24"), deny: networks("192.0.2.4/30"), ..policy() },
                Err(Refusal::DeniedNetwork),
            ),
        ];
        for (policy, expected) in cases {
            assert_eq!(policy.admits(here, NOW), expected, "{policy:?}");
            assert_eq!(policy.admits("::ffff:192.0.2.7".parse().unwrap(), NOW), expected, "{policy:?}");
        }
    }

    #[test]
    fn sessions_go_through_middle_proxies_for_their_tag_or_as_the_member_or_all_have_them() {
        use MiddleUse::{All, Media, Tagged};
        let tag = Some(AdTag([1; 16]));
        let way = |tag| Some(MiddleWay { tag });
        for (of_member, of_all, main, media) in [
            (None, Tagged, None, None),
            (None, Media, None, way(None)),
            (None, All, way(None), way(None)),
            (Some(Tagged), All, None, None),
            (Some(Media), Tagged, None, way(None)),
            (Some(All), Media, way(None), way(None)),
        ] {
            let policy = Policy { middle: of_member, ..Policy::default() };
            let ways = [false, true].map(|is_media| policy.middle_way(None, of_all, is_media));
            assert_eq!(ways, [main, media], "{of_member:?} {of_all:?}");
            assert_eq!(policy.needs_middle(None, of_all), media.is_some());
            assert_eq!(policy.middle_way(tag, of_all, false), way(tag), "a tag takes all along");
            let without = Policy { ad_tag: Tagging::Without, ..policy };
            assert_eq!(without.middle_way(tag, of_all, true), media, "{of_member:?} {of_all:?}");
        }
        for (name, kind) in MiddleUse::NAMES {
            assert_eq!(kind.label(), name);
        }
    }
}
