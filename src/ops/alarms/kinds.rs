//! What there is to hear of, and how it is put.

use serde_json::json;

use crate::auth::UnixTime;
use crate::telegram::DcId;

/// Something that an operator should hear of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Alarm {
    /// A user comes from many networks: the link may have been handed on.
    Networks {
        /// The user.
        user: String,
        /// From how many at least.
        networks: usize,
    },
    /// Spent hellos of a user are shown again: someone has recorded connections and tries them.
    Replays {
        /// The user.
        user: String,
        /// Number within the hour.
        count: u32,
    },
    /// Far more hellos are declined than usual.
    Declines {
        /// Number within ten minutes.
        count: u64,
        /// Usual number.
        usual: u64,
    },
    /// The certificate of the site ends soon, or has ended.
    Certificate {
        /// Days that are left; negative afterwards.
        days: i64,
    },
    /// The authority issues no certificate.
    Issuance {
        /// Attempts in a row that failed.
        failures: u32,
    },
    /// The cover cannot be reached.
    CoverAway,
    /// The cover accepts connections and has no handshake for admitted clients.
    CoverFails,
    /// The cover answers otherwise than before.
    CoverChanged,
    /// A data centre cannot be reached.
    DataCentre {
        /// Which.
        dc: DcId,
    },
    /// Many clients are off by the same: it is this server's clock that is.
    Clock {
        /// By how many seconds the clients are ahead of it.
        ahead: i64,
        /// Number of clients that agree.
        clients: usize,
    },
    /// Servers whose word counts say that this server's clock is off.
    ClockByDate {
        /// By how many seconds their clocks are ahead of it.
        ahead: i64,
        /// Which servers.
        by: &'static str,
    },
    /// The configuration could not be taken at a reload.
    Refused {
        /// Number of complaints.
        complaints: usize,
    },
    /// A user has spent most or all of a quota.
    Quota {
        /// The user.
        user: String,
        /// Percentage of it.
        percent: u8,
    },
}

impl Alarm {
    /// All names.
    pub const KINDS: [&str; 12] = [
        "networks",
        "replays",
        "declines",
        "certificate",
        "cover away",
        "cover changed",
        "data centre",
        "quota",
        "issuance",
        "clock",
        "configuration refused",
        "cover fails",
    ];

    /// A short name.
    pub fn kind(&self) -> &'static str {
        Self::KINDS[self.number()]
    }

    pub(super) fn number(&self) -> usize {
        match self {
            Self::Networks { .. } => 0,
            Self::Replays { .. } => 1,
            Self::Declines { .. } => 2,
            Self::Certificate { .. } => 3,
            Self::CoverAway => 4,
            Self::CoverChanged => 5,
            Self::DataCentre { .. } => 6,
            Self::Quota { .. } => 7,
            Self::Issuance { .. } => 8,
            Self::Clock { .. } | Self::ClockByDate { .. } => 9,
            Self::Refused { .. } => 10,
            Self::CoverFails => 11,
        }
    }

    /// Whom or what it is about.
    pub fn subject(&self) -> Option<String> {
        match self {
            Self::Networks { user, .. } | Self::Replays { user, .. } => Some(user.clone()),
            Self::Quota { user, percent } => Some(format!("{user} {percent} %")),
            Self::DataCentre { dc } => Some(dc.to_string()),
            _ => None,
        }
    }

    /// The alarm in a sentence.
    pub fn text(&self) -> String {
        match self {
            Self::Networks { user, networks } => {
                format!("{user} came from {networks} networks within a day: the link may have been handed on")
            }
            Self::Replays { user, count } => {
                format!("{count} recorded hellos of {user} were shown again within an hour")
            }
            Self::Declines { count, usual } => {
                format!("{count} hellos were declined within ten minutes, where {usual} are usual")
            }
            Self::Certificate { days } if *days < 0 => "the certificate of the site has ended".into(),
            Self::Certificate { days } => format!("the certificate of the site ends in {days} days"),
            Self::Refused { complaints } => {
                format!(
                    "the configuration was not taken at a reload ({complaints} complaints): see the log or `vizard check`"
                )
            }
            Self::Issuance { failures } => {
                format!(
                    "the authority issued no certificate, {failures} times in a row: see the log or `vizard doctor`"
                )
            }
            Self::Clock { ahead, clients } => {
                format!(
                    "the clock of this server is {} by the clocks of {clients} clients, \
                     which are rejected because of it: set it, and keep it in sync by NTP (`timedatectl`)",
                    off(*ahead)
                )
            }
            Self::ClockByDate { ahead, by } => format!(
                "the clock of this server is {} of {by}, and clients may be rejected because of it: set it, and keep \
                 it in sync by NTP (`timedatectl`)",
                off(*ahead)
            ),
            Self::CoverAway => "the cover cannot be reached".into(),
            Self::CoverFails => {
                "the cover accepts connections and has no handshake for clients: they get a substitute, which visitors \
                 do not. Check the cover's web server; `vizard status` shows when it works again"
                    .into()
            }
            Self::CoverChanged => "the cover answers differently than before".into(),
            Self::DataCentre { dc } => format!("data centre {dc} cannot be reached"),
            Self::Quota { user, percent } => format!("{user} has used {percent} % of the quota"),
        }
    }

    pub(super) fn json(&self, now: UnixTime) -> String {
        let user = match self {
            Self::Networks { user, .. } | Self::Replays { user, .. } | Self::Quota { user, .. } => Some(user),
            _ => None,
        };
        json!({ "alarm": self.kind(), "user": user, "text": self.text(), "time": now.0 }).to_string()
    }
}

/// Describes the error of a clock to which others are ahead by so much.
fn off(ahead: i64) -> String {
    let minutes = ahead.saturating_abs() / 60;
    let (hours, minutes) = (minutes / 60, minutes % 60);
    let direction = if ahead > 0 { "behind" } else { "ahead" };
    format!("{hours} h {minutes} min {direction}")
}
