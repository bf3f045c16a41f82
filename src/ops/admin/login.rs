//! Browsers that are logged in: a cookie in place of the token, and a second word that every form must repeat.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use data_encoding::BASE64URL_NOPAD;
use rand::CryptoRng;
use subtle::ConstantTimeEq;

use super::guard::Caller;
use super::token::{TokenHash, Tokens};

/// Time without activity after which a login ends.
const IDLE: Duration = Duration::from_secs(2 * 60 * 60);

/// Longest lifetime of a login.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// Logins at once. It takes a token to make one, so this bounds mistakes, not attacks.
const MOST: usize = 256;

/// Someone who is logged in.
#[derive(Clone, Debug)]
pub struct Login {
    /// Identity behind the login.
    pub caller: Caller,
    /// CSRF token that every form must repeat.
    pub csrf: String,
    /// Notice for the next page.
    pub notice: Option<String>,
    began: Instant,
    seen: Instant,
}

impl Login {
    /// Whether a form came from a page of ours.
    pub fn is_ours(&self, csrf: &str) -> bool {
        self.csrf.as_bytes().ct_eq(csrf.as_bytes()).into()
    }

    fn lives(&self, now: Instant) -> bool {
        now - self.began < LONGEST && now - self.seen < IDLE
    }
}

/// Everybody who is logged in. Kept by the hashes of cookies, so that finding one takes no time that tells of others.
#[derive(Debug, Default)]
pub struct Logins(Mutex<HashMap<String, Login>>);

impl Logins {
    /// Logs someone in, and returns the value of the cookie.
    pub fn begin(&self, caller: Caller, random: &mut impl CryptoRng, now: Instant) -> String {
        let cookie = word(random);
        let login = Login { caller, csrf: word(random), notice: None, began: now, seen: now };
        let mut logins = self.lock();
        logins.retain(|_, login| login.lives(now));
        if logins.len() >= MOST
            && let Some(oldest) = logins.iter().min_by_key(|(_, login)| login.seen).map(|(key, _)| key.clone())
        {
            logins.remove(&oldest);
        }
        logins.insert(key(&cookie), login);
        cookie
    }

    /// Finds the login with this cookie, if the token behind it still holds. Its notice is given out once.
    pub fn find(&self, cookie: &str, tokens: &Tokens, now: Instant) -> Option<Login> {
        let mut logins = self.lock();
        let login = logins.get_mut(&key(cookie)).filter(|login| login.lives(now) && tokens.knows(&login.caller))?;
        login.seen = now;
        let found = login.clone();
        login.notice = None;
        Some(found)
    }

    /// Leaves something for the next page to say.
    pub fn tell(&self, cookie: &str, notice: String) {
        if let Some(login) = self.lock().get_mut(&key(cookie)) {
            login.notice = Some(notice);
        }
    }

    /// Logs someone out.
    pub fn end(&self, cookie: &str) {
        self.lock().remove(&key(cookie));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Login>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(cookie: &str) -> String {
    TokenHash::of(cookie).to_string()
}

fn word(random: &mut impl CryptoRng) -> String {
    let mut bytes = [0; 32];
    random.fill_bytes(&mut bytes);
    BASE64URL_NOPAD.encode(&bytes)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;
    use crate::ops::admin::token::{Role, Token};

    #[test]
    fn a_login_ends_with_silence_with_time_with_its_token_and_when_it_is_ended() {
        let mut random = StdRng::seed_from_u64(1);
        let (logins, start) = (Logins::default(), Instant::now());
        let hash = TokenHash::of("x");
        let caller = Caller { name: "ops".into(), role: Role::Operator, token: Some(hash) };
        let token = |hash| Tokens::new(vec![Token { name: "ops".into(), role: Role::Operator, hash }]);
        let tokens = token(hash);
        let cookie = logins.begin(caller.clone(), &mut random, start);
        let found = |at: Duration| logins.find(&cookie, &tokens, start + at);
        let login = found(Duration::ZERO).unwrap();
        assert!(login.is_ours(&login.csrf) && !login.is_ours("") && !login.is_ours(&cookie));
        logins.tell(&cookie, "done".into());
        assert_eq!(found(Duration::ZERO).unwrap().notice.as_deref(), Some("done"));
        assert_eq!(found(IDLE - Duration::from_secs(1)).unwrap().notice, None, "it is said once");
        assert!(logins.find(&cookie, &Tokens::default(), start).is_none(), "the token was taken away");
        let other = token(TokenHash::of("y"));
        assert!(logins.find(&cookie, &other, start).is_none(), "another token has its name and role");
        assert!(found(2 * IDLE).is_none());
        let cookie = logins.begin(caller, &mut random, start);
        for hour in 0..24 {
            assert!(logins.find(&cookie, &tokens, start + Duration::from_secs(hour * 3600)).is_some());
        }
        assert!(logins.find(&cookie, &tokens, start + LONGEST).is_none());
        assert!(logins.find(&cookie, &tokens, start).is_some());
        logins.end(&cookie);
        assert!(logins.find(&cookie, &tokens, start).is_none());
    }
}
