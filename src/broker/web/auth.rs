//! Who may look at the page: codes that open it once, and the sessions that they became.
//!
//! A session is two secrets. The cookie is the browser's, and no script can read it; but a browser sends
//! it to every port of this machine. The key is the page's own, which no other port ever gets. Only who
//! has both is let in.
//!
//! **Invariant:** nothing of this is written anywhere; it ends with the broker.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use subtle::ConstantTimeEq;

/// A code that nobody used by then is worth nothing.
const CODE_LASTS: Duration = Duration::from_secs(60);
/// Codes that wait to be used; the oldest goes first.
const CODES_MAX: usize = 8;
/// A session that was not used for so long is over.
const SESSION_LASTS: Duration = Duration::from_secs(12 * 3600);
/// Sessions at once; the one that was not used for longest goes first.
const SESSIONS_MAX: usize = 16;

/// Codes and sessions, for both threads.
pub struct Keys {
    chance: fn() -> u128,
    inside: Mutex<Inside>,
}

#[derive(Default)]
struct Inside {
    codes: Vec<(String, Instant)>,
    sessions: Vec<Session>,
}

struct Session {
    cookie: String,
    /// None until its page has asked for it, which it does once.
    key: Option<String>,
    used: Instant,
}

impl Keys {
    /// None yet. `chance` gives what nobody can guess.
    pub fn new(chance: fn() -> u128) -> Keys {
        Keys { chance, inside: Mutex::default() }
    }

    /// A new code.
    pub fn code(&self, now: Instant) -> String {
        let code = self.fresh();
        let mut inside = self.inside(now);
        make_room(&mut inside.codes, CODES_MAX);
        inside.codes.push((code.clone(), now));
        code
    }

    /// A code becomes a session, whose cookie this is; if it is one, and was not used before.
    pub fn redeem(&self, code: &str, now: Instant) -> Option<String> {
        let mut inside = self.inside(now);
        let place = find(&inside.codes, |(known, _)| is_same(known, code))?;
        inside.codes.remove(place);
        make_room(&mut inside.sessions, SESSIONS_MAX);
        let cookie = self.fresh();
        inside.sessions.push(Session { cookie: cookie.clone(), key: None, used: now });
        Some(cookie)
    }

    /// The key of a session, for who asks first.
    pub fn claim(&self, cookie: &str, now: Instant) -> Option<String> {
        let mut inside = self.inside(now);
        let place = find(&inside.sessions, |session| is_same(&session.cookie, cookie))?;
        let session = inside.sessions.get_mut(place).filter(|session| session.key.is_none())?;
        session.key = Some(self.fresh());
        session.key.clone()
    }

    /// Whether these belong to one session.
    pub fn admits(&self, cookie: &str, key: &str, now: Instant) -> bool {
        let mut inside = self.inside(now);
        let fits = |session: &Session| {
            let key = session.key.as_deref().is_some_and(|known| is_same(known, key));
            is_same(&session.cookie, cookie) & key
        };
        let Some(place) = find(&inside.sessions, fits) else { return false };
        let mut session = inside.sessions.remove(place);
        session.used = now;
        inside.sessions.push(session);
        true
    }

    /// What is still good.
    fn inside(&self, now: Instant) -> MutexGuard<'_, Inside> {
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        inside.codes.retain(|(_, made)| now.saturating_duration_since(*made) < CODE_LASTS);
        inside.sessions.retain(|session| now.saturating_duration_since(session.used) < SESSION_LASTS);
        inside
    }

    fn fresh(&self) -> String {
        format!("{:032x}", (self.chance)())
    }
}

/// Looks at all of them, so that how long it takes does not tell which it was.
fn find<T>(list: &[T], fits: impl Fn(&T) -> bool) -> Option<usize> {
    list.iter().enumerate().fold(None, |found, (n, item)| if fits(item) { Some(n) } else { found })
}

fn is_same(known: &str, given: &str) -> bool {
    known.as_bytes().ct_eq(given.as_bytes()).into()
}

/// Drops the oldest, which stands first.
fn make_room<T>(list: &mut Vec<T>, max: usize) {
    let n_over = (list.len() + 1).saturating_sub(max);
    list.drain(..n_over);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    fn keys() -> Keys {
        static N: AtomicU64 = AtomicU64::new(1);
        Keys::new(|| u128::from(N.fetch_add(1, Ordering::Relaxed)))
    }

    #[test]
    fn a_code_opens_once_and_within_a_minute() {
        let (keys, now) = (keys(), Instant::now());
        let (one, two) = (keys.code(now), keys.code(now));
        assert_eq!(keys.redeem("", now), None);
        let cookie = keys.redeem(&one, now).unwrap();
        assert_eq!(keys.redeem(&one, now), None);
        assert_ne!(cookie, one);
        assert_eq!(keys.redeem(&two, now + CODE_LASTS), None);
    }

    #[test]
    fn cookie_and_key_let_in_together_only() {
        let (keys, now) = (keys(), Instant::now());
        let (one, two) = [(); 2].map(|()| keys.redeem(&keys.code(now), now).unwrap()).into();
        assert!(!keys.admits(&one, "", now), "no key was given out yet");
        let (key, other) = (keys.claim(&one, now).unwrap(), keys.claim(&two, now).unwrap());
        assert_eq!(keys.claim(&one, now), None, "a key is given out once");
        assert!(keys.admits(&one, &key, now));
        assert!(!keys.admits(&one, &other, now) && !keys.admits(&key, &one, now) && !keys.admits("", &key, now));
        let late = now + SESSION_LASTS / 2;
        assert!(keys.admits(&one, &key, late));
        assert!(keys.admits(&one, &key, now + SESSION_LASTS), "it was used since");
        assert!(!keys.admits(&two, &other, now + SESSION_LASTS));
    }

    #[test]
    fn there_are_only_so_many() {
        let (keys, now) = (keys(), Instant::now());
        let codes: Vec<String> = (0..=CODES_MAX).map(|_| keys.code(now)).collect();
        assert_eq!(keys.redeem(&codes[0], now), None);
        assert!(keys.redeem(&codes[1], now).is_some());
        let cookies: Vec<String> = (0..=SESSIONS_MAX).map(|_| keys.redeem(&keys.code(now), now).unwrap()).collect();
        assert_eq!(keys.claim(&cookies[0], now), None);
        assert!(keys.claim(&cookies[1], now).is_some());
    }
}
