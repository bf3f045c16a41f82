//! The section `[telegram]`.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::Resolver;
use super::routes::Ways;
use crate::config::layer::{TelegramWritten, Written};
use crate::config::report::Complaint;
use crate::config::units;
use crate::telegram::{DcId, Family, Settings};

const FAMILIES: &[(&str, Family)] = &[("ipv4", Family::Ipv4), ("ipv6", Family::Ipv6)];

impl Resolver<'_> {
    pub(super) fn telegram(&mut self, written: TelegramWritten, ways: &Ways) -> Settings {
        let usual = Settings::default();
        Settings {
            overrides: self.data_centres(written.addresses),
            prefer: self.choice(written.prefer, FAMILIES).unwrap_or_default(),
            routes: self.telegram_routes(written.routes, ways),
            warm: self.value(written.warm, units::up_to_64).unwrap_or(usual.warm),
            refresh: written.refresh.map_or(usual.refresh, |refresh| refresh.value),
            lists: written.lists.filter(|lists| self.url(lists)).map_or(usual.lists, |lists| lists.value),
        }
    }

    pub(super) fn data_centres(
        &mut self,
        written: Vec<(Written<String>, Vec<Written<String>>)>,
    ) -> BTreeMap<DcId, Vec<SocketAddr>> {
        let mut overrides = BTreeMap::new();
        for (number, texts) in written {
            let addresses: Vec<_> = texts.iter().filter_map(|text| self.check(text, units::socket_address)).collect();
            match number.value.parse::<DcId>() {
                Ok(id) if id.number() != 0 => {
                    if texts.is_empty() && self.whole {
                        let what = "this data centre has no address";
                        self.complaints.push(Complaint::new(&number.at, what, "name one, or remove the line"));
                    }
                    overrides.insert(id, addresses);
                }
                _ => {
                    let fix = "write a number such as 2, -2 for its media, 203 or 10002 for a test centre";
                    self.complaints.push(Complaint::new(&number.at, "not the number of a data centre", fix));
                }
            }
        }
        overrides
    }
}
